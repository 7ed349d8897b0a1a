// The fake runtime can fail as a real one would: nothing is done before somebody waits for it, and waits that are
// missing show.
#include <functional>
#include <thread>
#include <vector>

#include "tests/cuda_host/runtime_fixture.h"

namespace skv::test {
namespace {

using cuda::launch_kernel;

TEST_F(Runtime, NothingIsDoneBeforeTheHostWaits) {
  int32_t *device = nullptr, on_host = 0;
  const std::function<void()> waits[] = {
      [&] { EXPECT_EQ(cudaStreamSynchronize(a_), cudaSuccess); },
      [&] { EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess); },
      [&] { EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess); },
      [&] { EXPECT_EQ(cudaEventSynchronize(event_), cudaSuccess); },
      [&] { EXPECT_EQ(cudaMemcpyAsync(&on_host, log_, 4, cudaMemcpyDefault, a_), cudaSuccess); },
      [&] { EXPECT_EQ(cudaMemcpy(&on_host, log_, 4, cudaMemcpyDefault), cudaSuccess); },
      [&] { EXPECT_EQ(cudaMemset(device, 0, 4), cudaSuccess); },
      [&] { EXPECT_EQ(cudaFree(device), cudaSuccess); },
      [&] {
        EXPECT_EQ(cudaStreamDestroy(a_), cudaSuccess);
        cudaStreamCreateWithFlags(&a_, cudaStreamNonBlocking);
      },
  };
  EXPECT_EQ(cudaMalloc(&device, 4), cudaSuccess);
  for (const auto& wait : waits) {
    append(7, a_);
    EXPECT_EQ(cudaEventRecord(event_, a_), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(b_), cudaSuccess);
    EXPECT_EQ(log_[0], 0);
    wait();
    EXPECT_EQ(taken(), Log{7});
  }
}

TEST_F(Runtime, CopiesAndFillsAreQueuedToo) {
  EXPECT_EQ(cudaMemsetAsync(log_ + 4, 1, 4, a_), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(other_log_, log_ + 4, 4, cudaMemcpyDefault, a_), cudaSuccess);
  EXPECT_EQ(log_[4] + other_log_[0], 0);
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaSuccess);
  EXPECT_EQ(other_log_[0], 0x01010101);
}

TEST_F(Runtime, WhoPollsGetsThere) {
  for (int32_t i = 0; i < 3; ++i) append(i, a_);
  EXPECT_EQ(cudaEventRecord(event_, a_), cudaSuccess);
  append(3, a_);
  EXPECT_EQ(cudaEventQuery(event_), cudaErrorNotReady);
  float ms = 0.0f;
  EXPECT_EQ(cudaEventElapsedTime(&ms, event_, event_), cudaErrorNotReady);
  int polls = 1;
  while (cudaEventQuery(event_) == cudaErrorNotReady) ++polls;
  EXPECT_EQ(polls, 3);
  EXPECT_EQ(read(log_), (Log{0, 1, 2}));
  EXPECT_EQ(cudaStreamQuery(a_), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamQuery(a_), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(nullptr), cudaSuccess);
}

TEST_F(Runtime, AMissingWaitBetweenStreamsShows) {
  for (const bool waits : {false, true}) {
    append(1, a_);
    EXPECT_EQ(cudaEventRecord(event_, a_), cudaSuccess);
    EXPECT_EQ(waits ? cudaStreamWaitEvent(b_, event_) : cudaSuccess, cudaSuccess);
    append(2, b_);
    EXPECT_EQ(cudaStreamSynchronize(b_), cudaSuccess);
    EXPECT_EQ(read(log_), waits ? (Log{1, 2}) : Log{2});
    EXPECT_EQ(cudaStreamSynchronize(a_), cudaSuccess);
    EXPECT_EQ(taken(), waits ? (Log{1, 2}) : (Log{2, 1}));
  }
}

TEST_F(Runtime, StreamsThatWaitForEachOtherInTurn) {
  Log want;
  for (int32_t i = 0; i < 20; ++i) {
    cudaStream_t stream = i % 2 == 0 ? a_ : b_;
    append(i, stream);
    EXPECT_EQ(cudaEventRecord(event_, stream), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(i % 2 == 0 ? b_ : a_, event_), cudaSuccess);
    want.push_back(i);
  }
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(read(log_), want);
}

TEST_F(Runtime, AnEventIsWhereItWasRecordedLast) {
  EXPECT_EQ(cudaStreamWaitEvent(b_, event_), cudaSuccess);  // recorded nowhere: no wait
  EXPECT_EQ(cudaEventQuery(event_), cudaSuccess);
  append(1, a_);
  EXPECT_EQ(cudaEventRecord(event_, a_), cudaSuccess);
  EXPECT_EQ(cudaStreamWaitEvent(b_, event_), cudaSuccess);  // for the first append alone, whatever comes later
  append(2, a_);
  EXPECT_EQ(cudaEventRecord(event_, a_), cudaSuccess);
  append(3, a_);
  EXPECT_EQ(cudaStreamSynchronize(b_), cudaSuccess);
  EXPECT_EQ(read(log_), Log{1});
  EXPECT_EQ(cudaEventSynchronize(event_), cudaSuccess);
  EXPECT_EQ(read(log_), (Log{1, 2}));
}

TEST_F(Runtime, AWaitOutlivesItsEventAndItsStream) {
  cudaEvent_t event = nullptr;
  cudaEventCreate(&event);
  cudaStream_t stream = nullptr;
  cudaStreamCreate(&stream);
  append(1, stream);
  EXPECT_EQ(cudaEventRecord(event, stream), cudaSuccess);
  EXPECT_EQ(cudaStreamWaitEvent(b_, event), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
  append(2, b_);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaStreamSynchronize(b_), cudaSuccess);
  EXPECT_EQ(read(log_), (Log{1, 2}));
}

TEST_F(Runtime, APinnedSourceThatIsWrittenTooEarlyShowsAndAPageableOneMayBe) {
  std::vector<int32_t> pageable(1, 5);
  int32_t* source = pinned(1);
  *source = 5;
  EXPECT_EQ(cudaMemcpyAsync(log_, source, 4, cudaMemcpyDefault, a_), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(other_log_, pageable.data(), 4, cudaMemcpyDefault, a_), cudaSuccess);
  *source = pageable[0] = 6;
  EXPECT_EQ(other_log_[0], 0);
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaSuccess);
  EXPECT_EQ(log_[0], 6);
  EXPECT_EQ(other_log_[0], 5);
  log_[0] = 0;
}

TEST_F(Runtime, ACopyBetweenPageableMemoriesComesAfterWhatIsQueued) {
  std::vector<int32_t> from(1, 5), to(1, 0);
  EXPECT_EQ(cudaMemsetAsync(from.data(), 1, 4, a_), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(to.data(), from.data(), 4, cudaMemcpyDefault, a_), cudaSuccess);
  EXPECT_EQ(to[0], 0x01010101);
}

TEST_F(Runtime, ArgumentsAndOrdersAreThoseOfTheCall) {
  Append launch(log_, 10, 3);
  for (const uint64_t seed : {1, 0}) {
    cuda_host::set_seed(seed);
    EXPECT_EQ(launch_kernel(launch, a_), cudaSuccess);
    launch.set(20);
  }
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaSuccess);
  EXPECT_EQ(read(log_), (Log{12, 11, 10, 20, 21, 22}));
}

// Each host thread has its stream; events and frees reach into those of others.
TEST_F(Runtime, HostThreadsUseStreamsSideBySide) {
  constexpr int kThreads = 4, kRounds = 500;
  std::vector<int32_t*> logs;
  for (int i = 0; i < kThreads; ++i) logs.push_back(pinned(1 + kRounds));
  std::vector<std::thread> threads;
  for (int32_t* log : logs) {
    threads.emplace_back([this, log] {
      cudaStream_t stream = nullptr;
      cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
      for (int32_t round = 0; round < kRounds; ++round) {
        launch_kernel(Append(log, round), stream);
        cudaStreamWaitEvent(stream, event_);
        cudaEventRecord(event_, stream);
        void* p = nullptr;
        cudaMalloc(&p, 64);
        if (round % 4 != 0) cudaStreamSynchronize(stream);
        cudaFree(p);
      }
      cudaStreamDestroy(stream);
    });
  }
  for (std::thread& thread : threads) thread.join();
  Log want;
  for (int32_t round = 0; round < kRounds; ++round) want.push_back(round);
  for (int32_t* log : logs) EXPECT_EQ(read(log), want);
}

}  // namespace
}  // namespace skv::test
