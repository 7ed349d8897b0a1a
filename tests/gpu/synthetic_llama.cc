#include "tests/gpu/synthetic_llama.h"

#include <cmath>
#include <random>

#include "kernels/rope/rope_tables.h"
#include "lib/model/rope_frequencies.h"

namespace skv::gpu {

namespace {

model::Config llama_8b(int32_t scale) {
  model::Config config;
  config.architecture = "LlamaForCausalLM";
  config.layers = std::max(32 / scale, 2);
  config.hidden = 4096 / scale;
  config.intermediate = 14336 / scale;
  config.q_heads = std::max(32 / scale, 4);
  config.kv_heads = std::max(8 / scale, 1);
  config.head_dim = 128;
  config.vocab = 128256 / scale;
  config.max_positions = 262144;
  config.rope.theta = 500000.0;
  config.rope.rotary_dim = 128;
  return config;
}

}  // namespace

SyntheticLlama::SyntheticLlama(Gpu& gpu, int32_t scale) : config_(llama_8b(scale)) {
  const kernels::RopeView rope = make_rope(gpu);
  resident_ = std::make_shared<const model::Resident>(weights(gpu), rope);
  forward_ = model::make_forward(config_, resident_, gpu.ops());
  gpu.check();
}

kv::Geometry SyntheticLlama::geometry() const {
  return {config_.layers, config_.q_heads, config_.kv_heads, config_.head_dim,
          1.0f / std::sqrt(static_cast<float>(config_.head_dim))};
}

// Normal weights of variance 1 / cols, so that activations stay of one size.
model::Matrix SyntheticLlama::matrix(Gpu& gpu, int64_t rows, int64_t cols) {
  std::mt19937 engine(static_cast<unsigned>(memory_.size()));
  std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(cols)));
  std::vector<uint16_t> piece(static_cast<std::size_t>(std::min<int64_t>(rows * cols, 1 << 20)));
  for (uint16_t& x : piece) x = f32_to_bf16(normal(engine));
  memory_.push_back(gpu.empty(rows * cols * 2));
  char* data = memory_.back().as<char>();
  const int64_t bytes = std::ssize(piece) * 2;
  gpu.ops().upload(data, piece.data(), bytes);
  for (int64_t at = bytes; at < rows * cols * 2; at += bytes) {
    gpu.ops().copy(data + at, data, std::min(bytes, rows * cols * 2 - at));
  }
  return {data, DType::bf16, rows, cols};
}

const float* SyntheticLlama::ones(Gpu& gpu, int64_t n) {
  memory_.push_back(gpu.filled(std::vector<float>(static_cast<std::size_t>(n), 1.0f)));
  return memory_.back().as<float>();
}

model::WeightTable SyntheticLlama::weights(Gpu& gpu) {
  const int64_t hidden = config_.hidden, inner = config_.intermediate;
  const int64_t q = int64_t{config_.q_heads} * config_.head_dim, kv = int64_t{config_.kv_heads} * config_.head_dim;
  model::WeightTable table;
  table.embedding = matrix(gpu, config_.vocab, hidden);
  table.lm_head = matrix(gpu, config_.vocab, hidden);
  table.final_norm = ones(gpu, hidden);
  for (int32_t i = 0; i < config_.layers; ++i) {
    model::LayerWeights w;
    w.input_norm = ones(gpu, hidden);
    w.post_attn_norm = ones(gpu, hidden);
    w.q = matrix(gpu, q, hidden), w.k = matrix(gpu, kv, hidden), w.v = matrix(gpu, kv, hidden);
    w.o = matrix(gpu, hidden, q);
    w.gate = matrix(gpu, inner, hidden), w.up = matrix(gpu, inner, hidden), w.down = matrix(gpu, hidden, inner);
    table.layers.push_back(w);
  }
  return table;
}

kernels::RopeView SyntheticLlama::make_rope(Gpu& gpu) {
  const std::vector<double> inv_freq = model::rope_inverse_frequencies(config_.rope);
  const auto pairs = std::ssize(inv_freq);
  const int32_t hi_rows = kernels::rope_hi_rows(config_.max_positions);
  std::vector<float> lo(static_cast<std::size_t>(kernels::rope_lo_floats(pairs)));
  std::vector<float> hi(static_cast<std::size_t>(kernels::rope_hi_floats(pairs, hi_rows)));
  kernels::rope_fill_tables(inv_freq, hi_rows, lo.data(), hi.data());
  memory_.push_back(gpu.filled(lo));
  const float* device_lo = memory_.back().as<float>();
  memory_.push_back(gpu.filled(hi));
  return {device_lo, memory_.back().as<float>(), hi_rows, config_.rope.rotary_dim, false, 1.0f};
}

}  // namespace skv::gpu
