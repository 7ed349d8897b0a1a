// Graphs of the fake device. A child graph's nodes become nodes of the graph it is added to.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <deque>
#include <memory>
#include <vector>

#include "tests/cuda_host/fake_streams.h"

namespace skv::cuda_host {

struct GraphWork {
  Work work;
  std::vector<std::size_t> after;  // places of work that comes before
};

// A count of graphs alive, by being a part of them.
class CountedGraph {
 public:
  CountedGraph();
  ~CountedGraph();
  CountedGraph(const CountedGraph&) = delete;
  CountedGraph& operator=(const CountedGraph&) = delete;
};

}  // namespace skv::cuda_host

struct SkvHostGraphNode {
  SkvHostGraph* graph;
  std::size_t place;              // of its kernel, or beyond all
  std::vector<std::size_t> ends;  // what comes after the node comes after these
};

struct SkvHostGraph {
  std::vector<skv::cuda_host::GraphWork> work;
  std::deque<SkvHostGraphNode> nodes;
  std::shared_ptr<const char> alive = std::make_shared<const char>();
  skv::cuda_host::CountedGraph counted;

  void append(skv::cuda_host::Work next);  // after all there is
};
