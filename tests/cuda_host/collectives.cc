// Barriers, warp operations and atomics of <cuda_runtime.h>.
#include <cuda_runtime.h>

#include <algorithm>

#include "tests/cuda_host/accesses.h"
#include "tests/cuda_host/block.h"

using skv::cuda_host::running;

extern "C" {

void __syncthreads() { running->barrier("__syncthreads", __builtin_return_address(0), 0); }

int __syncthreads_or(int predicate) {
  running->barrier("__syncthreads_or", __builtin_return_address(0), predicate);
  return running->votes() > 0;
}

int __syncthreads_and(int predicate) {
  running->barrier("__syncthreads_and", __builtin_return_address(0), predicate);
  return running->votes() == running->threads();
}

int __syncthreads_count(int predicate) {
  running->barrier("__syncthreads_count", __builtin_return_address(0), predicate);
  return running->votes();
}

void __syncwarp(unsigned mask) {
  int warp = running->current()->index / skv::cuda_host::kLanes;
  // Of part of a warp: the shadow cannot tell its lanes from the others, and takes none for ordered.
  const auto combine = [](void* const* lanes, unsigned all) {
    if (all == 0xffffffffu) running->shadow().pass_warp(*static_cast<const int*>(lanes[0]));
  };
  running->warp_operation("__syncwarp", __builtin_return_address(0), mask, &warp, combine);
}
}

namespace skv::cuda_host {

namespace {

struct ShuffleLane {
  Shuffle kind;
  uint64_t bits, result;
  int lane, width;
};

int source_lane(const ShuffleLane& own, int i) {
  const int first = i / own.width * own.width, end = first + own.width;
  int from = i;
  switch (own.kind) {
    case Shuffle::index: return first + (own.lane & (own.width - 1));
    case Shuffle::up: from = i - own.lane; break;
    case Shuffle::down: from = i + own.lane; break;
    case Shuffle::exclusive: from = i ^ own.lane; return from < end ? from : i;
  }
  return from >= first && from < end ? from : i;
}

void combine_shuffle(void* const* lanes, unsigned mask) {
  for (int i = 0; i < kLanes; ++i) {
    if ((mask >> i & 1u) == 0) continue;
    ShuffleLane& own = *static_cast<ShuffleLane*>(lanes[i]);
    const int from = source_lane(own, i);
    if (from < 0 || from >= kLanes || lanes[from] == nullptr) own.result = ~uint64_t{0};  // undefined on a GPU
    else own.result = static_cast<const ShuffleLane*>(lanes[from])->bits;
  }
}

struct VoteLane {
  int predicate;
  unsigned ballot;
};

void combine_vote(void* const* lanes, unsigned mask) {
  unsigned ballot = 0;
  for (int i = 0; i < kLanes; ++i) {
    if (lanes[i] != nullptr && static_cast<const VoteLane*>(lanes[i])->predicate != 0) ballot |= 1u << i;
  }
  for (int i = 0; i < kLanes; ++i) {
    if ((mask >> i & 1u) != 0) static_cast<VoteLane*>(lanes[i])->ballot = ballot;
  }
}

struct MatchLane {
  uint64_t bits;
  unsigned same;
};

void combine_match(void* const* lanes, unsigned mask) {
  for (int i = 0; i < kLanes; ++i) {
    if ((mask >> i & 1u) == 0) continue;
    MatchLane& own = *static_cast<MatchLane*>(lanes[i]);
    own.same = 0;
    for (int j = 0; j < kLanes; ++j) {
      if (lanes[j] != nullptr && static_cast<const MatchLane*>(lanes[j])->bits == own.bits) own.same |= 1u << j;
    }
  }
}

template <class T>
T reduced(Reduce kind, T a, T b) {
  using U = std::make_unsigned_t<T>;
  switch (kind) {
    case Reduce::add: return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
    case Reduce::min: return std::min(a, b);
    case Reduce::max: return std::max(a, b);
    case Reduce::bit_and: return a & b;
    case Reduce::bit_or: return a | b;
    case Reduce::bit_xor: return a ^ b;
  }
  return a;
}

struct ReduceLane {
  Reduce kind;
  Value type;
  uint32_t bits, result;
};

void combine_reduce(void* const* lanes, unsigned mask) {
  const ReduceLane* first = nullptr;
  uint32_t sum = 0;
  for (int i = 0; i < kLanes; ++i) {
    if (lanes[i] == nullptr) continue;
    const ReduceLane& own = *static_cast<const ReduceLane*>(lanes[i]);
    if (first == nullptr) sum = own.bits;
    else if (own.type == Value::i32) {
      sum = static_cast<uint32_t>(reduced(own.kind, static_cast<int32_t>(sum), static_cast<int32_t>(own.bits)));
    } else sum = reduced(own.kind, sum, own.bits);
    first = &own;
  }
  for (int i = 0; i < kLanes; ++i) {
    if ((mask >> i & 1u) != 0) static_cast<ReduceLane*>(lanes[i])->result = sum;
  }
}

template <class T>
T updated(Atomic kind, T old, T x) {
  switch (kind) {
    case Atomic::exchange: return x;
    case Atomic::min: return std::min(old, x);
    case Atomic::max: return std::max(old, x);
    default: break;
  }
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    const U a = static_cast<U>(old), b = static_cast<U>(x);
    switch (kind) {
      case Atomic::add: return static_cast<T>(a + b);
      case Atomic::sub: return static_cast<T>(a - b);
      case Atomic::bit_and: return static_cast<T>(a & b);
      case Atomic::bit_or: return static_cast<T>(a | b);
      case Atomic::bit_xor: return static_cast<T>(a ^ b);
      default: return old;
    }
  } else {
    return old + x;
  }
}

template <class T>
uint64_t apply(void* at, Atomic kind, uint64_t bits) {
  T* p = static_cast<T*>(at);
  const T old = *p;
  *p = updated(kind, old, from_bits<T>(bits));
  return to_bits(old);
}

template <class T>
uint64_t swap_if_equal(void* at, uint64_t compare, uint64_t bits) {
  T* p = static_cast<T*>(at);
  const T old = *p;
  if (old == from_bits<T>(compare)) *p = from_bits<T>(bits);
  return to_bits(old);
}

std::size_t bytes_of(Value type) { return type == Value::u64 || type == Value::f64 ? 8 : 4; }

}  // namespace

unsigned char* shared_memory() { return running->shared(); }

uint64_t shuffle(unsigned mask, Shuffle kind, uint64_t bits, int lane, int width) {
  ShuffleLane own{kind, bits, 0, lane, width};
  running->warp_operation("shuffle", __builtin_return_address(0), mask, &own, combine_shuffle);
  return own.result;
}

unsigned vote(unsigned mask, Vote kind, int predicate) {
  VoteLane own{predicate, 0};
  running->warp_operation("vote", __builtin_return_address(0), mask, &own, combine_vote);
  switch (kind) {
    case Vote::ballot: return own.ballot;
    case Vote::any: return own.ballot != 0;
    case Vote::all: return own.ballot == mask;
  }
  return 0;
}

uint64_t match(unsigned mask, uint64_t bits) {
  MatchLane own{bits, 0};
  running->warp_operation("match", __builtin_return_address(0), mask, &own, combine_match);
  return own.same;
}

uint64_t reduce(unsigned mask, Reduce kind, Value type, uint64_t bits) {
  ReduceLane own{kind, type, static_cast<uint32_t>(bits), 0};
  running->warp_operation("reduce", __builtin_return_address(0), mask, &own, combine_reduce);
  return own.result;
}

uint64_t atomic(void* at, Atomic kind, Value type, uint64_t bits) {
  check_access(Access::atomic, at, bytes_of(type), __builtin_return_address(0));
  switch (type) {
    case Value::i32: return apply<int32_t>(at, kind, bits);
    case Value::u32: return apply<uint32_t>(at, kind, bits);
    case Value::u64: return apply<uint64_t>(at, kind, bits);
    case Value::f32: return apply<float>(at, kind, bits);
    case Value::f64: return apply<double>(at, kind, bits);
  }
  return 0;
}

uint64_t atomic_compare(void* at, Value type, uint64_t compare, uint64_t bits) {
  check_access(Access::atomic, at, bytes_of(type), __builtin_return_address(0));
  return bytes_of(type) == 8 ? swap_if_equal<uint64_t>(at, compare, bits)
                             : swap_if_equal<uint32_t>(at, compare, bits);
}

}  // namespace skv::cuda_host
