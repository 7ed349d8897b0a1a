#include "kernels/common/cuda/graphs.h"

#include <algorithm>
#include <utility>

#include "kernels/common/cuda/stream.h"

namespace skv::cuda {

namespace {

constexpr std::size_t kMostKnown = 128;    // some pieces of a step for each batch size; their graphs hold device memory
constexpr std::size_t kLeastLaunches = 8;  // fewer are not worth a graph

// A product as a graph of its own: what the library queues for it.
bool capture_product(Stream& stream, const MatrixProduct& product, cudaGraph_t* graph) {
  *graph = nullptr;
  const std::lock_guard lock(capture_mutex());
  // Relaxed: other threads may go on allocating.
  if (cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeRelaxed) != cudaSuccess) return false;
  const char* why = run_product(stream, product);
  return cudaStreamEndCapture(stream.handle(), graph) == cudaSuccess && why == nullptr;
}

// The nodes that the next one comes after, as streams would have it.
class Order {
 public:
  void mark(Kind kind) {
    if (kind == Kind::begin_aside) aside_ = true, forked_ = true;
    if (kind == Kind::end_aside) aside_ = false;
    if (kind == Kind::join) joined_ = true;
  }
  std::size_t before(cudaGraphNode_t (&nodes)[2]) const {
    std::size_t n = 0;
    if (main_ != nullptr && (!aside_ || forked_)) nodes[n++] = main_;
    if (beside_ != nullptr && (aside_ || joined_)) nodes[n++] = beside_;
    return n;
  }
  void add(cudaGraphNode_t node) {
    if (aside_) beside_ = node, forked_ = false;
    else main_ = node;
    if (!aside_ && joined_) beside_ = nullptr, joined_ = false;
  }

 private:
  cudaGraphNode_t main_ = nullptr, beside_ = nullptr;  // the last of each
  bool aside_ = false, forked_ = false, joined_ = false;
};

bool add_product(Stream& stream, const MatrixProduct& product, cudaGraph_t graph, const cudaGraphNode_t* after,
                 std::size_t n_after, cudaGraphNode_t* node) {
  cudaGraph_t captured = nullptr;
  const bool added = capture_product(stream, product, &captured) &&
                     cudaGraphAddChildGraphNode(node, graph, after, n_after, captured) == cudaSuccess;
  if (captured != nullptr) cudaGraphDestroy(captured);
  return added;
}

}  // namespace

std::recursive_mutex& capture_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

struct Graphs::Known {
  Record record;  // as it was last launched
  uint64_t used = 0;
  bool refused = false;  // no graph could be made of it
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  std::vector<cudaGraphNode_t> nodes;

  void drop() {
    if (exec != nullptr) cudaGraphExecDestroy(exec);
    if (graph != nullptr) cudaGraphDestroy(graph);
    exec = nullptr;
    graph = nullptr;
    nodes.clear();
  }
  ~Known() { drop(); }
};

Graphs::Graphs() = default;
Graphs::~Graphs() = default;

Graphs::Known* Graphs::find(const Record& record) {
  for (const auto& known : known_) {
    if (known->record.same_work(record)) return known.get();
  }
  return nullptr;
}

void Graphs::remember(const Record& record) {
  if (known_.size() == kMostKnown) {
    const auto oldest = std::min_element(known_.begin(), known_.end(),
                                         [](const auto& a, const auto& b) { return a->used < b->used; });
    known_.erase(oldest);
  }
  auto known = std::make_unique<Known>();
  known->record = record;
  known->used = ++clock_;
  known_.push_back(std::move(known));
}

bool Graphs::build(Stream& stream, Known& known) {
  if (cudaGraphCreate(&known.graph, 0) != cudaSuccess) return false;
  const Record& record = known.record;
  std::vector<void*> addresses;
  Order order;
  known.nodes.assign(record.size(), nullptr);
  for (std::size_t i = 0; i < record.size(); ++i) {
    cudaGraphNode_t after[2], &node = known.nodes[i];
    const std::size_t n = order.before(after);
    bool added = true;
    switch (record.kind(i)) {
      case Kind::launch:
        added = add_kernel_node(&node, known.graph, after, n, record.launch(i, &addresses)) == cudaSuccess;
        break;
      case Kind::product: added = add_product(stream, record.product(i), known.graph, after, n, &node); break;
      default: order.mark(record.kind(i));
    }
    if (!added) return false;
    if (node != nullptr) order.add(node);
  }
  return cudaGraphInstantiate(&known.exec, known.graph, 0) == cudaSuccess;
}

// From what the last record set.
bool Graphs::update(Known& known, const Record& last) {
  const Record& record = known.record;
  std::vector<void*> addresses;
  for (std::size_t i = 0; i < record.size(); ++i) {
    if (record.kind(i) != Kind::launch || record.same_launch(last, i)) continue;
    if (set_kernel_node(known.exec, known.nodes[i], record.launch(i, &addresses)) != cudaSuccess) return false;
  }
  return true;
}

bool Graphs::launch(Stream& stream, Record& record) {
  if (record.size() < kLeastLaunches) return false;
  Known* known = find(record);
  if (known == nullptr) {
    remember(record);
    return false;
  }
  known->used = ++clock_;
  if (known->refused) return false;
  std::swap(known->record, record);
  const bool ready = known->exec == nullptr ? build(stream, *known) : update(*known, record);
  if (ready && cudaGraphLaunch(known->exec, stream.handle()) == cudaSuccess) return true;
  // What ails the device itself, the plain launches will say.
  std::swap(known->record, record);
  known->drop();
  known->refused = true;
  cudaGetLastError();
  return false;
}

}  // namespace skv::cuda
