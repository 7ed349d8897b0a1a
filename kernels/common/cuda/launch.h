// The one way to launch a kernel, and to declare its shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <tuple>
#include <type_traits>
#include <utility>

#include "kernels/common/cuda/stream.h"

// All shared memory of a kernel, 128-byte aligned: as many bytes as its launch asks for.
#if defined(__CUDACC__)
#define SKV_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#else
#define SKV_SHARED(name) unsigned char* const name = ::skv::cuda_host::shared_memory()
#endif

namespace skv::cuda {

#if !defined(__CUDACC__)
// The arguments are the host's: what executes kernels must not take their reading for a kernel's.
template <class... P, std::size_t... I>
__attribute__((no_sanitize("thread"))) void call_with(const void* kernel, void* const* args, std::index_sequence<I...>) {
  reinterpret_cast<void (*)(P...)>(const_cast<void*>(kernel))(*static_cast<std::remove_reference_t<P>*>(args[I])...);
}
template <class... P>
__attribute__((no_sanitize("thread"))) void call_kernel(const void* kernel, void* const* args) {
  call_with<P...>(kernel, args, std::index_sequence_for<P...>());
}
#endif

// Nothing is launched where the grid is empty.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes, Stream& stream, A... args) {
  static_assert(sizeof...(P) == sizeof...(A), "one argument for each parameter of the kernel");
  std::tuple<std::remove_cv_t<P>...> values(static_cast<P>(args)...);
  std::apply(
      [&](auto&... value) {
        void* const addresses[] = {static_cast<void*>(&value)...};
        static constexpr std::size_t kBytes[] = {sizeof(value)...};
        Launch launch;
        launch.kernel = reinterpret_cast<const void*>(kernel);
#if !defined(__CUDACC__)
        launch.call = &call_kernel<P...>;
#endif
        launch.grid = grid;
        launch.block = block;
        launch.shared_bytes = shared_bytes;
        launch.n_args = static_cast<int>(sizeof...(P));
        launch.args = addresses;
        launch.arg_bytes = kBytes;
        stream.launch(launch);
      },
      values);
}

}  // namespace skv::cuda
