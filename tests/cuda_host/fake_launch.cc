#include "tests/cuda_host/fake_launch.h"

#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

#include "tests/cuda_host/block.h"
#include "tests/cuda_host/crash.h"
#include "tests/cuda_host/cuda_host.h"
#include "tests/cuda_host/fake_device.h"
#include "tests/cuda_host/fake_streams.h"

namespace skv::cuda_host {

namespace {

thread_local uint64_t seed = 0;
thread_local uint64_t launch_seed = 0;

uint64_t next_random(uint64_t random) { return random * 6364136223846793005u + 1442695040888963407u; }

}  // namespace

void set_seed(uint64_t value) {
  seed = value;
  launch_seed = value;
}

uint64_t next_order() {
  launch_seed = next_random(launch_seed);
  return seed < 2 ? seed : launch_seed | 2u;
}

cudaError_t check_shape(const cuda::Launch& launch) {
  const uint64_t threads = uint64_t{launch.block.x} * launch.block.y * launch.block.z;
  const bool valid = threads >= 1 && threads <= 1024 && launch.block.z <= 64 && launch.grid.x <= 0x7fffffffu &&
                     launch.grid.x > 0 && launch.grid.y > 0 && launch.grid.z > 0 && launch.grid.y <= 65535 &&
                     launch.grid.z <= 65535 && launch.shared_bytes <= max_shared();
  return valid ? cudaSuccess : cudaErrorInvalidConfiguration;
}

Kernel::Kernel(const cuda::Launch& launch) : launch_(launch) {
  const auto lines = [&](int i) { return (launch.arg_bytes[i] + sizeof(Line) - 1) / sizeof(Line); };
  std::size_t n = 0;
  for (int i = 0; i < launch.n_args; ++i) n += lines(i);
  lines_.resize(n);
  Line* next = lines_.data();
  for (int i = 0; i < launch.n_args; ++i) {
    std::memcpy(next, launch.args[i], launch.arg_bytes[i]);
    args_.push_back(next);
    next += lines(i);
  }
  launch_.args = args_.data();
  launch_.arg_bytes = nullptr;
}

// Blocks in the order of the seed.
void Kernel::run(uint64_t order) const {
  const dim3 grid = launch_.grid;
  const uint64_t n = uint64_t{grid.x} * grid.y * grid.z;
  std::vector<uint64_t> blocks(n);
  std::iota(blocks.begin(), blocks.end(), uint64_t{0});
  uint64_t random = order;
  for (uint64_t i = n; order >= 2 && i > 1; --i) {
    random = next_random(random);
    std::swap(blocks[i - 1], blocks[(random >> 33) % i]);
  }
  name_crashes();
  Block block(launch_, order);
  for (uint64_t i = 0; i < n; ++i) {
    const uint64_t at = blocks[order == 1 ? n - 1 - i : i];
    const uint3 index{static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                      static_cast<unsigned>(at / grid.x / grid.y)};
    if (!block.run(index)) return lose_device(cudaErrorLaunchFailure);
  }
  add(&Usage::blocks, static_cast<int64_t>(n));
}

}  // namespace skv::cuda_host

namespace skv::cuda {

cudaError_t launch_kernel(const Launch& launch, cudaStream_t stream) {
  using namespace cuda_host;
  cudaError_t error = state();
  if (error == cudaSuccess) error = check_shape(launch);
  if (error != cudaSuccess) return returned(error);
  const auto kernel = std::make_shared<const Kernel>(launch);
  return returned(submit(stream, {Work::Kind::kernel, [kernel](uint64_t order) { kernel->run(order); }}));
}

}  // namespace skv::cuda
