#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "lib/model/forward.h"
#include "tests/model/fixture.h"

namespace skv::model {
namespace {

using test::Fixture;
using test::load_fixture;
using test::relative_error;

constexpr int64_t kRows = kernels::kGemmDecodeRows;
constexpr double kTolerance = 1e-3;  // of the largest logit of a row, against f32 arithmetic

struct Sequence {
  std::vector<std::vector<float>> k, v;  // per layer, [tokens, kv_heads * head_dim]
  int64_t length = 0;
};

// Layers in order with attention written out in double: what the engine and lib/kv do, without either.
class Runner {
 public:
  Runner(const Model& model, const kernels::Ops& ops)
      : config_(model.config()), forward_(make_forward(model, ops)), q_dim_(config_.q_heads * config_.head_dim),
        kv_dim_(config_.kv_heads * config_.head_dim) {}

  Sequence open() const {
    const auto layers = static_cast<std::size_t>(config_.layers);
    return {std::vector<std::vector<float>>(layers), std::vector<std::vector<float>>(layers), 0};
  }

  struct Part {
    Sequence* sequence;
    std::vector<int32_t> ids;
  };

  // One batch of parts of any lengths; the logits of every row.
  std::vector<float> step(const std::vector<Part>& parts) {
    std::vector<int32_t> ids;
    std::vector<RowRange> rows;
    for (const Part& part : parts) {
      rows.push_back({static_cast<int64_t>(ids.size()), static_cast<int64_t>(part.ids.size()),
                      part.sequence->length});
      ids.insert(ids.end(), part.ids.begin(), part.ids.end());
    }
    const auto m = static_cast<int64_t>(ids.size());
    const auto floats = [&](int64_t n) { return std::vector<float>(static_cast<std::size_t>(m * n)); };
    std::vector<float> x = floats(config_.hidden), q = floats(q_dim_), k = floats(kv_dim_), v = floats(kv_dim_);
    std::vector<float> attn = floats(q_dim_), logits = floats(config_.vocab);
    Workspace workspace(forward_->workspace_bytes(m));
    forward_->embed(ids.data(), m, x.data());
    for (int32_t layer = 0; layer < config_.layers; ++layer) {
      const std::vector<float> before = x;
      forward_->qkv(layer, x.data(), m, rows, q.data(), k.data(), v.data(), workspace.data());
      EXPECT_EQ(x, before) << "qkv must not change x";
      for (std::size_t i = 0; i < parts.size(); ++i) attend(layer, *parts[i].sequence, rows[i], q, k, v, attn);
      forward_->finish(layer, x.data(), attn.data(), m, workspace.data());
    }
    forward_->logits(x.data(), m, logits.data(), workspace.data());
    EXPECT_TRUE(workspace.untouched_behind()) << "workspace_bytes(" << m << ") is too small";
    for (std::size_t i = 0; i < parts.size(); ++i) parts[i].sequence->length += rows[i].n;
    return logits;
  }

 private:
  class Workspace {
   public:
    explicit Workspace(int64_t bytes) : bytes_(static_cast<std::size_t>(bytes)) {
      const std::size_t whole = (bytes_ + kGuard + 63) / 64 * 64;
      data_ = static_cast<unsigned char*>(std::aligned_alloc(64, whole));
      std::fill_n(data_, whole, 0xa5);
    }
    ~Workspace() { std::free(data_); }
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;
    void* data() const { return data_; }
    bool untouched_behind() const {
      return std::all_of(data_ + bytes_, data_ + bytes_ + kGuard, [](unsigned char c) { return c == 0xa5; });
    }

   private:
    static constexpr std::size_t kGuard = 256;
    std::size_t bytes_;
    unsigned char* data_;
  };

  void attend(int32_t layer, Sequence& s, const RowRange& rows, const std::vector<float>& q,
              const std::vector<float>& k,
              const std::vector<float>& v, std::vector<float>& attn) const {
    auto &ks = s.k[static_cast<std::size_t>(layer)], &vs = s.v[static_cast<std::size_t>(layer)];
    const auto slice = [&](const std::vector<float>& from, std::vector<float>& to) {
      to.insert(to.end(), from.begin() + rows.first * kv_dim_, from.begin() + (rows.first + rows.n) * kv_dim_);
    };
    slice(k, ks);
    slice(v, vs);
    const int64_t d = config_.head_dim, group = config_.q_heads / config_.kv_heads;
    for (int64_t i = 0; i < rows.n; ++i)
      for (int64_t h = 0; h < config_.q_heads; ++h) {
        const float* query = &q[static_cast<std::size_t>((rows.first + i) * q_dim_ + h * d)];
        float* out = &attn[static_cast<std::size_t>((rows.first + i) * q_dim_ + h * d)];
        one_head(query, ks.data() + (h / group) * d, vs.data() + (h / group) * d, s.length + i + 1, out);
      }
  }

  void one_head(const float* q, const float* k, const float* v, int64_t n, float* out) const {
    const int64_t d = config_.head_dim;
    std::vector<double> p(static_cast<std::size_t>(n)), sum(static_cast<std::size_t>(d));
    double top = -INFINITY, total = 0;
    for (int64_t j = 0; j < n; ++j) {
      double dot = 0;
      for (int64_t c = 0; c < d; ++c) dot += static_cast<double>(q[c]) * k[j * kv_dim_ + c];
      p[static_cast<std::size_t>(j)] = dot / std::sqrt(static_cast<double>(d));
      top = std::max(top, p[static_cast<std::size_t>(j)]);
    }
    for (int64_t j = 0; j < n; ++j) {
      const double e = std::exp(p[static_cast<std::size_t>(j)] - top);
      total += e;
      for (int64_t c = 0; c < d; ++c) sum[static_cast<std::size_t>(c)] += e * v[j * kv_dim_ + c];
    }
    for (int64_t c = 0; c < d; ++c) out[c] = static_cast<float>(sum[static_cast<std::size_t>(c)] / total);
  }

  const Config& config_;
  std::unique_ptr<Forward> forward_;
  int64_t q_dim_, kv_dim_;
};

std::vector<float> prefill(Runner& runner, Sequence& sequence, const std::vector<int32_t>& ids, int64_t block) {
  std::vector<float> all;
  for (auto at = ids.begin(); at != ids.end();) {
    const auto end = at + std::min<int64_t>(block, ids.end() - at);
    const std::vector<float> rows = runner.step({{&sequence, {at, end}}});
    all.insert(all.end(), rows.begin(), rows.end());
    at = end;
  }
  return all;
}

void expect_prompt(const Fixture& f, const std::vector<float>& logits, double tolerance, const char* what) {
  for (std::size_t i = 0; i < f.positions.size(); ++i)
    EXPECT_LT(relative_error(&logits[static_cast<std::size_t>(f.positions[i] * f.vocab)], f.prompt_row(i), f.vocab),
              tolerance) << what << " " << f.directory << " position " << f.positions[i];
}

TEST(Forward, PromptLogitsEqualThoseOfTransformers) {
  for (const char* name : test::kCheckpoints) {
    const Fixture f = load_fixture(name);
    MemoryAccount account;
    const Model model(f.directory, false, account);
    for (const int64_t block : {int64_t{7}, kRows}) {
      Runner cpu(model, kernels::cpu_ops());
      Sequence s = cpu.open();
      expect_prompt(f, prefill(cpu, s, f.prompt, block), kTolerance, "cpu");
    }
    Runner reference(model, kernels::ref_ops());
    Sequence s = reference.open();
    expect_prompt(f, prefill(reference, s, f.prompt, 1 << 20), kTolerance, "reference, whole prompt");
    // Above kGemmDecodeRows rows 16-bit weights may meet activations rounded to bf16.
    Runner whole(model, kernels::cpu_ops());
    s = whole.open();
    expect_prompt(f, prefill(whole, s, f.prompt, 1 << 20), 0.03, "cpu, whole prompt");
  }
}

TEST(Forward, GreedyDecodingEqualsThatOfTransformers) {
  for (const char* name : test::kCheckpoints) {
    const Fixture f = load_fixture(name);
    MemoryAccount account;
    const Model model(f.directory, false, account);
    Runner runner(model, kernels::cpu_ops());
    Sequence s = runner.open();
    std::vector<float> row = prefill(runner, s, f.prompt, kRows);
    row.erase(row.begin(), row.end() - f.vocab);
    ASSERT_EQ(f.greedy.size(), 64u);
    for (std::size_t i = 0; i < f.greedy.size(); ++i) {
      const auto next = static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
      ASSERT_EQ(next, f.greedy[i]) << name << " step " << i;
      row = runner.step({{&s, {next}}});
      EXPECT_LT(relative_error(row.data(), f.decode_row(i), f.vocab), kTolerance) << name << " step " << i;
    }
  }
}

TEST(Forward, ARowsBitsDoNotDependOnTheBatch) {
  const Fixture f = load_fixture("biases_f16");
  MemoryAccount account;
  const Model model(f.directory, false, account);
  Runner runner(model, kernels::cpu_ops());
  const std::vector<int32_t> other(f.prompt.begin(), f.prompt.begin() + 13);
  const std::vector<int32_t> one(f.prompt.begin() + 20, f.prompt.begin() + 60);
  Sequence alone = runner.open(), first = runner.open(), second = runner.open();
  const std::vector<float> want = runner.step({{&alone, one}});
  const std::vector<float> got = runner.step({{&first, other}, {&second, one}});
  const auto skipped = static_cast<std::ptrdiff_t>(other.size()) * f.vocab;
  EXPECT_EQ(std::vector<float>(got.begin() + skipped, got.end()), want);
  // Next tokens, positions now differing between the rows of one batch.
  const std::vector<float> next_want = runner.step({{&alone, {5}}});
  const std::vector<float> next = runner.step({{&first, {9}}, {&second, {5}}});
  EXPECT_EQ(std::vector<float>(next.begin() + f.vocab, next.end()), next_want);
}

TEST(Model, OpensForItsMetadataOnly) {
  MemoryAccount account;
  const Model model(test::fixture_path("gqa_llama3_rope"), true, account);
  EXPECT_EQ(model.weights(), nullptr);
  EXPECT_EQ(model.tokenizer(), nullptr);
  EXPECT_EQ(model.chat(), ChatFormat::none);
  EXPECT_EQ(model.config().layers, 2);
  EXPECT_GE(int64_t{model.rope().hi_rows} * kernels::kRopeLow, model.config().max_positions);
  EXPECT_EQ(account.used(SKV_TIER_HOST, SKV_PURPOSE_WEIGHTS), 0);
  // What a budget query needs is there without weights.
  const Model opened(test::fixture_path("gqa_llama3_rope"), false, account);
  for (const int64_t m : {1, 64, 65, 1000})
    EXPECT_EQ(make_forward(model, kernels::cpu_ops())->workspace_bytes(m),
              make_forward(opened, kernels::cpu_ops())->workspace_bytes(m));
}

TEST(Model, ReadsTheDemoModelsTokenizerWithIt) {
  MemoryAccount account;
  {
    const Model model(SKV_DEMO_MODEL, false, account);
    ASSERT_NE(model.tokenizer(), nullptr);
    EXPECT_FALSE(model.tokenizer()->encode("The code of x is 48213.", false, true).empty());
    EXPECT_FALSE(model.config().end_ids.empty());
  }
  EXPECT_EQ(account.used(SKV_TIER_HOST), 0);
}

}  // namespace
}  // namespace skv::model
