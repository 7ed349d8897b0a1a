// What the backends of guard_grow share, and what guard_grow_cuda keeps of an item while it works on it: in the
// workspace a block has one of these, and takes one item after another.
#pragma once

#include "kernels/common/workspace.h"
#include "kernels/guard_grow/guard_grow.h"

namespace skv::kernels {

// Once missed is written.
SKV_HD inline void add_totals(const GuardGrowDesc& desc, const GuardGrowItem& item) {
  if (item.totals == nullptr) return;
  float most = 0.0f;
  for (int32_t g = 0; g < desc.group; ++g) {
    const float missed = item.missed[g] == item.missed[g] ? item.missed[g] : 1.0f;
    most = missed > most ? missed : most;
  }
  item.totals[0] += *item.n_samples;
  item.totals[1] += desc.margin * most > desc.max_missed ? 1.0 : 0.0;
  item.totals[2] += static_cast<double>(most);
}

inline constexpr int32_t kGrowBlocks = 128;

struct GrowSpace {
  double* mass = nullptr;    // [G, max_samples], e in units of the head's largest term
  double* sum = nullptr;     // [G, max_samples], of the terms of a sample in units of its largest
  float* top = nullptr;      // [G, max_samples], that term
  double* total = nullptr;   // [G]
  double* beyond = nullptr;  // [G], of the samples that growing cannot reach
  int32_t* needed = nullptr;     // [G], samples to take; more than there are: all are not enough
  int32_t* order = nullptr;      // [max_samples], samples that growing can reach, as it reaches them
  int32_t* reachable = nullptr;  // [max_samples]
  int64_t max_samples = 0;
  std::size_t bytes = 0;  // a multiple of all elements'

  SKV_HD GrowSpace of_block(int64_t b) const {
    const int64_t shift = b * static_cast<int64_t>(bytes);
    GrowSpace s = *this;
    s.mass += shift / 8, s.sum += shift / 8, s.total += shift / 8, s.beyond += shift / 8;
    s.top += shift / 4, s.needed += shift / 4, s.order += shift / 4, s.reachable += shift / 4;
    return s;
  }
};

// The first block's.
inline GrowSpace lay_out_grow_space(const GuardGrowDesc& desc, int32_t max_samples, void* workspace) {
  GrowSpace s;
  s.max_samples = max_samples;
  WorkspaceCursor cursor(workspace);
  s.mass = cursor.take<double>(int64_t{desc.group} * max_samples);
  s.sum = cursor.take<double>(int64_t{desc.group} * max_samples);
  s.top = cursor.take<float>(int64_t{desc.group} * max_samples);
  s.total = cursor.take<double>(desc.group);
  s.beyond = cursor.take<double>(desc.group);
  s.needed = cursor.take<int32_t>(desc.group);
  s.order = cursor.take<int32_t>(max_samples);
  s.reachable = cursor.take<int32_t>(max_samples);
  s.bytes = cursor.bytes();
  return s;
}

}  // namespace skv::kernels
