#include "tests/cuda_host/shared_shadow.h"

namespace skv::cuda_host {

namespace {

constexpr char kReadAfterWrite[] = "race: reads what another thread wrote, without a barrier or __syncwarp between";
constexpr char kWriteAfterWrite[] = "race: writes what another thread wrote, without a barrier or __syncwarp between";
constexpr char kWriteAfterRead[] = "race: writes what another thread read, without a barrier or __syncwarp between";

int thread_of(uint64_t stamp) { return static_cast<int>(stamp & 0x7ff) - 1; }

}  // namespace

void SharedShadow::reset(std::size_t bytes, int warps) {
  epoch_ = 1;
  warp_epochs_.assign(static_cast<std::size_t>(warps), 1);
  words_.assign((bytes + 3) / 4, Word{});
}

// Two readers are enough: any writer conflicts with one of two warps' readers, or with one of two lanes that have
// both read since the warp's last __syncwarp.
void SharedShadow::note_read(Word& word, int thread, unsigned mask) {
  const uint64_t now = stamp(thread);
  for (int i = 0; i < 2; ++i) {
    if (word.reader[i] == now) {
      word.read_mask[i] = static_cast<uint8_t>(word.read_mask[i] | mask);
      return;
    }
  }
  int slot = -1;
  for (int i = 1; i >= 0; --i) {
    if (ordered(word.reader[i], thread)) slot = i;
  }
  if (slot < 0) {  // both still count: one of the same warp, or one of a pair of the same warp, gives way
    const int warp = thread / 32, first = thread_of(word.reader[0]) / 32, second = thread_of(word.reader[1]) / 32;
    if (first == second && first != warp) slot = 1;
    else return;
  }
  word.reader[slot] = now;
  word.read_mask[slot] = static_cast<uint8_t>(mask);
}

const char* SharedShadow::check_bytes(Word& word, Access access, int thread, unsigned mask, int* other) {
  if (word.in_flight) return "touches the target of a cp.async that was not waited for";
  const char* wrong = nullptr;
  for (int i = 0; i < 4; ++i) {
    if ((mask >> i & 1u) == 0) continue;
    const uint64_t writer = word.writer[i];
    if (writer == 0 && access != Access::write) {
      wrong = "reads shared memory that nothing was written to";
      word.writer[i] = stamp(thread);  // told once
      continue;
    }
    if (ordered(writer, thread) || (access == Access::atomic && (writer & kAtomic) != 0)) continue;
    *other = thread_of(writer & ~kAtomic);
    wrong = access == Access::read ? kReadAfterWrite : kWriteAfterWrite;
  }
  if (access == Access::read) {
    note_read(word, thread, mask);
    return wrong;
  }
  for (int i = 0; i < 2; ++i) {
    if ((word.read_mask[i] & mask) == 0 || ordered(word.reader[i], thread)) continue;
    *other = thread_of(word.reader[i]);
    wrong = kWriteAfterRead;
  }
  const uint64_t now = stamp(thread) | (access == Access::atomic ? kAtomic : 0);
  for (int i = 0; i < 4; ++i) {
    if ((mask >> i & 1u) != 0) word.writer[i] = now;
  }
  return wrong;
}

const char* SharedShadow::begin_copy(int thread, std::size_t at, std::size_t* word, int* other) {
  const char* wrong = access(Access::write, thread, at, 16, word, other);
  for (std::size_t i = 0; i < 4; ++i) words_[at / 4 + i].in_flight = true;
  return wrong;
}

void SharedShadow::end_copy(int thread, std::size_t at) {
  for (std::size_t i = 0; i < 4; ++i) {
    Word& word = words_[at / 4 + i];
    word.in_flight = false;
    for (uint64_t& writer : word.writer) writer = stamp(thread);
  }
}

}  // namespace skv::cuda_host
