#include "tests/bench/synthetic_trace.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <random>

#include "kernels/rope/rope.h"
#include "lib/base/status.h"
#include "tests/bench/synthetic_text.h"

namespace skv::bench {

namespace {

constexpr double kTheta = 500000.0;
constexpr float kKeyNoise = 0.05f;       // outside these directions
constexpr double kOrdinaryLogits = 2.0;  // standard deviation within a step
constexpr double kQueryCorrelation = 0.925;
constexpr double kShiftLogits = 3.0;      // the same of keys in the subspace that is asked in
constexpr float kMarked = 12.0f;          // length of heavy and needle keys; an ordinary key is sqrt(128) long
constexpr float kMarkedOrdinary = 0.25f;  // what is left in them of the ordinary key
constexpr double kOutlierLength = 10.0;
constexpr int64_t kTopicSteps = 8;
constexpr int64_t kRecent = 512;  // no needle is placed so near the prompt's end

// What a family adds to plain.
struct Family {
  const char* name;
  double outlier_share = 0.0;
  double bias = 0.0;          // norm, in spreads
  double quiet_logits = 0.0;  // standard deviation that bias or outlier keys alone give to logits
  bool shifts = false;
  int32_t topics = 0;                  // directions that marked tokens and queries share
  int32_t marked = 0;                  // tokens per topic and head
  double lowest = 0.0, highest = 0.0;  // their logits, uniform
};

constexpr std::array<Family, 7> kFamilies = {{
    {.name = "plain"},
    {.name = "outliers", .outlier_share = 0.002, .quiet_logits = 3.0},
    {.name = "heavy", .topics = 1, .marked = 24, .lowest = 8.0, .highest = 12.0},
    {.name = "bias100", .bias = 100.0, .quiet_logits = 1.5},
    {.name = "shift", .shifts = true},
    {.name = "extraction", .topics = 4, .marked = 256, .lowest = 7.5, .highest = 8.5},
    {.name = "extraction_few", .topics = 4, .marked = 24, .lowest = 9.5, .highest = 10.5},
}};

constexpr auto kNames = [] {
  std::array<const char*, kFamilies.size()> names{};
  for (std::size_t i = 0; i < names.size(); ++i) names[i] = kFamilies[i].name;
  return names;
}();

const Family& find_family(const std::string& name) {
  for (const Family& family : kFamilies) {
    if (name == family.name) return family;
  }
  fail(SKV_E_INVALID, "no synthetic family is called %s", name.c_str());
}

class Generator {
 public:
  explicit Generator(const SyntheticOptions& options);
  Trace make();

 private:
  int64_t width() const { return int64_t{options_.kv_heads} * options_.head_dim; }
  int64_t q_width() const { return width() * options_.group; }
  int64_t total() const { return options_.tokens + steps_; }
  int64_t shift_step() const { return std::min<int64_t>(96, steps_ / 4); }
  int64_t first_query() const { return options_.tokens - kPromptQueries; }
  int64_t queries() const { return total() - first_query(); }
  std::size_t basis_at(int64_t token) const;
  bool quiet(int64_t dim) const;
  bool topical(int64_t dim) const;
  float* key(int64_t token, int32_t head) {
    return k_.data() + (token * options_.kv_heads + head) * options_.head_dim;
  }

  void make_keys();
  void add_outliers();
  void add_bias();
  void choose_topics();
  void mark_tokens();
  void make_values();
  // Of tokens from first_query() on, [queries, q_width]; the parts before RoPE.
  std::vector<float> ordinary_queries();
  std::vector<float> quiet_queries();
  std::vector<float> topic_queries() const;
  std::vector<float> make_queries();
  // Mean over `n` queries and a group's heads of the standard deviation of logits over tokens [from, to).
  double logit_spread(const std::vector<float>& q, int32_t head, int64_t n, int64_t from, int64_t to) const;
  void scale_head(std::vector<float>* q, int32_t head, double factor) const;
  void rotate(std::vector<float>* rows, int32_t heads, int64_t position) const;

  SyntheticOptions options_;
  const Family& family_;
  int64_t steps_;
  double scale_;
  Engine engine_;
  std::shared_ptr<const RopeTables> rope_;
  std::vector<std::vector<float>> bases_;
  std::vector<std::vector<float>> topics_;  // [topics] of [kv_heads, head_dim], unit length per head
  std::vector<float> k_, v_;                // [total, width]
};

Generator::Generator(const SyntheticOptions& options)
    : options_(options),
      family_(find_family(options.family)),
      steps_(options.steps > 0 ? options.steps
             : family_.shifts  ? 448
                               : 96),
      scale_(1.0 / std::sqrt(static_cast<double>(options.head_dim))),
      engine_(options.seed),
      rope_(plain_rope(kTheta, options.head_dim, options.tokens + steps_)) {}

std::size_t Generator::basis_at(int64_t token) const {
  if (!family_.shifts || token < options_.tokens / 2) return 0;
  return token < options_.tokens + shift_step() ? 1 : 2;
}

// The slowest 8 of 64 planes: these turn by 0.17 radian at most over 16,384 tokens, so that a topic's token is found
// at any distance, as by the slow planes of trained models.
bool Generator::topical(int64_t dim) const {
  const int64_t pairs = options_.head_dim / 2;
  return family_.topics > 0 && dim % pairs >= pairs - pairs / 8;
}

// Planes that queries hardly use: six from fast to slow for the bias, else every fourth.
bool Generator::quiet(int64_t dim) const {
  const int64_t pairs = options_.head_dim / 2, pair = dim % pairs;
  if (family_.bias > 0) {
    for (const int64_t sixty_fourth : {3, 11, 20, 40, 47, 58}) {
      if (pair == sixty_fourth * pairs / 64) return true;
    }
    return false;
  }
  return family_.outlier_share > 0 && pair % 4 == 1;
}

void Generator::make_keys() {
  for (int i = 0; i < (family_.shifts ? 3 : 1); ++i) bases_.push_back(make_basis(engine_, width()));
  k_ = normals(engine_, total() * width());
  for (float& x : k_) x *= kKeyNoise;
  Text text(engine_, kRank);
  for (int64_t t = 0; t < total(); ++t) {
    add_product(bases_[basis_at(t)], text.next(engine_), k_.data() + t * width(), width());
  }
}

void Generator::add_outliers() {
  std::uniform_real_distribution<double> uniform;
  const int64_t d = options_.head_dim;
  for (int64_t t = 0; t < total(); ++t) {
    for (int32_t h = 0; h < options_.kv_heads; ++h) {
      if (uniform(engine_) >= family_.outlier_share) continue;
      std::vector<float> direction = normals(engine_, d);
      double norm = 0.0;
      for (int64_t i = 0; i < d; ++i) {
        float& x = direction[i];
        x = quiet(i) ? x : 0.0f;
        norm += double{x} * x;
      }
      const auto length = static_cast<float>(kOutlierLength * std::sqrt(static_cast<double>(d) / norm));
      for (int64_t i = 0; i < d; ++i) key(t, h)[i] += length * direction[i];
    }
  }
}

void Generator::add_bias() {
  const int64_t d = options_.head_dim;
  for (int32_t h = 0; h < options_.kv_heads; ++h) {
    std::vector<float> bias = normals(engine_, d);
    double norm = 0.0, spread = 0.0;
    for (int64_t i = 0; i < d; ++i) {
      float& x = bias[i];
      x = quiet(i) ? x : 0.0f;
      norm += double{x} * x;
    }
    for (int64_t t = 0; t < total(); ++t) {
      for (int64_t i = 0; i < d; ++i) spread += double{key(t, h)[i]} * key(t, h)[i];
    }
    const auto length = static_cast<float>(family_.bias * std::sqrt(spread / static_cast<double>(total()) / norm));
    for (int64_t t = 0; t < total(); ++t) {
      for (int64_t i = 0; i < d; ++i) key(t, h)[i] += length * bias[i];
    }
  }
}

// Orthogonal directions.
void Generator::choose_topics() {
  const int64_t d = options_.head_dim;
  for (int32_t topic = 0; topic < family_.topics; ++topic) {
    std::vector<float> all(static_cast<std::size_t>(width()));
    for (int32_t h = 0; h < options_.kv_heads; ++h) {
      std::vector<float> x = normals(engine_, d);
      for (int64_t i = 0; i < d; ++i) x[i] *= topical(i) ? 1.0f : 0.0f;
      for (const auto& before : topics_) {
        float common = 0.0f;
        for (int64_t i = 0; i < d; ++i) common += x[i] * before[h * d + i];
        for (int64_t i = 0; i < d; ++i) x[i] -= common * before[h * d + i];
      }
      float norm = 0.0f;
      for (const float value : x) norm += value * value;
      for (int64_t i = 0; i < d; ++i) all[h * d + i] = x[i] / std::sqrt(norm);
    }
    topics_.push_back(std::move(all));
  }
}

// Each in a group of 8 tokens of its own (a chunk, or less than one), never the first.
void Generator::mark_tokens() {
  constexpr int64_t kApart = 8;
  const int64_t places = (options_.tokens - kRecent) / kApart - 1, wanted = int64_t{family_.topics} * family_.marked;
  if (places < wanted) {
    fail(SKV_E_INVALID, "%s marks %lld tokens; a prompt of %lld has room for %lld", family_.name,
         static_cast<long long>(wanted), static_cast<long long>(options_.tokens), static_cast<long long>(places));
  }
  std::uniform_real_distribution<double> logit(family_.lowest, family_.highest);
  const double usual = 0.5 * (family_.lowest + family_.highest);
  for (int32_t h = 0; h < options_.kv_heads; ++h) {
    std::vector<int64_t> order(static_cast<std::size_t>(places));
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i) + 1;
    std::shuffle(order.begin(), order.end(), engine_);
    for (int64_t m = 0; m < wanted; ++m) {
      const int64_t token = order[m] * kApart + static_cast<int64_t>(engine_() % kApart);
      const auto length = static_cast<float>(kMarked * logit(engine_) / usual);
      const auto& topic = topics_[m / family_.marked];
      for (int64_t i = 0; i < options_.head_dim; ++i) {
        float& x = key(token, h)[i];
        x = kMarkedOrdinary * x + length * topic[h * options_.head_dim + i];
      }
    }
  }
}

void Generator::make_values() {
  v_ = normals(engine_, total() * width());
  const std::vector<float> constant = normals(engine_, width());
  std::vector<float> channel = normals(engine_, width());
  for (float& x : channel) x = std::exp(0.5f * x);
  Walk slow(engine_, width(), 0.9);
  for (int64_t t = 0; t < total(); ++t) {
    const std::vector<float>& passage = slow.next(engine_);
    for (int64_t c = 0; c < width(); ++c) {
      const auto i = static_cast<std::size_t>(c);
      float& v = v_[t * width() + c];
      v = channel[i] * (0.707f * v + 0.592f * passage[i] + 0.4f * constant[i]);
    }
  }
}

std::vector<float> Generator::ordinary_queries() {
  const int64_t d = options_.head_dim;
  const int64_t latent = family_.shifts ? kRank : width();
  Walk shared(engine_, latent, kQueryCorrelation), own(engine_, q_width(), kQueryCorrelation);
  std::vector<float> q;
  for (int64_t t = first_query(); t < total(); ++t) {
    std::vector<float> common = shared.next(engine_);
    if (family_.shifts) {  // within the subspace of now
      std::vector<float> inside(static_cast<std::size_t>(width()));
      add_product(bases_[basis_at(t)], common, inside.data(), width());
      common = std::move(inside);
    }
    const std::vector<float>& alone = own.next(engine_);
    for (int64_t i = 0; i < q_width(); ++i) {
      const int64_t head = i / d / options_.group, dim = i % d;
      const float x = 0.9f * common[head * d + dim] + 0.436f * alone[i];
      q.push_back(quiet(dim) || topical(dim) ? 0.0f : x);
    }
  }
  return q;
}

// Parts of bias or outlier keys that lie where queries hardly look.
std::vector<float> Generator::quiet_queries() {
  Walk walk(engine_, q_width(), kQueryCorrelation);
  std::vector<float> q;
  for (int64_t row = 0; row < queries(); ++row) {
    const std::vector<float>& x = walk.next(engine_);
    for (int64_t i = 0; i < q_width(); ++i) q.push_back(quiet(i % options_.head_dim) ? x[i] : 0.0f);
  }
  return q;
}

std::vector<float> Generator::topic_queries() const {
  const double usual = 0.5 * (family_.lowest + family_.highest);
  const auto length = static_cast<float>(usual / (scale_ * double{kMarked}));
  const int64_t d = options_.head_dim;
  std::vector<float> q;
  for (int64_t row = 0; row < queries(); ++row) {
    const auto& topic = topics_[row / kTopicSteps % family_.topics];
    for (int64_t i = 0; i < q_width(); ++i) {
      const int64_t head = i / d / options_.group;
      q.push_back(length * topic[head * d + i % d]);
    }
  }
  return q;
}

double Generator::logit_spread(const std::vector<float>& q, int32_t head, int64_t n, int64_t from, int64_t to) const {
  constexpr int64_t kEveryQuery = 8, kEveryToken = 4;
  const int64_t d = options_.head_dim;
  double sum = 0.0;
  int64_t heads = 0;
  for (int64_t row = 0; row < n; row += kEveryQuery) {
    for (int32_t g = 0; g < options_.group; ++g, ++heads) {
      const float* query = q.data() + row * q_width() + (head * options_.group + g) * d;
      double first = 0.0, second = 0.0, count = 0.0;
      for (int64_t t = from; t < to; t += kEveryToken, ++count) {
        const float* key = k_.data() + (t * options_.kv_heads + head) * d;
        float logit = 0.0f;
#pragma omp simd reduction(+ : logit)
        for (int64_t i = 0; i < d; ++i) logit += query[i] * key[i];
        first += double{logit};
        second += double{logit} * double{logit};
      }
      sum += second / count - first / count * (first / count);
    }
  }
  return scale_ * std::sqrt(sum / static_cast<double>(heads));
}

void Generator::scale_head(std::vector<float>* q, int32_t head, double factor) const {
  const int64_t part = int64_t{options_.group} * options_.head_dim;
  for (int64_t row = 0; row < queries(); ++row) {
    float* from = q->data() + row * q_width() + head * part;
    for (int64_t i = 0; i < part; ++i) from[i] *= static_cast<float>(factor);
  }
}

void Generator::rotate(std::vector<float>* rows, int32_t heads, int64_t position) const {
  const int64_t width = int64_t{heads} * options_.head_dim;
  const kernels::RopeItem turn = {rows->data(), width, std::ssize(*rows) / width, heads, options_.head_dim, position, false};
  kernels::rope_cpu(rope_->view, {&turn, 1});
}

// By part, as each is scaled by what it does to logits.
std::vector<float> Generator::make_queries() {
  const int32_t q_heads = options_.kv_heads * options_.group;
  const int64_t n = options_.tokens;
  std::vector<float> q = ordinary_queries();
  rotate(&q, q_heads, first_query());
  for (int32_t h = 0; h < options_.kv_heads; ++h) {
    const double now = family_.shifts ? logit_spread(q, h, kPromptQueries + shift_step(), n / 2, n)
                                      : logit_spread(q, h, queries(), 0, n);
    scale_head(&q, h, (family_.shifts ? kShiftLogits : kOrdinaryLogits) / now);
  }
  const auto add = [&q](const std::vector<float>& part) {
    for (std::size_t i = 0; i < q.size(); ++i) q[i] += part[i];
  };
  if (family_.quiet_logits > 0) {
    std::vector<float> part = quiet_queries();
    rotate(&part, q_heads, first_query());
    for (int32_t h = 0; h < options_.kv_heads; ++h) {
      // An outlier of this length has logits of this deviation under unit queries; a bias depends on its planes.
      const double now = family_.bias > 0 ? logit_spread(part, h, queries(), 0, n) : kOutlierLength;
      scale_head(&part, h, family_.quiet_logits / now);
    }
    add(part);
  }
  if (family_.topics > 0) {
    std::vector<float> part = topic_queries();
    rotate(&part, q_heads, first_query());
    add(part);
  }
  return q;
}

// First rows stay, the others are taken away.
std::vector<float> split(std::vector<float>* rows, int64_t n_first, int64_t width) {
  const auto end = static_cast<std::size_t>(n_first * width);
  std::vector<float> rest(rows->begin() + static_cast<std::ptrdiff_t>(end), rows->end());
  rows->resize(end);
  return rest;
}

Trace Generator::make() {
  make_keys();
  if (family_.outlier_share > 0) add_outliers();
  if (family_.bias > 0) add_bias();
  if (family_.topics > 0) {
    choose_topics();
    mark_tokens();
  }
  rotate(&k_, options_.kv_heads, 0);
  make_values();
  round_to_bf16(&k_);
  round_to_bf16(&v_);

  Trace trace;
  trace.name = std::string("synthetic_") + family_.name;
  trace.geometry = {1, options_.kv_heads * options_.group, options_.kv_heads, options_.head_dim,
                    static_cast<float>(scale_)};
  trace.rope = rope_;
  trace.n_prompt = options_.tokens;
  std::vector<float> q = make_queries();
  Question question;
  question.name = family_.name;
  question.n = steps_;
  question.answer = family_.shifts ? std::max<int64_t>(0, steps_ - 128) : 0;
  question.q.push_back(split(&q, kPromptQueries, q_width()));
  question.k.push_back(split(&k_, options_.tokens, width()));
  question.v.push_back(split(&v_, options_.tokens, width()));
  trace.questions.push_back(std::move(question));
  trace.prompt_q.push_back(std::move(q));
  auto prompt = std::make_shared<Prompt>();
  prompt->k.push_back(std::move(k_));
  prompt->v.push_back(std::move(v_));
  trace.prompt = std::move(prompt);
  return trace;
}

}  // namespace

std::span<const char* const> synthetic_families() { return kNames; }

Trace synthetic_trace(const SyntheticOptions& options) {
  if (options.tokens < 2 * kRecent) {
    fail(SKV_E_INVALID, "a synthetic prompt has %lld tokens or more, not %lld", static_cast<long long>(2 * kRecent),
         static_cast<long long>(options.tokens));
  }
  return Generator(options).make();
}

}  // namespace skv::bench
