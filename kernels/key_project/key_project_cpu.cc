#include "kernels/key_project/key_project.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/key_project/key_project_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/parallel.h"
#include "kernels/common/row_codec-inl.h"
#include "kernels/common/sgemm.h"
#include "kernels/common/simd-inl.h"
#include "kernels/common/workspace.h"
#include "kernels/key_project/key_project_cuda.h"

#ifndef SKV_KERNELS_KEY_PROJECT_SCRATCH
#define SKV_KERNELS_KEY_PROJECT_SCRATCH
namespace skv::kernels {

inline constexpr int64_t kProjectTokens = 1024;  // of one block: bounds the workspace whatever n is

struct KeyProjectScratch {
  int64_t block;    // tokens, whole chunks
  float* centered;  // [block, m]
  float* rebuilt;   // [block, m]
  float* a;         // [block, r]
  float* b;         // [r, m]
  void* matmul;
};

inline KeyProjectScratch key_project_scratch(WorkspaceCursor& cursor, const KeyProjectDesc& desc, int64_t n) {
  const int64_t m = static_cast<int64_t>(desc.kv_heads) * desc.head_dim, r = desc.rank;
  KeyProjectScratch s;
  s.block = std::min<int64_t>(n, std::max<int64_t>(kProjectTokens / desc.chunk, 1) * desc.chunk);
  s.centered = cursor.take<float>(s.block * m);
  s.rebuilt = cursor.take<float>(s.block * m);
  s.a = cursor.take<float>(s.block * r);
  s.b = cursor.take<float>(r * m);
  s.matmul = cursor.take_bytes(matmul_workspace_bytes(s.block, std::max(m, r), sizeof(float)));
  return s;
}

}  // namespace skv::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {  // helpers of the same name in other ops must stay apart

// Calls fn(offset, count) for whole vectors, then for the tail.
template <class Full, class Tail>
HWY_INLINE void for_vectors(int64_t n, Full&& full, Tail&& tail) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(F32()));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) full(i);
  if (i < n) tail(i, static_cast<std::size_t>(n - i));
}

void subtract(const float* x, const float* mu, int64_t n, float* out) {
  const F32 d;
  for_vectors(
      n, [&](int64_t i) HWY_ATTR { store(hn::Sub(load(d, x + i), load(d, mu + i)), d, out + i); },
      [&](int64_t i, std::size_t count) HWY_ATTR {
        store_n(hn::Sub(load_n(d, x + i, count), load_n(d, mu + i, count)), d, out + i, count);
      });
}

template <class T>
void widen(const T* src, int64_t n, float* dst) {
  const F32 d;
  for_vectors(
      n, [&](int64_t i) HWY_ATTR { store(load(d, src + i), d, dst + i); },
      [&](int64_t i, std::size_t count) HWY_ATTR { store_n(load_n(d, src + i, count), d, dst + i, count); });
}

template <class T>
void narrow(const float* src, int64_t n, T* dst) {
  const F32 d;
  for_vectors(
      n, [&](int64_t i) HWY_ATTR { store(load(d, src + i), d, dst + i); },
      [&](int64_t i, std::size_t count) HWY_ATTR { store_n(load_n(d, src + i, count), d, dst + i, count); });
}

// Rows of coordinates as int8 codes, their scales after them, zeros up to the end of the block.
void store_int8(const BlockFormat& format, float* a, void* block) {
  auto* codes = static_cast<int8_t*>(block);
  int8_t* scales = codes + format.scales_at();
  for (int64_t i = 0; i < format.chunk; ++i) {
    float* row = a + i * format.width;
    const uint16_t scale = encode_int8_row(row, format.width, codes + i * format.width);
    decode_int8_row(codes + i * format.width, scale, format.width, row);
    std::memcpy(scales + 2 * i, &scale, sizeof(scale));
  }
  const int64_t used = format.scales_at() + 2 * format.chunk;
  std::memset(codes + used, 0, static_cast<std::size_t>(format.block_bytes() - used));
}

// Stores the coordinates of one chunk and puts what was stored back into a: the residual is that of the stored keys.
template <class T>
void store_block(const BlockFormat& format, float* a, void* block) {
  if (format.codec == BlockCodec::int8) return store_int8(format, a, block);
  const int64_t n = int64_t{format.chunk} * format.width;
  narrow(a, n, static_cast<T*>(block));
  widen(static_cast<const T*>(block), n, a);
}

void chunk_errors(const KeyProjectDesc& desc, const float* centered, const float* rebuilt, float* residual,
                  float* energy) {
  const F32 d;
  const int64_t dim = desc.head_dim, m = desc.kv_heads * dim;
  for (int64_t h = 0; h < desc.kv_heads; ++h) {
    VF missed = hn::Zero(d), total = missed;
    const auto add = [&](VF x, VF y) HWY_ATTR {
      const VF difference = hn::Sub(x, y);
      missed = hn::MulAdd(difference, difference, missed);
      total = hn::MulAdd(x, x, total);
    };
    for (int64_t t = 0; t < desc.chunk; ++t) {
      const float* x = centered + t * m + h * dim;
      const float* y = rebuilt + t * m + h * dim;
      for_vectors(
          dim, [&](int64_t i) HWY_ATTR { add(load(d, x + i), load(d, y + i)); },
          [&](int64_t i, std::size_t count) HWY_ATTR { add(load_n(d, x + i, count), load_n(d, y + i, count)); });
    }
    residual[h] = sum_of_lanes(d, missed);
    energy[h] = sum_of_lanes(d, total);
  }
}

template <class T>
void project_block(const KeyProjectDesc& desc, const KeyProjectArgs& args, const KeyProjectScratch& s, int64_t begin,
                   int64_t rows) {
  const int64_t m = static_cast<int64_t>(desc.kv_heads) * desc.head_dim, r = desc.rank, chunk = desc.chunk;
  const int64_t chunks = rows / chunk, first = begin / chunk;
  parallel_for(chunks, [&](int64_t c, int) HWY_ATTR {
    for (int64_t i = c * chunk; i < (c + 1) * chunk; ++i)
      subtract(args.x + (begin + i) * m, args.mu, m, s.centered + i * m);
  });
  sgemm({.a = s.centered, .lda = m, .b = args.p, .ldb = r, .c = s.a, .ldc = r, .m = rows, .n = r, .k = m}, s.matmul);
  parallel_for(chunks, [&](int64_t c, int) HWY_ATTR {
    store_block<T>(desc.a_format(), s.a + c * chunk * r, args.a.row(args.first_chunk + first + c));
  });
  sgemm({.a = s.a, .lda = r, .b = s.b, .ldb = m, .c = s.rebuilt, .ldc = m, .m = rows, .n = m, .k = r}, s.matmul);
  parallel_for(chunks, [&](int64_t c, int) HWY_ATTR {
    chunk_errors(desc, s.centered + c * chunk * m, s.rebuilt + c * chunk * m,
                 args.residual + (first + c) * desc.kv_heads, args.energy + (first + c) * desc.kv_heads);
  });
}

template <class T>
void project(const KeyProjectDesc& desc, const KeyProjectArgs& args, void* workspace) {
  WorkspaceCursor cursor(workspace);
  const KeyProjectScratch s = key_project_scratch(cursor, desc, args.n);
  const int64_t dim = desc.head_dim, m = desc.kv_heads * dim, r = desc.rank;
  const T* b = static_cast<const T*>(args.b);
  for (int64_t h = 0; h < desc.kv_heads; ++h)
    for (int64_t j = 0; j < r; ++j) widen(b + (h * r + j) * dim, dim, s.b + j * m + h * dim);
  for (int64_t begin = 0; begin < args.n; begin += s.block)
    project_block<T>(desc, args, s, begin, std::min(s.block, args.n - begin));
}

void key_project_simd(const KeyProjectDesc& desc, const KeyProjectArgs& args, void* workspace) {
  if (desc.dtype == DType::bf16) project<Bf16>(desc, args, workspace);
  else project<float>(desc, args, workspace);
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {
HWY_EXPORT(key_project_simd);

bool key_project_supports(const KeyProjectDesc& desc) {
  const bool coded = desc.a_codec == BlockCodec::raw || desc.a_codec == BlockCodec::int8;
  return coded && desc.dtype != DType::f16 && desc.kv_heads >= 1 && desc.head_dim >= 1 && desc.rank >= 1 &&
         desc.chunk >= 1;
}

std::size_t key_project_workspace_bytes(const KeyProjectDesc& desc, int64_t n) {
  WorkspaceCursor cpu(nullptr), cuda(nullptr);
  key_project_scratch(cpu, desc, n);
  key_project_cuda_scratch(cuda, desc, n);
  return std::max(cpu.bytes(), cuda.bytes());
}

void key_project_cpu(const KeyProjectDesc& desc, const KeyProjectArgs& args, void* workspace) {
  if (args.n > 0) HWY_DYNAMIC_DISPATCH(key_project_simd)(desc, args, workspace);
}

}  // namespace skv::kernels
#endif  // HWY_ONCE
