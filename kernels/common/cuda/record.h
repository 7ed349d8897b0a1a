// Launches and matrix products in the order of a stream, kept with copies of their arguments; some of them aside (stream.h).
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/common/cuda/kernel.h"
#include "kernels/common/cuda/products.h"

namespace skv::cuda {

// What an entry is. The last three say where those after them run, and what they wait for.
enum class Kind { launch, product, begin_aside, end_aside, join };

class Record {
 public:
  void add(const Launch& launch);
  void add(const MatrixProduct& product);
  void add(Kind mark);
  void clear();
  bool empty() const { return entries_.empty(); }
  std::size_t size() const { return entries_.size(); }

  Kind kind(std::size_t i) const { return entries_[i].kind; }
  const MatrixProduct& product(std::size_t i) const { return products_[entries_[i].first]; }
  // Its arguments are this record's, listed in addresses.
  Launch launch(std::size_t i, std::vector<void*>* addresses) const;

  // The same in the same order, but for kernels' grids, blocks, shared memory and arguments.
  bool same_work(const Record& other) const;
  // Whether the i-th, a launch of both, is so too.
  bool same_launch(const Record& other, std::size_t i) const;

 private:
  struct Entry {
    Kind kind = Kind::launch;
    Launch launch;
    std::size_t first = 0, bytes = 0;  // of its arguments; first: or the index of its product
  };

  std::vector<Entry> entries_;
  std::vector<MatrixProduct> products_;
  std::vector<unsigned char> arguments_;
};

}  // namespace skv::cuda
