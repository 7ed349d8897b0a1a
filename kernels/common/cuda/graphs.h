// CUDA graphs of records that come again, as a decode step of the same batch size does: one launch for the device instead
// of one for each kernel.
//
// A record that comes for the second time becomes a graph (the first time loads kernels and chooses algorithms, which must
// not happen while a product is captured). From then on only launches that changed are set anew.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/common/cuda/record.h"

namespace skv::cuda {

class Stream;

// A device cannot be waited for while one of its streams captures (graphs do, for a moment, when they are made). Held by
// who does the one or the other, and around calls of libraries that may wait for the device.
std::recursive_mutex& capture_mutex();

class Graphs {
 public:
  Graphs();
  ~Graphs();  // the stream has been waited for
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  // Queues what the record holds; the record is then some other one, to be cleared and used again. False where no graph
  // serves: nothing was queued then.
  bool launch(Stream& stream, Record& record);

 private:
  struct Known;
  Known* find(const Record& record);
  void remember(const Record& record);
  static bool build(Stream& stream, Known& known);
  static bool update(Known& known, const Record& last);

  std::vector<std::unique_ptr<Known>> known_;
  uint64_t clock_ = 0;
};

}  // namespace skv::cuda
