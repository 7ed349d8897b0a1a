#include "tests/bench/model_trace.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "kernels/ops.h"
#include "lib/base/memory.h"
#include "lib/base/status.h"
#include "lib/model/forward.h"
#include "lib/model/model.h"
#include "tests/bench/demo_document.h"

namespace skv::bench {

namespace {

constexpr int64_t kBlock = 512;  // prompt tokens at a time
constexpr int64_t kRows = 64;    // decode tokens at a time: kernels::kGemmDecodeRows
constexpr const char* kQuestions = "model_questions";

kv::Geometry geometry_of(const model::Config& config) {
  return {config.layers, config.q_heads, config.kv_heads, config.head_dim,
          1.0f / std::sqrt(static_cast<float>(config.head_dim))};
}

kv::Policy full_policy(const kv::Geometry& geometry) {
  skv_kv_params params = kv::default_kv_params();
  params.policy = SKV_POLICY_FULL;
  return kv::resolve_policy(params, geometry);
}

std::vector<float> zeros(int64_t n) { return std::vector<float>(static_cast<std::size_t>(n)); }

// The engine's order of layers and blocks, with a look at the rows that pass.
class Run {
 public:
  explicit Run(const model::Model& model)
      : model_(model),
        ops_(kernels::cpu_ops()),
        forward_(model::make_forward(model, ops_)),
        geometry_(geometry_of(model.config())),
        store_(geometry_, full_policy(geometry_), model.rope(), ops_, account_),
        sequence_(store_.open()),
        workspace_(account_, SKV_TIER_HOST, SKV_PURPOSE_WORKSPACE, forward_->workspace_bytes(kBlock)),
        q_(zeros(kBlock * q_width())),
        attention_(zeros(kBlock * q_width())) {}

  // The queries: of its last kPromptQueries tokens.
  void prompt(std::span<const int32_t> ids, Prompt* rows, Layers* queries);
  // Tokens after what is there, appended to the question; the greedy next token of each.
  std::vector<int32_t> steps(std::span<const int32_t> ids, Question* question);
  void truncate(int64_t n) { store_.truncate(sequence_, n); }

  const kv::Geometry& geometry() const { return geometry_; }

 private:
  int64_t q_width() const { return int64_t{geometry_.q_heads} * geometry_.head_dim; }
  int64_t kv_width() const { return geometry_.key_width(); }
  void prompt_block(int32_t layer, int64_t at, int64_t n, float* x, float* k, float* v);
  void step_rows(int32_t layer, int64_t n, float* x, Question* question);

  const model::Model& model_;
  const kernels::Ops& ops_;
  MemoryAccount account_;
  std::unique_ptr<model::Forward> forward_;
  kv::Geometry geometry_;
  kv::Store store_;
  kv::Sequence* sequence_;
  Buffer workspace_;
  std::vector<float> q_, attention_;
};

void Run::prompt_block(int32_t layer, int64_t at, int64_t n, float* x, float* k, float* v) {
  const model::RowRange range{0, n, at};
  forward_->qkv(layer, x, n, {&range, 1}, q_.data(), k, v, workspace_.data());
  store_.prefill_append(sequence_, layer, at, n, k, v);
  if (layer == geometry_.layers - 1) return;  // nobody asks for what the prompt's own tokens predict
  store_.prefill_attend(sequence_, layer, at, n, q_.data(), attention_.data());
  forward_->finish(layer, x, attention_.data(), n, workspace_.data());
}

void Run::prompt(std::span<const int32_t> ids, Prompt* rows, Layers* queries) {
  const auto n = static_cast<int64_t>(ids.size());
  const int64_t hidden = model_.config().hidden;
  std::vector<float> x = zeros(n * hidden);
  forward_->embed(ids.data(), n, x.data());
  store_.begin_prefill(sequence_, n);
  for (int32_t layer = 0; layer < geometry_.layers; ++layer) {
    std::vector<float> k = zeros(n * kv_width()), v = zeros(n * kv_width()), q;
    for (int64_t at = 0; at < n; at += kBlock) {
      const int64_t count = std::min(kBlock, n - at);
      prompt_block(layer, at, count, x.data() + at * hidden, k.data() + at * kv_width(), v.data() + at * kv_width());
      const int64_t skipped = std::clamp<int64_t>(n - kPromptQueries - at, 0, count);
      q.insert(q.end(), q_.begin() + skipped * q_width(), q_.begin() + count * q_width());
    }
    store_.prefill_finish_layer(sequence_, layer);
    round_to_bf16(&k);
    round_to_bf16(&v);
    rows->k.push_back(std::move(k));
    rows->v.push_back(std::move(v));
    queries->push_back(std::move(q));
  }
  store_.prefill_commit(sequence_);
}

void Run::step_rows(int32_t layer, int64_t n, float* x, Question* question) {
  const auto l = static_cast<std::size_t>(layer);
  std::vector<float> k = zeros(n * kv_width()), v = zeros(n * kv_width());
  const model::RowRange range{0, n, store_.length(sequence_)};
  const kv::DecodeRow row{sequence_, 0, static_cast<int32_t>(n)};
  forward_->qkv(layer, x, n, {&range, 1}, q_.data(), k.data(), v.data(), workspace_.data());
  store_.decode_append(layer, {&row, 1}, k.data(), v.data());
  store_.decode_attend(layer, {&row, 1}, q_.data(), attention_.data());
  forward_->finish(layer, x, attention_.data(), n, workspace_.data());
  round_to_bf16(&k);
  round_to_bf16(&v);
  const auto append = [l](Layers* to, const std::vector<float>& rows, int64_t count) {
    (*to)[l].insert((*to)[l].end(), rows.begin(), rows.begin() + count);
  };
  append(&question->q, q_, n * q_width());
  append(&question->k, k, n * kv_width());
  append(&question->v, v, n * kv_width());
  append(&question->attention, attention_, n * q_width());
}

std::vector<int32_t> Run::steps(std::span<const int32_t> ids, Question* question) {
  for (Layers* rows : {&question->q, &question->k, &question->v, &question->attention}) {
    rows->resize(static_cast<std::size_t>(geometry_.layers));
  }
  const int64_t hidden = model_.config().hidden, vocab = model_.config().vocab;
  std::vector<float> x = zeros(kRows * hidden), logits = zeros(kRows * vocab);
  std::vector<int32_t> predicted;
  for (std::size_t at = 0; at < ids.size(); at += kRows) {
    const std::span<const int32_t> part = ids.subspan(at, std::min<std::size_t>(kRows, ids.size() - at));
    const auto n = static_cast<int64_t>(part.size());
    store_.decode_reserve(sequence_, static_cast<int32_t>(n));
    forward_->embed(part.data(), n, x.data());
    for (int32_t layer = 0; layer < geometry_.layers; ++layer) step_rows(layer, n, x.data(), question);
    forward_->logits(x.data(), n, logits.data(), workspace_.data());
    store_.decode_commit(sequence_, static_cast<int32_t>(n));
    question->n += n;
    for (int64_t i = 0; i < n; ++i) {
      const auto row = logits.begin() + i * vocab;
      predicted.push_back(static_cast<int32_t>(std::max_element(row, row + vocab) - row));
    }
  }
  return predicted;
}

// The answer's last token is not fed: nothing is asked of what follows it.
Question ask(Run* run, const DemoQuestion& asked, std::string name) {
  std::vector<int32_t> ids = asked.ask;
  ids.insert(ids.end(), asked.answer.begin(), asked.answer.end() - 1);
  Question question;
  question.name = std::move(name);
  question.answer = static_cast<int64_t>(asked.ask.size()) - 1;
  const std::vector<int32_t> predicted = run->steps(ids, &question);
  for (std::size_t i = 0; i < asked.answer.size(); ++i) {
    question.right += predicted[asked.ask.size() - 1 + i] == asked.answer[i];
  }
  question.asked = static_cast<int64_t>(asked.answer.size());
  return question;
}

// Query rows of several questions as rows of one, question by question within a KV head.
std::vector<float> side_by_side(std::span<const std::vector<float>* const> rows, const kv::Geometry& g) {
  const int64_t heads = int64_t{g.group()} * g.head_dim;  // floats of a KV head's queries
  std::vector<float> merged;
  for (int64_t part = 0; part < std::ssize(*rows[0]) / heads; ++part) {
    for (const std::vector<float>* q : rows)
      merged.insert(merged.end(), q->begin() + part * heads, q->begin() + (part + 1) * heads);
  }
  return merged;
}

Question merge(std::span<const Question* const> group, const kv::Geometry& g) {
  const Question& first = *group[0];
  Question merged;
  merged.n = first.n;
  merged.answer = first.answer;
  merged.k = first.k;
  merged.v = first.v;
  for (std::size_t layer = 0; layer < first.q.size(); ++layer) {
    std::vector<const std::vector<float>*> rows;
    for (const Question* question : group) rows.push_back(&question->q[layer]);
    merged.q.push_back(side_by_side(rows, g));
  }
  return merged;
}

}  // namespace

ModelTraces model_traces(const ModelTraceOptions& options) {
  MemoryAccount account;
  const model::Model model(options.model, false, account);
  if (!model.tokenizer()) fail(SKV_E_DATA, "%s has no tokenizer.json", options.model.c_str());
  const DemoDocument document = demo_document(options.model, *model.tokenizer(), options.tokens, options.facts,
                                              options.questions, options.seed);
  Run run(model);
  ModelTraces traces;
  Trace& trace = traces.questions;
  auto prompt = std::make_shared<Prompt>();
  run.prompt(document.tokens, prompt.get(), &trace.prompt_q);
  trace.name = kQuestions;
  trace.name += '_' + std::to_string(options.tokens);
  if (options.facts > 0) trace.name += '_' + std::to_string(options.facts) + "_facts";
  trace.geometry = run.geometry();
  trace.rope = copy_rope(model.rope());
  trace.n_prompt = static_cast<int64_t>(document.tokens.size());
  trace.prompt = std::move(prompt);
  traces.reading = trace;
  traces.reading.name.replace(0, std::string(kQuestions).size(), "model_reading");

  for (std::size_t i = 0; i < document.questions.size(); ++i) {
    trace.questions.push_back(ask(&run, document.questions[i], "question_" + std::to_string(i)));
    run.truncate(trace.n_prompt);
  }
  if (options.reading_steps > 0) {
    constexpr int64_t kMinimum = 2048;  // room for demo-text's fewest facts
    const DemoDocument more = demo_document(options.model, *model.tokenizer(), kMinimum + options.reading_steps, 0, 1,
                                            options.seed + 1000003);
    Question reading;
    reading.name = "reading";
    run.steps(std::span(more.tokens).subspan(1, static_cast<std::size_t>(options.reading_steps)), &reading);
    traces.reading.questions.push_back(std::move(reading));
  }
  return traces;
}

Trace extraction_trace(const Trace& questions, int32_t together) {
  Trace trace;
  trace.name = questions.name;
  trace.name.replace(0, std::string(kQuestions).size(), "model_extraction");
  trace.geometry = questions.geometry;
  trace.geometry.q_heads *= together;
  trace.rope = questions.rope;
  trace.n_prompt = questions.n_prompt;
  trace.prompt = questions.prompt;
  for (const std::vector<float>& q : questions.prompt_q) {
    const std::vector<const std::vector<float>*> same(static_cast<std::size_t>(together), &q);
    trace.prompt_q.push_back(side_by_side(same, questions.geometry));
  }
  std::vector<const Question*> alike;
  for (const Question& question : questions.questions) {
    if (question.n == questions.questions[0].n) alike.push_back(&question);
  }
  const std::span<const Question* const> all(alike);
  for (std::size_t at = 0; at + static_cast<std::size_t>(together) <= all.size(); at += together) {
    trace.questions.push_back(merge(all.subspan(at, static_cast<std::size_t>(together)), questions.geometry));
    trace.questions.back().name = "extraction_" + std::to_string(trace.questions.size() - 1);
  }
  return trace;
}

}  // namespace skv::bench
