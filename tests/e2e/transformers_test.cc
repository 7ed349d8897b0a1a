// The engine against logits that transformers computed for the committed checkpoints (tests/model/make_fixtures.py).
#include "tests/e2e/harness.h"
#include "tests/model/fixture.h"

namespace skv::e2e {
namespace {

Logits prompt_logits(const test::Fixture& f, std::size_t i) { return {f.prompt_row(i), f.prompt_row(i) + f.vocab}; }
Logits decode_logits(const test::Fixture& f, std::size_t i) { return {f.decode_row(i), f.decode_row(i) + f.vocab}; }

class Transformers : public testing::TestWithParam<const char*> {};

TEST_P(Transformers, logits_of_prompt_positions_match) {
  const test::Fixture want = test::load_fixture(GetParam());
  const Host host(want.directory);
  const auto session = host.session(full_kv(SKV_DTYPE_F32));
  const skv_seq seq = session->open(SKV_AUTO);
  Logits got;
  for (std::size_t at = 0; at < want.prompt.size(); at += 64) {
    const std::size_t end = std::min(at + 64, want.prompt.size());
    std::vector<Row> rows{{seq, Tokens(want.prompt.begin() + static_cast<std::ptrdiff_t>(at),
                                       want.prompt.begin() + static_cast<std::ptrdiff_t>(end))}};
    decode(*session, rows);
    ASSERT_EQ(rows[0].status, SKV_OK) << rows[0].message;
    got.insert(got.end(), rows[0].logits.begin(), rows[0].logits.end());
  }
  const auto vocab = static_cast<std::ptrdiff_t>(host.vocab());
  for (std::size_t i = 0; i < want.positions.size(); ++i) {
    const auto from = got.begin() + want.positions[i] * vocab;
    const std::string what = "position " + std::to_string(want.positions[i]);
    expect_near(Logits(from, from + vocab), prompt_logits(want, i), 1e-3, what);
  }
}

TEST_P(Transformers, prefill_and_64_greedy_steps_match) {
  const test::Fixture want = test::load_fixture(GetParam());
  const Host host(want.directory);
  const auto session = host.session(full_kv(SKV_DTYPE_F32));  // blocks of 64: products in f32 for any weights
  const skv_seq seq = start(*session, want.prompt);
  expect_near(kept_logits(*session, seq), prompt_logits(want, want.positions.size() - 1), 1e-3, "last of the prompt");
  for (std::size_t i = 0; i < want.greedy.size(); ++i) {
    ASSERT_EQ(session->sample(seq), want.greedy[i]) << "step " << i;
    expect_near(decode_one(*session, seq, want.greedy[i]), decode_logits(want, i), 1e-3,
                "step " + std::to_string(i));
  }
}

// One block of more than 64 rows may round activations to bf16, where the weights are 16-bit.
TEST_P(Transformers, prompt_in_one_block_matches) {
  const test::Fixture want = test::load_fixture(GetParam());
  const Host host(want.directory);
  const auto session = host.session(full_kv(SKV_DTYPE_F32), [](auto& p) { p.prefill_block_tokens = 512; });
  const skv_seq seq = start(*session, want.prompt);
  const bool f32 = host.model().weights()->table().layers[0].q.dtype == DType::f32;
  const Logits last = prompt_logits(want, want.positions.size() - 1);
  expect_near(kept_logits(*session, seq), last, f32 ? 1e-3 : 5e-2, "prompt");
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, Transformers,
                         testing::ValuesIn(test::kCheckpoints),
                         [](const testing::TestParamInfo<const char*>& info) { return std::string(info.param); });

}  // namespace
}  // namespace skv::e2e
