// What the parts of the fake runtime share: the device's faults, counts and errors.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "tests/cuda_host/cuda_host.h"

namespace skv::cuda_host {

cudaError_t returned(cudaError_t error);  // to a caller of the runtime, whom cudaGetLastError tells it again
cudaError_t state();                      // an error of work that ran earlier: every call after it reports it
void lose_device(cudaError_t error);      // such an error

// One more of something; the fault planted for it, if any, loses the device.
cudaError_t counted(int64_t Usage::*count, int64_t Faults::*before);
void add(int64_t Usage::*count, int64_t n);

Faults planted();           // by set_faults
std::size_t max_shared();  // a block's
void check_workspace(const void* p, std::size_t bytes);  // of a library: device memory, all of it

}  // namespace skv::cuda_host
