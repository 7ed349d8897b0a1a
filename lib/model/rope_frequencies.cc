#include "lib/model/rope_frequencies.h"

#include <cmath>
#include <numbers>

namespace skv::model {

namespace {

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between blended.
double scale_llama3(const RopeConfig& rope, double frequency) {
  const double turns = static_cast<double>(rope.original_max_positions) * frequency / (2 * std::numbers::pi);
  if (turns < rope.low_freq_factor) return frequency / rope.factor;
  if (turns > rope.high_freq_factor) return frequency;
  const double keep = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - keep) * frequency / rope.factor + keep * frequency;
}

}  // namespace

std::vector<double> rope_inverse_frequencies(const RopeConfig& rope) {
  std::vector<double> result;
  for (int32_t i = 0; i < rope.rotary_dim; i += 2) {
    const double frequency = std::pow(rope.theta, -static_cast<double>(i) / rope.rotary_dim);
    switch (rope.scaling) {
      case RopeScaling::none: result.push_back(frequency); break;
      case RopeScaling::linear: result.push_back(frequency / rope.factor); break;
      case RopeScaling::llama3: result.push_back(scale_llama3(rope, frequency)); break;
    }
  }
  return result;
}

}  // namespace skv::model
