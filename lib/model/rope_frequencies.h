// Inverse frequencies of a checkpoint's RoPE, after its context-extension scaling, in double.
#pragma once

#include <vector>

#include "lib/model/config.h"

namespace skv::model {

// [rotary_dim / 2]; the angle of pair i at position p is p * result[i].
std::vector<double> rope_inverse_frequencies(const RopeConfig& rope);

}  // namespace skv::model
