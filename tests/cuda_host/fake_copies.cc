// Copies and fills of the fake device. Memory that is neither the device's nor pinned is pageable: what comes from
// there has been read, and what goes there is there, when the call returns.
#include <cuda_runtime.h>

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "tests/cuda_host/device_memory.h"
#include "tests/cuda_host/fake_device.h"
#include "tests/cuda_host/fake_streams.h"
#include "tests/cuda_host/findings.h"

namespace skv::cuda_host {

namespace {

bool reachable(const void* p, std::size_t bytes, const char* what) {
  const Located located = locate(p, bytes);
  if (p != nullptr && (located.place == Place::outside || located.place == Place::allocated)) return true;
  const char* why = located.place == Place::freed ? "(freed)" : "(beyond an allocation)";
  found(what, nullptr, p == nullptr ? "(null)" : why);
  return false;
}

bool pageable(const void* p) {
  const Located located = locate(p, 1);
  return located.place == Place::outside || located.kind == MemoryKind::host_list;
}

bool can_copy(void* to, const void* from, std::size_t bytes) {
  return reachable(to, bytes, "copy to memory") && reachable(from, bytes, "copy from memory");
}

// Memory may be gone when it runs: a graph's copies stay.
Work copy(void* to, const void* from, std::size_t bytes) {
  return {Work::Kind::copy, [=](uint64_t) {
            if (can_copy(to, from, bytes)) std::memmove(to, from, bytes);
            else lose_device(cudaErrorIllegalAddress);
          }};
}

Work copy_of_bytes(void* to, const void* from, std::size_t bytes) {
  const auto* begin = static_cast<const unsigned char*>(from);
  const auto held = std::make_shared<const std::vector<unsigned char>>(begin, begin + bytes);
  const Work held_copy = copy(to, held->data(), bytes);
  return {Work::Kind::copy, [held, held_copy](uint64_t order) { held_copy.run(order); }};
}

Work fill(void* p, int byte, std::size_t bytes) {
  return {Work::Kind::copy, [=](uint64_t) {
            if (reachable(p, bytes, "fill of memory")) std::memset(p, byte, bytes);
            else lose_device(cudaErrorIllegalAddress);
          }};
}

// A copy that the host takes part in cannot become a part of a graph here.
cudaError_t refuse_in_capture(cudaStream_t stream) {
  const std::lock_guard lock(streams_mutex);
  return capturing(stream) ? invalidate(stream, cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

cudaError_t copy_with_host(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  cudaError_t error = refuse_in_capture(stream);
  if (error != cudaSuccess) return error;
  if (pageable(to)) finish(stream);  // so that what comes from pageable memory too is read after what writes it there
  error = submit(stream, pageable(from) ? copy_of_bytes(to, from, bytes) : copy(to, from, bytes));
  if (error != cudaSuccess || !pageable(to)) return error;
  finish(stream);
  return state();
}

}  // namespace

}  // namespace skv::cuda_host

using namespace skv::cuda_host;

extern "C" {

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (state() != cudaSuccess || bytes == 0) return returned(state());
  if (!can_copy(to, from, bytes)) return returned(cudaErrorInvalidValue);
  if (pageable(to) || pageable(from)) return returned(copy_with_host(to, from, bytes, stream));
  return returned(submit(stream, copy(to, from, bytes)));
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}

cudaError_t cudaMemsetAsync(void* p, int byte, std::size_t bytes, cudaStream_t stream) {
  if (state() != cudaSuccess || bytes == 0) return returned(state());
  if (!reachable(p, bytes, "fill of memory")) return returned(cudaErrorInvalidValue);
  return returned(submit(stream, fill(p, byte, bytes)));
}
cudaError_t cudaMemset(void* p, int byte, std::size_t bytes) { return cudaMemsetAsync(p, byte, bytes, nullptr); }
}
