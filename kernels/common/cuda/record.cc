#include "kernels/common/cuda/record.h"

#include <cstring>

namespace skv::cuda {

namespace {

constexpr std::size_t kArgumentAlign = 16;

std::size_t aligned(std::size_t bytes) { return (bytes + kArgumentAlign - 1) / kArgumentAlign * kArgumentAlign; }

bool same(const dim3& a, const dim3& b) { return a.x == b.x && a.y == b.y && a.z == b.z; }

}  // namespace

void Record::add(const Launch& launch) {
  Entry entry;
  entry.launch = launch;
  entry.launch.args = nullptr;
  entry.first = arguments_.size();
  for (int i = 0; i < launch.n_args; ++i) {
    const std::size_t at = arguments_.size();
    arguments_.resize(at + aligned(launch.arg_bytes[i]));
    std::memcpy(arguments_.data() + at, launch.args[i], launch.arg_bytes[i]);
  }
  entry.bytes = arguments_.size() - entry.first;
  entries_.push_back(entry);
}

void Record::add(const MatrixProduct& product) {
  Entry entry;
  entry.kind = Kind::product;
  entry.first = products_.size();
  products_.push_back(product);
  entries_.push_back(entry);
}

void Record::add(Kind mark) {
  Entry entry;
  entry.kind = mark;
  entries_.push_back(entry);
}

void Record::clear() {
  entries_.clear();
  products_.clear();
  arguments_.clear();
}

Launch Record::launch(std::size_t i, std::vector<void*>* addresses) const {
  const Entry& entry = entries_[i];
  addresses->clear();
  const unsigned char* at = arguments_.data() + entry.first;
  for (int a = 0; a < entry.launch.n_args; ++a) {
    addresses->push_back(const_cast<unsigned char*>(at));
    at += aligned(entry.launch.arg_bytes[a]);
  }
  Launch launch = entry.launch;
  launch.args = addresses->data();
  return launch;
}

bool Record::same_work(const Record& other) const {
  if (size() != other.size() || products_ != other.products_) return false;
  for (std::size_t i = 0; i < size(); ++i) {
    if (entries_[i].kind != other.entries_[i].kind) return false;
    if (entries_[i].launch.kernel != other.entries_[i].launch.kernel) return false;
  }
  return true;
}

bool Record::same_launch(const Record& other, std::size_t i) const {
  const Entry &a = entries_[i], &b = other.entries_[i];
  return same(a.launch.grid, b.launch.grid) && same(a.launch.block, b.launch.block) &&
         a.launch.shared_bytes == b.launch.shared_bytes && a.bytes == b.bytes &&
         std::memcmp(arguments_.data() + a.first, other.arguments_.data() + b.first, a.bytes) == 0;
}

}  // namespace skv::cuda
