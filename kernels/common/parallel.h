// Loops over independent work items on the calling dispatcher's OpenMP team. Items must not throw.
#pragma once

#include <cstdint>

#include <omp.h>

namespace skv::kernels {

inline int max_workers() { return omp_get_max_threads(); }

// fn(item, worker): worker in [0, max_workers()), for per-worker scratch. Dynamic: items may differ in cost.
template <class Fn>
void parallel_for(int64_t n_items, Fn&& fn) {
  if (n_items <= 1 || max_workers() == 1) {
    for (int64_t i = 0; i < n_items; ++i) fn(i, 0);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < n_items; ++i) fn(i, omp_get_thread_num());
}

}  // namespace skv::kernels
