// CUDA C++ for hosts that execute kernels themselves (tests/cuda_host): found instead of NVIDIA's header through the
// include path. Kernels are plain functions that run as fibers, one per thread of a block.
#pragma once

#include "cuda_host_types.h"
#include "cuda_host_device.h"
#include "cuda_host_api.h"
