// Kernels executed on the host: how tests steer it and read what it found.
//
// Each block runs as fibers, one per CUDA thread; barriers and warp operations are where they are switched, in an
// order drawn from the seed, as is the order of blocks. Built without AddressSanitizer, kernels are compiled with
// -fsanitize=thread and linked with the callbacks of tsan_hooks.cc, so that every access of theirs is looked at:
// shared memory has a shadow (shared_shadow.h), the fake device's memory a registry (device_memory.h). Built with it,
// kernels are plain code under ASan and UBSan and shared memory is an exact allocation per block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace skv::cuda_host {

// Orders of threads and blocks, for launches of this host thread: 0 ascending, 1 descending, others shuffled.
void set_seed(uint64_t seed);

// What has been found wrong since the last call, one finding a line with kernel, block, thread and source line; empty
// if nothing was.
std::string take_findings();

// Streams that are made from now on run what is queued at once; what they wait for runs then too. Otherwise, as late as
// the rules allow. A wait that is missing shows where one stream is early and the other late.
void set_eager(bool on);

// Whether accesses are looked at (no AddressSanitizer).
bool checks_accesses();

// Kernels may only touch device memory, pinned memory, shared memory and their own variables; otherwise any memory of
// the host is theirs too.
void set_device_memory_only(bool on);

// The fake device.
struct Faults {
  int devices = 1;
  std::size_t device_bytes = std::size_t{80} << 30;   // cudaMalloc fails beyond, as if the rest were in use
  std::size_t pinned_bytes = ~std::size_t{0};
  int64_t launches_before_failure = -1;               // then every call reports error; -1: never
  int64_t copies_before_failure = -1;
  int64_t allocations_before_failure = -1;            // the one after fails, once: out of memory
  bool graphs_refused = false;                        // no executable graph can be made: out of memory
  bool captures_refused = false;                      // every capture becomes invalid, as by a wait for the device
  int refused_algorithms = 0;   // of those listed for a matrix product: the first so many are not supported
  bool exact_algorithms = false;                      // they only run for the very sizes that they were listed for
  bool eigenproblems_refused = false;
  int error = 700;                                    // cudaErrorIllegalAddress
  int driver_version = 13000;
  int compute_major = 9, compute_minor = 0;
};
void set_faults(const Faults& faults);  // also forgets a sticky error

struct Usage {
  std::size_t device_bytes = 0, pinned_bytes = 0;  // now allocated
  int64_t allocations = 0, streams = 0, events = 0, graphs = 0;  // alive; executable graphs too
  // Ever made; of graphs those that are launched.
  int64_t launches = 0, blocks = 0, copies = 0, graph_launches = 0;
};
Usage usage();

}  // namespace skv::cuda_host
