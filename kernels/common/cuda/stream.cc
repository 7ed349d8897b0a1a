#include "kernels/common/cuda/stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/common/cuda/graphs.h"
#include "kernels/common/cuda/products.h"
#include "kernels/common/cuda/record.h"

namespace skv::cuda {

namespace {

constexpr std::size_t kLookBack = 64;  // lists
// Of a long record: the device has begun while the host makes the rest. Pieces end at products, so at the same places each
// time, and with nothing aside.
constexpr std::size_t kPiece = 128;

int64_t rounded(int64_t bytes) { return (bytes + kStageAlign - 1) / kStageAlign * kStageAlign; }

}  // namespace

void Stream::Ranges::add(int64_t from, int64_t to) {
  if (from == to) return;
  bytes += to - from;
  if (n > 0 && at[n - 1].to == from) at[n - 1].to = to;
  else at[n++] = {from, to};
}

Stream::Stream(cudaStream_t stream, const StagingMemory& memory, Products* products, bool graphs)
    : stream_(stream), current_(stream), memory_(memory), products_(products), graphs_wanted_(graphs),
      record_(std::make_unique<Record>()), spare_(std::make_unique<Record>()), graphs_(std::make_unique<Graphs>()) {
  for (cudaEvent_t& event : entered_) {
    if (!check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event")) return;
    if (!check(cudaEventRecord(event, stream_), "event")) return;
  }
}

Stream::~Stream() {
  drain();
  graphs_.reset();
  for (cudaEvent_t event : {aside_begun_, aside_done_}) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  for (cudaEvent_t event : entered_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  if (aside_ != nullptr) cudaStreamDestroy(aside_);
}

void Stream::fail(const char* what, const char* why) {
  if (ok()) failure_ = std::string(what) + ": " + why;
}

bool Stream::check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return ok();
  fail(what, cudaGetErrorString(error));
  return false;
}

cudaStream_t Stream::handle() {
  submit();
  if (is_aside() && !playing_) fail("library call", "not possible aside");
  return stream_;
}

std::size_t Stream::most_shared_bytes() const {
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) return 0;
  return static_cast<std::size_t>(bytes);
}

// Lists of one launch, and of all that is submitted together, may reach from one part into the next (not further: there
// are at most part_bytes of them). So a part is free again once all that was launched before the part after the next was
// begun is done.
bool Stream::enter_part(int part) {
  part_ = part;
  used_ = part_ * part_bytes();
  wait_for_aside();
  return check(cudaEventSynchronize(entered_[(part_ + 2) % kParts]), "wait for launch lists") &&
         check(cudaEventRecord(entered_[part_], stream_), "event");
}

void* Stream::stage(int64_t bytes) {
  if (!ok()) return nullptr;
  const int64_t n = rounded(bytes);
  if (kept_.bytes + staged_.bytes + n > part_bytes()) submit();
  if (staged_.bytes + n > part_bytes()) {
    fail("launch lists", "those of one launch are larger than the staging memory allows");
    return nullptr;
  }
  if (used_ + n > (part_ + 1) * part_bytes() && !enter_part((part_ + 1) % kParts)) return nullptr;
  void* at = memory_.host + used_;
  staged_.add(used_, used_ + n);
  used_ += n;
  unused_ = false;
  return at;
}

const void* Stream::device_address(const void* staged) const {
  return staged == nullptr ? nullptr : memory_.device + (static_cast<const char*>(staged) - memory_.host);
}

void Stream::send(Ranges* ranges, cudaStream_t stream) {
  for (int i = 0; i < ranges->n; ++i) {
    const Ranges::Range& range = ranges->at[i];
    check(cudaMemcpyAsync(memory_.device + range.from, memory_.host + range.from,
                          static_cast<std::size_t>(range.to - range.from), cudaMemcpyHostToDevice, stream),
          "launch lists");
  }
  *ranges = {};
}

void Stream::launch(const Launch& launch) {
  if (!ok() || launch.grid.x == 0 || launch.grid.y == 0 || launch.grid.z == 0) return;
  if (recording_) {
    record_->add(launch);
    for (int i = 0; i < staged_.n; ++i) kept_.add(staged_.at[i].from, staged_.at[i].to);
    staged_ = {};
    return;
  }
  send(&staged_, current_);
  check(launch_kernel(launch, current_), "kernel launch");
}

bool Stream::keeps(const MatrixProduct& product) {
  if (!recording_ || is_aside()) return false;
  if (ok()) record_->add(product);
  if (record_->size() >= kPiece) submit();
  return true;
}

// Lists begin at the same place at every step that finds the memory unused, so that what a graph was made of changes
// little.
void Stream::begin_record() {
  recording_ = true;
  if (!ok() || !unused_) return;
  part_ = 0;
  used_ = 0;
  check(cudaEventRecord(entered_[0], stream_), "event");
}

void Stream::end_record() {
  submit();
  recording_ = false;
}

void Stream::submit() {
  if (record_->empty() || playing_) return;
  std::swap(record_, spare_);
  playing_ = true;
  send(&kept_, stream_);
  if (graphs_wanted_) join_aside();  // a graph knows only what is aside within it
  if (ok() && !(graphs_wanted_ && graphs_->launch(*this, *spare_))) play(*spare_);
  playing_ = false;
  spare_->clear();
  if (!is_aside()) return;
  fork();
  record_->add(Kind::begin_aside);
}

void Stream::play(const Record& record) {
  std::vector<void*> addresses;
  cudaStream_t on = stream_;
  for (std::size_t i = 0; i < record.size() && ok(); ++i) {
    switch (record.kind(i)) {
      case Kind::launch: check(launch_kernel(record.launch(i, &addresses), on), "kernel launch"); break;
      case Kind::product: multiply(record.product(i)); break;
      case Kind::begin_aside: fork(), on = aside_; break;
      case Kind::end_aside: on = stream_; break;
      case Kind::join: join_aside(); break;
    }
  }
}

void Stream::multiply(const MatrixProduct& product) {
  handle();
  const char* why = ok() ? run_product(*this, product) : nullptr;
  if (why != nullptr) fail("matrix product", why);
}

bool Stream::make_aside() {
  return aside_ != nullptr ||
         (check(cudaEventCreateWithFlags(&aside_begun_, cudaEventDisableTiming), "event") &&
          check(cudaEventCreateWithFlags(&aside_done_, cudaEventDisableTiming), "event") &&
          check(cudaStreamCreateWithFlags(&aside_, cudaStreamNonBlocking), "stream"));
}

// What is aside from here on comes after all that is queued so far.
void Stream::fork() {
  aside_pending_ = true;
  if (check(cudaEventRecord(aside_begun_, stream_), "event")) {
    check(cudaStreamWaitEvent(aside_, aside_begun_, 0), "event");
  }
}

void Stream::begin_aside() {
  if (!ok() || !make_aside()) return;
  current_ = aside_;
  if (recording_) record_->add(Kind::begin_aside);
  else fork();
}

void Stream::end_aside() {
  if (recording_ && is_aside()) record_->add(Kind::end_aside);
  current_ = stream_;
}

void Stream::join() {
  if (recording_) record_->add(Kind::join);
  else join_aside();
}

void Stream::join_aside() {
  wait_for_aside();
  aside_pending_ = false;
}

// Makes the stream wait for what is aside so far.
void Stream::wait_for_aside() {
  if (!aside_pending_ || !ok()) return;
  if (check(cudaEventRecord(aside_done_, aside_), "event")) {
    check(cudaStreamWaitEvent(stream_, aside_done_, 0), "event");
  }
}

void Stream::copy(void* to, const void* from, int64_t bytes) {
  submit();
  if (!ok() || bytes <= 0 || to == from) return;
  check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, current_), "copy");
}

void Stream::fill(void* to, uint8_t byte, int64_t bytes) {
  submit();
  if (!ok() || bytes <= 0) return;
  check(cudaMemsetAsync(to, byte, static_cast<std::size_t>(bytes), current_), "fill");
}

// Through pinned memory, piece by piece, so that the host's bytes are free at once and the copy need not wait.
void Stream::upload(void* to, const void* host, int64_t bytes) {
  submit();
  send(&staged_, current_);
  for (int64_t at = 0; at < bytes && ok();) {
    const int64_t n = std::min(bytes - at, part_bytes() / 2);
    void* piece = stage(n);
    if (piece == nullptr) return;
    std::memcpy(piece, static_cast<const char*>(host) + at, static_cast<std::size_t>(n));
    staged_ = {};  // it goes to its place from here, not with the lists
    copy(static_cast<char*>(to) + at, piece, n);
    at += n;
  }
}

void Stream::download(void* host, const void* from, int64_t bytes) {
  submit();
  if (ok() && bytes > 0) {
    check(cudaMemcpyAsync(host, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, stream_), "download");
  }
  synchronize();
}

void Stream::wait() {
  submit();
  join_aside();
  synchronize();
}

void Stream::synchronize() {
  if (!ok() || !check(cudaStreamSynchronize(stream_), "wait")) return;
  unused_ = staged_.n == 0 && !aside_pending_;
}

void Stream::drain() noexcept {
  cudaStreamSynchronize(stream_);
  if (aside_ != nullptr) cudaStreamSynchronize(aside_);
}

const void* Lists::shared_bytes(const void* from, int64_t bytes) {
  if (from == nullptr || bytes <= 0) return nullptr;
  // Items that share a list are near each other: the heads of a layer.
  for (std::size_t back = 1; back <= std::min(known_.size(), kLookBack); ++back) {
    const Known& known = known_[known_.size() - back];
    if (known.host == from && known.bytes == bytes) return known.device;
  }
  void* copy = stream_.stage(bytes);
  if (copy == nullptr) return nullptr;
  std::memcpy(copy, from, static_cast<std::size_t>(bytes));
  known_.push_back({from, bytes, stream_.device_address(copy)});
  return known_.back().device;
}

void matrix_product(Stream& stream, const MatrixProduct& product) {
  const bool empty = product.m <= 0 || product.n <= 0 || product.k <= 0;
  if (!empty && stream.ok() && !stream.keeps(product)) stream.multiply(product);
}

}  // namespace skv::cuda
