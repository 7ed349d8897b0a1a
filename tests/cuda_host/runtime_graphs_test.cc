// Graphs of the fake runtime run what they were made of, in any order that was not excluded, and what a device
// refuses while a stream is captured is refused.
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/common/cuda/products.h"
#include "tests/cuda_host/runtime_fixture.h"

namespace skv::test {
namespace {

using cuda::add_kernel_node;
using cuda::launch_kernel;
using cuda::set_kernel_node;

class RuntimeGraphs : public Runtime {
 protected:
  // A graph of appends, each after the one before it or all beside each other; with its nodes.
  struct Appends {
    cudaGraph_t graph = nullptr;
    std::vector<cudaGraphNode_t> nodes;
  };
  Appends appends(const Log& values, bool chained = true) {
    Appends made;
    EXPECT_EQ(cudaGraphCreate(&made.graph, 0), cudaSuccess);
    for (const int32_t value : values) {
      const std::size_t n = chained && !made.nodes.empty() ? 1 : 0;
      cudaGraphNode_t node = nullptr;
      EXPECT_EQ(add_kernel_node(&node, made.graph, made.nodes.data() + made.nodes.size() - n, n, Append(log_, value)),
                cudaSuccess);
      made.nodes.push_back(node);
    }
    return made;
  }
  cudaGraphExec_t executable(cudaGraph_t graph) {
    cudaGraphExec_t exec = nullptr;
    EXPECT_EQ(cudaGraphInstantiate(&exec, graph), cudaSuccess);
    return exec;
  }
  Log run(cudaGraphExec_t exec) {
    EXPECT_EQ(cudaGraphLaunch(exec, a_), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(a_), cudaSuccess);
    return taken();
  }
  // What becomes of a capture in which this was done.
  cudaError_t end_of_capture(cudaError_t expected, const std::function<cudaError_t()>& done) {
    EXPECT_EQ(cudaStreamBeginCapture(a_, cudaStreamCaptureModeRelaxed), cudaSuccess);
    append(1, a_);
    EXPECT_EQ(done(), expected);
    cudaGraph_t graph = nullptr;
    const cudaError_t error = cudaStreamEndCapture(a_, &graph);
    EXPECT_EQ(graph == nullptr, error != cudaSuccess);
    if (graph != nullptr) cudaGraphDestroy(graph);
    return error;
  }
};

TEST_F(RuntimeGraphs, AProductIsQueuedAndCaptured) {
  cuda::Products* products = cuda::make_products(a_);
  {
    cuda::Stream stream(a_, {}, products);
    auto* x = reinterpret_cast<float*>(pinned(3));
    x[0] = 3.0f;
    x[1] = 4.0f;
    cuda::MatrixProduct product{DType::f32, false, false, 1, 1, 1, x, 1, x + 1, 1, x + 2, 1};
    cuda::run_product(stream, product);
    EXPECT_EQ(x[2], 0.0f);
    stream.wait();
    EXPECT_EQ(x[2], 12.0f);
    EXPECT_EQ(cudaStreamBeginCapture(a_, cudaStreamCaptureModeRelaxed), cudaSuccess);
    cuda::run_product(stream, product);
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(a_, &graph), cudaSuccess);
    x[0] = 5.0f;
    stream.wait();
    EXPECT_EQ(x[2], 12.0f);
    cudaGraphExec_t exec = executable(graph);
    run(exec);
    EXPECT_EQ(x[2], 20.0f);
    EXPECT_STREQ(stream.failure(), "");
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
  }
  cuda::free_products(products);
}

TEST_F(RuntimeGraphs, ACaptureRunsWhenItsGraphDoes) {
  append(1, a_);
  ASSERT_EQ(cudaStreamBeginCapture(a_, cudaStreamCaptureModeRelaxed), cudaSuccess);
  EXPECT_EQ(cudaStreamBeginCapture(a_, cudaStreamCaptureModeRelaxed), cudaErrorIllegalState);
  append(2, a_);
  EXPECT_EQ(cudaMemsetAsync(log_ + 40, 1, 4, a_), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(other_log_, log_, 4, cudaMemcpyDefault, a_), cudaSuccess);
  append(3, a_);
  cudaGraph_t graph = nullptr, none = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(a_, &graph), cudaSuccess);
  EXPECT_EQ(cudaStreamEndCapture(a_, &none), cudaErrorIllegalState);
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaSuccess);
  EXPECT_EQ(taken(), Log{1}) << "what was captured has not run";
  cudaGraphExec_t exec = executable(graph);
  EXPECT_EQ(run(exec), (Log{2, 3}));
  EXPECT_EQ(run(exec), (Log{2, 3}));
  EXPECT_EQ(other_log_[0], 1) << "the copy is between the two";
  EXPECT_EQ(log_[40], 0x01010101);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
}

TEST_F(RuntimeGraphs, AnExecutableGraphIsACopy) {
  Appends made = appends({1, 2, 3});
  cudaGraphExec_t exec = executable(made.graph);
  cudaGraphNode_t node = nullptr;
  EXPECT_EQ(add_kernel_node(&node, made.graph, nullptr, 0, Append(log_, 4)), cudaSuccess);
  EXPECT_EQ(set_kernel_node(exec, node, Append(log_, 5)), cudaErrorInvalidValue) << "it came later";
  EXPECT_EQ(cudaGraphDestroy(made.graph), cudaSuccess);
  EXPECT_EQ(run(exec), (Log{1, 2, 3}));
  EXPECT_EQ(cudaGraphLaunch(exec, a_), cudaSuccess);
  EXPECT_EQ(cudaGraphLaunch(exec, b_), cudaSuccess);
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(log_[0], 0);
  EXPECT_EQ(cudaStreamSynchronize(b_), cudaSuccess);
  EXPECT_EQ(taken(), (Log{1, 2, 3, 1, 2, 3})) << "launches of one graph follow each other";
}

TEST_F(RuntimeGraphs, ANodeIsSetForLaterLaunches) {
  Appends made = appends({1, 2, 3}), others = appends({8});
  cudaGraphExec_t exec = executable(made.graph);
  EXPECT_EQ(cudaGraphLaunch(exec, a_), cudaSuccess);
  EXPECT_EQ(set_kernel_node(exec, made.nodes[1], Append(log_, 20, 2)), cudaSuccess);
  EXPECT_EQ(run(exec), (Log{1, 2, 3, 1, 20, 21, 3}));
  EXPECT_EQ(set_kernel_node(exec, others.nodes[0], Append(log_, 5)), cudaErrorInvalidValue);
  EXPECT_EQ(set_kernel_node(exec, made.nodes[0], Append(log_, 5, 0)), cudaErrorInvalidValue);
  cudaGraphDestroy(made.graph);
  EXPECT_EQ(set_kernel_node(exec, made.nodes[1], Append(log_, 5)), cudaErrorInvalidValue);
  EXPECT_NE(cuda_host::take_findings().find("graph that was destroyed"), std::string::npos);
  EXPECT_EQ(run(exec), (Log{1, 20, 21, 3}));
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(others.graph);
}

TEST_F(RuntimeGraphs, ANodeMayComeAfterSeveral) {
  Appends made = appends({1, 2, 3}, false);
  cudaGraphNode_t last = nullptr;
  const cudaGraphNode_t twice[] = {made.nodes[0], made.nodes[0]};
  EXPECT_EQ(add_kernel_node(&last, made.graph, twice, 2, Append(log_, 4)), cudaErrorInvalidValue);
  EXPECT_EQ(add_kernel_node(&last, made.graph, made.nodes.data(), 3, Append(log_, 4)), cudaSuccess);
  cudaGraphExec_t exec = executable(made.graph);
  for (uint64_t seed = 0; seed < 8; ++seed) {
    cuda_host::set_seed(seed);
    EXPECT_EQ(run(exec).back(), 4) << "seed " << seed;
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(made.graph);
}

// 1, then a child graph of 2 and 3, then an empty one, then 4.
TEST_F(RuntimeGraphs, AChildGraphIsACopyInItsPlace) {
  ASSERT_EQ(cudaStreamBeginCapture(b_, cudaStreamCaptureModeRelaxed), cudaSuccess);
  append(2, b_);
  append(3, b_);
  cudaGraph_t child = nullptr, empty = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(b_, &child), cudaSuccess);
  ASSERT_EQ(cudaGraphCreate(&empty, 0), cudaSuccess);
  Appends made = appends({1});
  cudaGraphNode_t in_place = nullptr, nothing = nullptr, last = nullptr;
  EXPECT_EQ(cudaGraphAddChildGraphNode(&in_place, made.graph, made.nodes.data(), 1, child), cudaSuccess);
  EXPECT_EQ(cudaGraphAddChildGraphNode(&nothing, made.graph, &in_place, 1, empty), cudaSuccess);
  EXPECT_EQ(add_kernel_node(&last, made.graph, &nothing, 1, Append(log_, 4)), cudaSuccess);
  EXPECT_EQ(add_kernel_node(&last, child, made.nodes.data(), 1, Append(log_, 4)), cudaErrorInvalidValue);
  cudaGraphDestroy(child);
  cudaGraphDestroy(empty);
  cudaGraphExec_t exec = executable(made.graph);
  for (uint64_t seed = 0; seed < 8; ++seed) {
    cuda_host::set_seed(seed);
    EXPECT_EQ(run(exec), (Log{1, 2, 3, 4})) << "seed " << seed;
  }
  EXPECT_EQ(set_kernel_node(exec, in_place, Append(log_, 5)), cudaErrorInvalidValue) << "it is no kernel";
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(made.graph);
}

TEST_F(RuntimeGraphs, AMissingDependencyShows) {
  for (const bool chained : {true, false}) {
    Appends made = appends({1, 2, 3}, chained);
    cudaGraphExec_t exec = executable(made.graph);
    std::set<Log> seen;
    for (uint64_t seed = 0; seed < 8; ++seed) {
      cuda_host::set_seed(seed);
      seen.insert(run(exec));
    }
    EXPECT_TRUE(seen.contains({1, 2, 3}));
    EXPECT_EQ(seen.contains({3, 2, 1}), !chained);
    EXPECT_EQ(seen.size() == 1, chained);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(made.graph);
  }
}

TEST_F(RuntimeGraphs, ARefusedGraphIsNoLostDevice) {
  cuda_host::Faults faults;
  faults.graphs_refused = true;
  cuda_host::set_faults(faults);
  Appends made = appends({1});
  cudaGraphExec_t exec = nullptr;
  EXPECT_EQ(cudaGraphInstantiate(&exec, made.graph), cudaErrorMemoryAllocation);
  EXPECT_EQ(exec, nullptr);
  append(1, a_);
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaSuccess);
  EXPECT_EQ(read(log_), Log{1});
  cudaGraphDestroy(made.graph);
}

TEST_F(RuntimeGraphs, LaunchesOfGraphsAreCountedAndCanFail) {
  Appends made = appends({1, 2, 3});
  cudaGraphExec_t exec = executable(made.graph);
  EXPECT_EQ(cuda_host::usage().launches, before_.launches);
  EXPECT_EQ(cuda_host::usage().graphs, before_.graphs + 2);
  run(exec);
  EXPECT_EQ(cuda_host::usage().launches, before_.launches + 3);
  EXPECT_EQ(cuda_host::usage().graph_launches, before_.graph_launches + 1);
  cuda_host::Faults faults;
  faults.launches_before_failure = 2;
  cuda_host::set_faults(faults);
  EXPECT_EQ(cudaGraphLaunch(exec, a_), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaErrorIllegalAddress);
  EXPECT_EQ(log_[0], 0) << "a lost device does no more";
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(made.graph);
}

TEST_F(RuntimeGraphs, WhatAGraphCopiesMustBeThere) {
  if (!cuda_host::checks_accesses()) GTEST_SKIP() << "AddressSanitizer's own";
  int32_t* device = nullptr;
  cudaMalloc(&device, 4);
  ASSERT_EQ(cudaStreamBeginCapture(a_, cudaStreamCaptureModeRelaxed), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(device, log_, 4, cudaMemcpyDefault, a_), cudaSuccess);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(a_, &graph), cudaSuccess);
  cudaGraphExec_t exec = executable(graph);
  EXPECT_EQ(run(exec), Log{});
  cudaFree(device);
  EXPECT_EQ(cudaGraphLaunch(exec, a_), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaErrorIllegalAddress);
  EXPECT_NE(cuda_host::take_findings().find("copy to memory (freed)"), std::string::npos);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
}

TEST_F(RuntimeGraphs, ACaptureThatIsWaitedForIsInvalid) {
  int32_t on_host = 0;
  const auto nothing = [] { return cudaSuccess; };
  EXPECT_EQ(end_of_capture(cudaSuccess, nothing), cudaSuccess);
  const std::pair<cudaError_t, std::function<cudaError_t()>> wrong[] = {
      {cudaErrorStreamCaptureUnsupported, [&] { return cudaStreamSynchronize(a_); }},
      {cudaErrorStreamCaptureUnsupported, [&] { return cudaStreamQuery(a_); }},
      {cudaErrorStreamCaptureUnsupported, [&] { return cudaDeviceSynchronize(); }},
      {cudaErrorStreamCaptureUnsupported, [&] { return cudaEventRecord(event_, a_); }},
      {cudaErrorStreamCaptureIsolation, [&] { return cudaStreamWaitEvent(a_, event_); }},
      {cudaErrorStreamCaptureUnsupported,
       [&] { return cudaMemcpyAsync(log_, &on_host, 4, cudaMemcpyDefault, a_); }},
      {cudaErrorStreamCaptureUnsupported,
       [&] { return cudaMemcpyAsync(&on_host, log_, 4, cudaMemcpyDefault, a_); }},
      {cudaErrorStreamCaptureInvalidated,
       [&] {
         cudaStreamSynchronize(a_);
         return launch_kernel(Append(log_, 2), a_);
       }},
  };
  for (const auto& [expected, done] : wrong) {
    EXPECT_EQ(end_of_capture(expected, done), cudaErrorStreamCaptureInvalidated);
    append(3, a_);
    EXPECT_EQ(cudaStreamSynchronize(a_), cudaSuccess);
    EXPECT_EQ(taken(), Log{3}) << "the stream can be used again";
  }
}

TEST_F(RuntimeGraphs, OtherStreamsGoOnBesideACapture) {
  EXPECT_EQ(end_of_capture(cudaSuccess, [&] {
              append(2, b_);
              int32_t* p = nullptr;
              EXPECT_EQ(cudaMalloc(&p, 4), cudaSuccess);
              EXPECT_EQ(cudaMemset(p, 0, 4), cudaSuccess);  // the null stream, which streams like a_ do not heed
              EXPECT_EQ(cudaFree(p), cudaSuccess);
              return cudaStreamSynchronize(b_);
            }), cudaSuccess);
  EXPECT_EQ(read(log_), Log{2});
  cudaStreamDestroy(a_);
  cudaStreamCreate(&a_);
  EXPECT_EQ(end_of_capture(cudaErrorStreamCaptureImplicit, [&] { return cudaMemset(log_, 0, 4); }),
            cudaErrorStreamCaptureInvalidated);
}

}  // namespace
}  // namespace skv::test
