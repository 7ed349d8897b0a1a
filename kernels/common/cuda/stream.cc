#include "kernels/common/cuda/stream.h"

#include <algorithm>
#include <cstring>

namespace skv::cuda {

namespace {

constexpr int64_t kStageAlign = 64;

int64_t rounded(int64_t bytes) { return (bytes + kStageAlign - 1) / kStageAlign * kStageAlign; }

}  // namespace

Stream::Stream(cudaStream_t stream, const StagingMemory& memory, Products* products)
    : stream_(stream), memory_(memory), products_(products) {
  for (cudaEvent_t& event : entered_) {
    if (!check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event")) return;
    if (!check(cudaEventRecord(event, stream_), "event")) return;
  }
}

Stream::~Stream() {
  wait();
  for (cudaEvent_t event : entered_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
}

void Stream::fail(const char* what, const char* why) {
  if (ok()) failure_ = std::string(what) + ": " + why;
}

bool Stream::check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return ok();
  fail(what, cudaGetErrorString(error));
  return false;
}

// Lists of one op may reach from one part into the next, so a part is free again once all that was launched before the
// part after the next was begun is done.
bool Stream::next_part() {
  if (flushed_ != used_) left_[n_left_++] = {flushed_, used_};
  part_ = (part_ + 1) % kParts;
  used_ = flushed_ = part_ * part_bytes();
  return check(cudaEventSynchronize(entered_[(part_ + 2) % kParts]), "wait for launch lists") &&
         check(cudaEventRecord(entered_[part_], stream_), "event");
}

void* Stream::stage(int64_t bytes) {
  if (!ok()) return nullptr;
  // So no launch reads from more than two parts.
  if (unflushed_ + rounded(bytes) > part_bytes()) {
    fail("launch lists", "those of one launch are larger than the staging memory allows");
    return nullptr;
  }
  if (used_ + rounded(bytes) > (part_ + 1) * part_bytes() && !next_part()) return nullptr;
  void* at = memory_.host + used_;
  used_ += rounded(bytes);
  unflushed_ += rounded(bytes);
  return at;
}

const void* Stream::device_address(const void* staged) const {
  return staged == nullptr ? nullptr : memory_.device + (static_cast<const char*>(staged) - memory_.host);
}

void Stream::flush() {
  if (flushed_ != used_) left_[n_left_++] = {flushed_, used_};
  for (int i = 0; i < n_left_; ++i) {
    check(cudaMemcpyAsync(memory_.device + left_[i].from, memory_.host + left_[i].from,
                          static_cast<std::size_t>(left_[i].to - left_[i].from), cudaMemcpyHostToDevice, stream_),
          "launch lists");
  }
  n_left_ = 0;
  unflushed_ = 0;
  flushed_ = used_;
}

void Stream::launch(const Launch& launch) {
  if (!ok() || launch.grid.x == 0 || launch.grid.y == 0 || launch.grid.z == 0) return;
  flush();
  check(launch_kernel(launch, stream_), "kernel launch");
}

void Stream::copy(void* to, const void* from, int64_t bytes) {
  if (!ok() || bytes <= 0 || to == from) return;
  check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, stream_), "copy");
}

void Stream::fill(void* to, uint8_t byte, int64_t bytes) {
  if (!ok() || bytes <= 0) return;
  check(cudaMemsetAsync(to, byte, static_cast<std::size_t>(bytes), stream_), "fill");
}

// Through pinned memory, piece by piece, so that the host's bytes are free at once and the copy need not wait.
void Stream::upload(void* to, const void* host, int64_t bytes) {
  for (int64_t at = 0; at < bytes && ok();) {
    const int64_t n = std::min(bytes - at, part_bytes() / 2);
    flush();
    void* piece = stage(n);
    if (piece == nullptr) return;
    std::memcpy(piece, static_cast<const char*>(host) + at, static_cast<std::size_t>(n));
    flushed_ = used_;  // it goes to its place from here, not with the lists
    unflushed_ = 0;
    copy(static_cast<char*>(to) + at, piece, n);
    at += n;
  }
}

void Stream::download(void* host, const void* from, int64_t bytes) {
  if (ok() && bytes > 0) {
    check(cudaMemcpyAsync(host, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, stream_), "download");
  }
  wait();
}

void Stream::wait() {
  if (ok()) check(cudaStreamSynchronize(stream_), "wait");
}

const void* Lists::shared_bytes(const void* from, int64_t bytes) {
  if (from == nullptr || bytes <= 0) return nullptr;
  for (const Known& known : known_) {
    if (known.host == from && known.bytes == bytes) return known.device;
  }
  void* copy = stream_.stage(bytes);
  if (copy == nullptr) return nullptr;
  std::memcpy(copy, from, static_cast<std::size_t>(bytes));
  known_.push_back({from, bytes, stream_.device_address(copy)});
  return known_.back().device;
}

}  // namespace skv::cuda
