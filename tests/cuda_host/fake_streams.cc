#include "tests/cuda_host/fake_streams.h"

#include <atomic>
#include <set>
#include <utility>

#include "tests/cuda_host/fake_device.h"
#include "tests/cuda_host/fake_graphs.h"
#include "tests/cuda_host/fake_launch.h"

struct SkvHostEvent {
  skv::cuda_host::Point recorded;
};

namespace skv::cuda_host {

namespace {

// Never destroyed: streams may outlive what is destroyed at the program's end.
std::set<SkvHostStream*>& streams = *new std::set<SkvHostStream*>;
std::atomic<bool> eager = false;

void finish_streams() {
  for (SkvHostStream* stream : streams) stream->queue->run_until(stream->queue->queued());
}

cudaError_t count(Work::Kind kind) {
  switch (kind) {
    case Work::Kind::kernel: return counted(&Usage::launches, &Faults::launches_before_failure);
    case Work::Kind::copy: return counted(&Usage::copies, &Faults::copies_before_failure);
    case Work::Kind::product: break;
  }
  return state();
}

// Not ready is answered first; then one piece runs, so that a host that polls gets there.
cudaError_t query(const Point& point) {
  if (point.reached()) return state();
  point.queue->run_until(point.queue->done() + 1);
  return cudaErrorNotReady;
}

}  // namespace

std::mutex& streams_mutex = *new std::mutex;

void set_eager(bool on) { eager = on; }

void Queue::push(std::function<void()> piece) {
  pieces_.push_back(std::move(piece));
  ++queued_;
  if (eager_) run_until(queued_);
}

// A piece that waits for another stream comes back here, but never for its own queue beyond itself: what it waits for
// was queued before it.
void Queue::run_until(uint64_t count) {
  while (done_ < count) {
    const std::function<void()> piece = std::move(pieces_.front());
    pieces_.pop_front();
    piece();
    ++done_;
  }
}

void push(cudaStream_t stream, std::function<void()> piece) {
  if (stream != nullptr) return stream->queue->push(std::move(piece));
  finish_streams();
  piece();
}

Point end_of(cudaStream_t stream) {
  if (stream != nullptr) return {stream->queue, stream->queue->queued()};
  finish_streams();
  return {};
}

bool capturing(cudaStream_t stream) { return stream != nullptr && stream->capture != nullptr; }

cudaError_t invalidate(cudaStream_t stream, cudaError_t why) {
  stream->invalidated = true;
  return why;
}

cudaError_t enter(cudaStream_t stream) {
  if (stream != nullptr) return stream->invalidated ? cudaErrorStreamCaptureInvalidated : state();
  for (SkvHostStream* other : streams) {
    if (other->blocking && capturing(other)) return invalidate(other, cudaErrorStreamCaptureImplicit);
  }
  return state();
}

cudaError_t submit(cudaStream_t stream, Work work) {
  const std::lock_guard lock(streams_mutex);
  cudaError_t error = enter(stream);
  if (error != cudaSuccess) return error;
  if (capturing(stream)) {
    stream->capture->append(std::move(work));
    return cudaSuccess;
  }
  error = count(work.kind);
  if (error != cudaSuccess) return error;
  push(stream, [run = std::move(work.run), order = next_order()] {
    if (state() == cudaSuccess) run(order);
  });
  return stream == nullptr ? state() : cudaSuccess;
}

void finish(cudaStream_t stream) {
  const std::lock_guard lock(streams_mutex);
  end_of(stream).reach();
}

void finish_device() {
  const std::lock_guard lock(streams_mutex);
  finish_streams();
}

}  // namespace skv::cuda_host

using namespace skv::cuda_host;

SkvHostStream::SkvHostStream() : queue(std::make_shared<Queue>(eager)) { add(&Usage::streams, 1); }
SkvHostStream::~SkvHostStream() { add(&Usage::streams, -1); }

extern "C" {

cudaError_t cudaDeviceSynchronize() {
  const std::lock_guard lock(streams_mutex);
  cudaError_t error = cudaSuccess;
  for (SkvHostStream* stream : streams) {
    if (capturing(stream)) error = invalidate(stream, cudaErrorStreamCaptureUnsupported);
  }
  if (error != cudaSuccess) return returned(error);
  finish_streams();
  return returned(state());
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  *stream = nullptr;
  if (state() != cudaSuccess) return returned(state());
  const std::lock_guard lock(streams_mutex);
  *stream = new SkvHostStream;
  (*stream)->blocking = (flags & cudaStreamNonBlocking) == 0;
  streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(streams_mutex);
  if (streams.erase(stream) == 0) return returned(cudaErrorInvalidResourceHandle);
  end_of(stream).reach();
  delete stream;
  return returned(state());
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const std::lock_guard lock(streams_mutex);
  if (capturing(stream)) return returned(invalidate(stream, cudaErrorStreamCaptureUnsupported));
  end_of(stream).reach();
  return returned(enter(stream));
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const std::lock_guard lock(streams_mutex);
  if (capturing(stream)) return returned(invalidate(stream, cudaErrorStreamCaptureUnsupported));
  return returned(query(end_of(stream)));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event == nullptr) return returned(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(streams_mutex);
  const cudaError_t error = enter(stream);
  if (error != cudaSuccess) return returned(error);
  if (capturing(stream)) return returned(invalidate(stream, cudaErrorStreamCaptureIsolation));
  push(stream, [point = event->recorded] { point.reach(); });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = nullptr;
  if (state() != cudaSuccess) return returned(state());
  *event = new SkvHostEvent;
  add(&Usage::events, 1);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

// What waits for it already goes on doing so.
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (event == nullptr) return returned(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(streams_mutex);
  delete event;
  add(&Usage::events, -1);
  return returned(state());
}

// Forks of a capture into other streams are not simulated.
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (event == nullptr) return returned(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(streams_mutex);
  const cudaError_t error = enter(stream);
  if (error != cudaSuccess) return returned(error);
  if (capturing(stream)) return returned(invalidate(stream, cudaErrorStreamCaptureUnsupported));
  event->recorded = end_of(stream);
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event == nullptr) return returned(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(streams_mutex);
  event->recorded.reach();
  return returned(state());
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event == nullptr) return returned(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(streams_mutex);
  return returned(query(event->recorded));
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  *ms = 0.0f;
  const std::lock_guard lock(streams_mutex);
  return returned(from->recorded.reached() && to->recorded.reached() ? state() : cudaErrorNotReady);
}
}
