// Who touched which byte of a block's shared memory, and when.
//
// An access is ordered after another if it is by the same thread, if a barrier of the block lies between, or, within
// a warp, a __syncwarp. Shuffles and votes order nothing, as in CUDA's memory model. A write and another access that
// are not ordered are a race, unless both are atomic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace skv::cuda_host {

enum class Access { read, write, atomic };

class SharedShadow {
 public:
  void reset(std::size_t bytes, int warps);
  void pass_barrier() { ++epoch_; }
  void pass_warp(int warp) { ++warp_epochs_[static_cast<std::size_t>(warp)]; }

  // Null, or what is wrong with thread's access to [at, at + bytes) of the shared memory; *word is the 4-byte word,
  // *other a thread it conflicts with or -1.
  const char* access(Access access, int thread, std::size_t at, std::size_t bytes, std::size_t* word, int* other) {
    const char* wrong = nullptr;
    *other = -1;
    for (const std::size_t end = at + bytes; at < end;) {
      const std::size_t index = at / 4, first = at % 4, last = end - index * 4 < 4 ? end - index * 4 : 4;
      const unsigned mask = (0xfu << first) & ((1u << last) - 1u);
      const char* found = check_word(words_[index], access, thread, mask, other);
      if (found != nullptr && wrong == nullptr) {
        wrong = found;
        *word = index;
      }
      at = index * 4 + last;
    }
    return wrong;
  }
  // cp.async of 16 bytes: in flight, then there and written by thread.
  const char* begin_copy(int thread, std::size_t at, std::size_t* word, int* other);
  void end_copy(int thread, std::size_t at);

 private:
  struct Word {
    uint64_t writer[4] = {};  // stamp of the last write of each byte; 0: never written
    uint64_t reader[2] = {};  // of two warps, if two warps have read it since the barrier
    uint8_t read_mask[2] = {};
    bool in_flight = false;
  };
  // Stamp: atomic flag, barrier epoch, epoch of the warp, thread + 1.
  static constexpr int kThreadBits = 11, kWarpBits = 26;
  static constexpr uint64_t kAtomic = uint64_t{1} << 63, kThreadMask = (1u << kThreadBits) - 1;
  uint64_t stamp(int thread) const {
    return epoch_ << (kThreadBits + kWarpBits) | warp_epochs_[static_cast<std::size_t>(thread) / 32] << kThreadBits |
           static_cast<uint64_t>(thread + 1);
  }
  bool ordered(uint64_t stamp, int thread) const {
    stamp &= ~kAtomic;
    if (stamp >> (kThreadBits + kWarpBits) < epoch_) return true;  // never written, too
    const int other = static_cast<int>(stamp & kThreadMask) - 1;
    if (other == thread) return true;
    return other / 32 == thread / 32 && (stamp >> kThreadBits & ((uint64_t{1} << kWarpBits) - 1)) <
                                            warp_epochs_[static_cast<std::size_t>(thread) / 32];
  }
  // Most words have been written as a whole, and are read as a whole, with a barrier between.
  const char* check_word(Word& word, Access access, int thread, unsigned mask, int* other) {
    const uint64_t writer = word.writer[0];
    if (mask != 0xf || word.in_flight || writer == 0 || !ordered(writer, thread) || writer != word.writer[1] ||
        writer != word.writer[2] || writer != word.writer[3] || access == Access::atomic) {
      return check_bytes(word, access, thread, mask, other);
    }
    const uint64_t now = stamp(thread);
    if (access == Access::read) {
      if (word.reader[0] == now || word.reader[1] == now) {
        (word.reader[0] == now ? word.read_mask[0] : word.read_mask[1]) = 0xf;
      } else if (ordered(word.reader[0], thread)) {
        word.reader[0] = now;
        word.read_mask[0] = 0xf;
      } else {
        note_read(word, thread, mask);
      }
      return nullptr;
    }
    if (!ordered(word.reader[0], thread) || !ordered(word.reader[1], thread)) {
      return check_bytes(word, access, thread, mask, other);
    }
    for (uint64_t& each : word.writer) each = now;
    return nullptr;
  }
  const char* check_bytes(Word& word, Access access, int thread, unsigned mask, int* other);
  void note_read(Word& word, int thread, unsigned mask);

  uint64_t epoch_ = 1;
  std::vector<uint64_t> warp_epochs_;
  std::vector<Word> words_;
};

}  // namespace skv::cuda_host
