// A CUDA stream as ops see it: launches, and the lists (items, spans, page pointers) that a launch reads on the device.
//
//   void some_op_cuda(cuda::Stream& stream, const Desc& desc, std::span<const Item> items) {
//     cuda::Lists lists(stream);
//     auto list = lists.copy(items);                        // a copy that the device will see
//     for (Item& item : list) lists.localize(item.rows);    // host pointers in it become the device's
//     cuda::launch(some_kernel, grid, block, shared_bytes, stream, desc, list.device());
//   }
//
// Errors are sticky and never thrown: after the first one nothing is launched any more and failure() says why. One thread
// at a time.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/common/cuda/kernel.h"
#include "kernels/common/digest_format.h"
#include "kernels/common/paged.h"

namespace skv::cuda {

struct MatrixProduct;  // products.h
class Products;
class Record;  // record.h
class Graphs;  // graphs.h

// n elements that the host writes now and the device reads once launched.
template <class T>
class Staged {
 public:
  Staged(T* host, const T* device, int64_t n) : host_(host), device_(device), n_(n) {}
  T* begin() const { return host_; }
  T* end() const { return host_ + n_; }
  T& operator[](int64_t i) const { return host_[i]; }
  int64_t size() const { return n_; }
  const T* device() const { return device_; }

 private:
  T* host_;
  const T* device_;
  int64_t n_;
};

// Where lists are written and where the device reads them: pinned host memory and device memory of equal size.
struct StagingMemory {
  char* host = nullptr;
  char* device = nullptr;
  int64_t bytes = 0;
};

inline constexpr int64_t kStageAlign = 64;  // of every list

class Stream {
 public:
  // The memory outlives the stream object; products may be null where no op of it is used.
  Stream(cudaStream_t stream, const StagingMemory& memory, Products* products, bool graphs = true);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void launch(const Launch& launch);
  void copy(void* to, const void* from, int64_t bytes);
  void fill(void* to, uint8_t byte, int64_t bytes);
  void upload(void* to, const void* host, int64_t bytes);
  void download(void* host, const void* from, int64_t bytes);  // waits for what is not aside
  void wait();                                                 // for all
  void drain() noexcept;                                       // likewise, whatever has failed

  // Launches and matrix products between the two are kept and handed over together, in large pieces: their lists in one
  // copy, and they as a CUDA graph where they come again (graphs.h). Everything else hands over first what is kept.
  void begin_record();
  void end_record();
  bool keeps(const MatrixProduct& product);  // false: it is to be queued now

  // What is queued between begin_aside() and end_aside() runs beside what comes after, until join(). No library calls.
  void begin_aside();
  void end_aside();
  void join();
  bool has_aside() const { return aside_pending_; }  // queued, and not joined

  // Space for lists, to be written until the next launch; kStageAlign-aligned. Null after a failure, or where what is staged
  // for one launch outgrows a quarter of the memory (a failure).
  void* stage(int64_t bytes);
  int64_t most_staged_bytes() const { return part_bytes(); }
  const void* device_address(const void* staged) const;

  cudaStream_t handle();  // for calls of libraries, after all that is kept
  std::size_t most_shared_bytes() const;  // of a block on this device
  Products* products() const { return products_; }
  bool ok() const { return failure_.empty(); }
  const char* failure() const { return failure_.c_str(); }
  void fail(const char* what, const char* why);
  bool check(cudaError_t error, const char* what);

 private:
  static constexpr int kParts = 4;
  // Staged bytes, by their places.
  struct Ranges {
    struct Range {
      int64_t from, to;
    } at[kParts];
    int n = 0;
    int64_t bytes = 0;
    void add(int64_t from, int64_t to);
  };
  int64_t part_bytes() const { return memory_.bytes / kParts; }
  bool enter_part(int part);
  void send(Ranges* ranges, cudaStream_t stream);  // to the device
  void submit();                                   // what is kept
  void play(const Record& record);
  void multiply(const MatrixProduct& product);
  friend void matrix_product(Stream& stream, const MatrixProduct& product);
  void synchronize();
  bool make_aside();
  void fork();
  void wait_for_aside();
  void join_aside();
  bool is_aside() const { return current_ != stream_; }

  cudaStream_t stream_;
  cudaStream_t aside_ = nullptr;
  cudaStream_t current_;  // of the two
  bool aside_pending_ = false;
  cudaEvent_t aside_begun_ = nullptr, aside_done_ = nullptr;

  StagingMemory memory_;
  Products* products_;
  cudaEvent_t entered_[kParts] = {};  // recorded when a part was begun
  int part_ = 0;
  int64_t used_ = 0;       // of the whole memory; within the part
  bool unused_ = true;     // nothing was staged since all was waited for
  Ranges staged_, kept_;   // for the next launch; for what is recorded

  bool recording_ = false, playing_ = false;
  bool graphs_wanted_;
  std::unique_ptr<Record> record_, spare_;
  std::unique_ptr<Graphs> graphs_;
  std::string failure_;
};

// The lists of one op call. Arrays that neighbouring items share are copied once.
class Lists {
 public:
  explicit Lists(Stream& stream) : stream_(stream) {}

  template <class T>
  Staged<T> make(int64_t n) {  // not initialised
    T* host = static_cast<T*>(stream_.stage(n * static_cast<int64_t>(sizeof(T))));
    return {host, static_cast<const T*>(stream_.device_address(host)), host ? n : 0};
  }
  template <class T>
  Staged<T> copy(std::span<const T> from) {
    Staged<T> list = make<T>(static_cast<int64_t>(from.size()));
    for (int64_t i = 0; i < list.size(); ++i) list[i] = from[static_cast<std::size_t>(i)];
    return list;
  }
  // A host array, for the device.
  template <class T>
  const T* shared(const T* from, int64_t n) {
    return static_cast<const T*>(shared_bytes(from, n * static_cast<int64_t>(sizeof(T))));
  }
  void localize(kernels::PagedRows& rows) { rows.pages = shared(rows.pages, rows.n_pages); }
  void localize(kernels::DigestRows& digest) {
    localize(digest.rows);
    localize(digest.scales);
    localize(digest.variances);
  }

 private:
  struct Known {
    const void* host;
    int64_t bytes;
    const void* device;
  };
  const void* shared_bytes(const void* from, int64_t bytes);

  Stream& stream_;
  std::vector<Known> known_;
};

}  // namespace skv::cuda
