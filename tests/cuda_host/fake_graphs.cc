#include "tests/cuda_host/fake_graphs.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "tests/cuda_host/fake_device.h"
#include "tests/cuda_host/fake_launch.h"
#include "tests/cuda_host/findings.h"

// A graph's work as it was when this was made, but for kernels that were set since.
struct SkvHostGraphExec {
  std::vector<skv::cuda_host::GraphWork> work;
  std::weak_ptr<const char> graph;
  skv::cuda_host::Point launched;
  skv::cuda_host::CountedGraph counted;
};

namespace skv::cuda_host {

namespace {

constexpr std::size_t kNoKernel = ~std::size_t{0};

Work kernel_work(const cuda::Launch& launch) {
  const auto kernel = std::make_shared<const Kernel>(launch);
  return {Work::Kind::kernel, [kernel](uint64_t order) { kernel->run(order); }};
}

// What a new node comes after; false where one of them is another graph's or is there twice.
bool ends_of(const cudaGraphNode_t* nodes, std::size_t n, const SkvHostGraph* graph, std::vector<std::size_t>* ends) {
  for (std::size_t i = 0; i < n; ++i) {
    if (nodes[i] == nullptr || nodes[i]->graph != graph || std::count(nodes, nodes + i, nodes[i]) > 0) return false;
    ends->insert(ends->end(), nodes[i]->ends.begin(), nodes[i]->ends.end());
  }
  return true;
}

// Places in an order that respects what comes after what, otherwise the seed's.
std::vector<std::size_t> sorted(const std::vector<GraphWork>& work, uint64_t random) {
  std::vector<std::size_t> missing, ready, places;
  std::vector<std::vector<std::size_t>> next(work.size());
  for (std::size_t i = 0; i < work.size(); ++i) {
    missing.push_back(work[i].after.size());
    if (missing[i] == 0) ready.push_back(i);
    for (const std::size_t before : work[i].after) next[before].push_back(i);
  }
  const bool descending = random == 1, shuffled = random >= 2;
  while (!ready.empty()) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    const std::size_t pick = shuffled ? (random >> 33) % ready.size() : descending ? ready.size() - 1 : 0;
    const std::size_t place = ready[pick];
    ready.erase(ready.begin() + static_cast<std::ptrdiff_t>(pick));
    places.push_back(place);
    for (const std::size_t after : next[place]) {
      if (--missing[after] == 0) ready.push_back(after);
    }
  }
  return places;
}

// Launches of one graph follow each other, in whatever streams.
cudaError_t begin_launch(cudaStream_t stream, const Point& last) {
  const std::lock_guard lock(streams_mutex);
  const cudaError_t error = enter(stream);
  if (error != cudaSuccess) return error;
  if (capturing(stream)) return invalidate(stream, cudaErrorStreamCaptureUnsupported);  // not simulated
  push(stream, [last] { last.reach(); });
  add(&Usage::graph_launches, 1);
  return cudaSuccess;
}

}  // namespace

CountedGraph::CountedGraph() { add(&Usage::graphs, 1); }
CountedGraph::~CountedGraph() { add(&Usage::graphs, -1); }

}  // namespace skv::cuda_host

using namespace skv::cuda_host;

void SkvHostGraph::append(Work next) {
  std::vector<std::size_t> after;
  if (!work.empty()) after.push_back(work.size() - 1);
  work.push_back({std::move(next), std::move(after)});
}

namespace skv::cuda {

cudaError_t add_kernel_node(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                            std::size_t n_after, const Launch& launch) {
  *node = nullptr;
  if (state() != cudaSuccess) return returned(state());
  GraphWork added{kernel_work(launch), {}};
  if (check_shape(launch) != cudaSuccess || !ends_of(after, n_after, graph, &added.after)) {
    return returned(cudaErrorInvalidValue);
  }
  const std::size_t place = graph->work.size();
  graph->work.push_back(std::move(added));
  *node = &graph->nodes.emplace_back(graph, place, std::vector<std::size_t>{place});
  return cudaSuccess;
}

cudaError_t set_kernel_node(cudaGraphExec_t exec, cudaGraphNode_t node, const Launch& launch) {
  const std::shared_ptr<const char> graph = exec->graph.lock();
  if (graph == nullptr) {
    found("set node of a graph that was destroyed", nullptr);
    return returned(cudaErrorInvalidValue);
  }
  if (node == nullptr || node->graph->alive != graph || node->place >= exec->work.size() ||
      check_shape(launch) != cudaSuccess) {
    return returned(cudaErrorInvalidValue);
  }
  exec->work[node->place].work = kernel_work(launch);
  return returned(state());
}

}  // namespace skv::cuda

extern "C" {

cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned) {
  *graph = nullptr;
  if (state() != cudaSuccess) return returned(state());
  *graph = new SkvHostGraph;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  if (graph == nullptr) return returned(cudaErrorInvalidValue);
  delete graph;
  return returned(state());
}

cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                       std::size_t n_after, cudaGraph_t child) {
  *node = nullptr;
  if (state() != cudaSuccess) return returned(state());
  std::vector<std::size_t> before, ends;
  if (child == nullptr || child == graph || !ends_of(after, n_after, graph, &before)) {
    return returned(cudaErrorInvalidValue);
  }
  const std::size_t first = graph->work.size();
  for (const GraphWork& of_child : child->work) {
    GraphWork& added = graph->work.emplace_back(of_child);
    for (std::size_t& place : added.after) place += first;
    if (added.after.empty()) added.after = before;
    ends.push_back(graph->work.size() - 1);
  }
  *node = &graph->nodes.emplace_back(graph, kNoKernel, ends.empty() ? before : ends);
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = nullptr;
  if (state() != cudaSuccess) return returned(state());
  if (planted().graphs_refused) return returned(cudaErrorMemoryAllocation);
  *exec = new SkvHostGraphExec;
  (*exec)->work = graph->work;
  (*exec)->graph = graph->alive;
  return cudaSuccess;
}

// Launches that are queued have their own work.
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  if (exec == nullptr) return returned(cudaErrorInvalidValue);
  delete exec;
  return returned(state());
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  cudaError_t error = begin_launch(stream, exec->launched);
  for (const std::size_t place : sorted(exec->work, next_order())) {
    if (error == cudaSuccess) error = submit(stream, exec->work[place].work);
  }
  const std::lock_guard lock(streams_mutex);
  exec->launched = end_of(stream);
  return returned(error);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr) return returned(cudaErrorStreamCaptureUnsupported);
  const std::lock_guard lock(streams_mutex);
  if (capturing(stream)) return returned(cudaErrorIllegalState);
  if (state() != cudaSuccess) return returned(state());
  stream->capture = std::make_unique<SkvHostGraph>();
  stream->invalidated = planted().captures_refused;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  std::this_thread::sleep_for(std::chrono::microseconds(10));  // so that other threads come in between
  const std::lock_guard lock(streams_mutex);
  if (!capturing(stream)) return returned(cudaErrorIllegalState);
  std::unique_ptr<SkvHostGraph> captured = std::move(stream->capture);
  if (std::exchange(stream->invalidated, false)) return returned(cudaErrorStreamCaptureInvalidated);
  if (state() == cudaSuccess) *graph = captured.release();
  return returned(state());
}
}
