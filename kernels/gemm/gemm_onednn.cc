// Only oneDNN's brgemm kernels are used: they keep everything in the scratchpad they declare, while its older gemm
// kernels allocate behind the caller's back. Rows go in pieces, so that the workspace does not grow with the prompt.
#include "kernels/gemm/gemm_onednn.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <tuple>
#include <unordered_map>

#include <oneapi/dnnl/dnnl.hpp>

#include "kernels/common/parallel.h"

namespace skv::kernels {
namespace {

using dnnl::memory;

constexpr int64_t kPieceRows = 256;
constexpr std::size_t kAlign = 64;

std::size_t aligned(std::size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// Widening bf16 in software is what the Highway path does better.
bool hardware_has(DType w_dtype) {
  if (w_dtype == DType::f32) return true;
  if (w_dtype == DType::f16) return false;
  const dnnl::cpu_isa isa = dnnl::get_effective_cpu_isa();
  return isa == dnnl::cpu_isa::avx512_core_bf16 || isa == dnnl::cpu_isa::avx512_core_amx;
}

memory::data_type data_type(DType t) { return t == DType::f32 ? memory::data_type::f32 : memory::data_type::bf16; }

memory::desc matrix(int64_t rows, int64_t cols, memory::data_type type, int64_t row_stride) {
  return memory::desc({rows, cols}, type, memory::dims{row_stride, 1});
}

// One piece of m rows: f32 activations are rounded to the weights' type first where that is bf16.
struct Product {
  int64_t m = 0;
  memory::desc a_f32, a, w, bias, c, scratch;
  dnnl::matmul multiply;
  dnnl::reorder round;
};

// False if the implementation that oneDNN picks is not one of its brgemm kernels. Throws dnnl::error.
bool make_product(const GemmDesc& desc, const GemmArgs& args, int64_t m, Product& out) {
  const memory::data_type type = data_type(desc.w_dtype), f32 = memory::data_type::f32;
  const bool rounded = type != f32;
  out.m = m;
  out.a_f32 = matrix(m, desc.k, f32, args.lda);
  out.a = rounded ? matrix(m, desc.k, type, desc.k) : out.a_f32;
  out.w = memory::desc({desc.k, desc.n}, type, memory::dims{1, desc.k});
  out.c = matrix(m, desc.n, f32, args.ldc);
  out.bias = args.bias == nullptr ? memory::desc() : matrix(1, desc.n, f32, desc.n);
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (args.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attr.set_post_ops(sum);
  }
  const dnnl::matmul::desc op = args.bias == nullptr ? dnnl::matmul::desc(out.a, out.w, out.c)
                                                     : dnnl::matmul::desc(out.a, out.w, out.bias, out.c);
  const dnnl::matmul::primitive_desc pd(op, attr, cpu_engine());
  if (std::strncmp(pd.impl_info_str(), "brg", 3) != 0) return false;
  out.scratch = pd.scratchpad_desc();
  out.multiply = dnnl::matmul(pd);
  if (rounded) {
    dnnl::primitive_attr user;
    user.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::reorder::primitive_desc round(cpu_engine(), out.a_f32, cpu_engine(), out.a, user);
    if (round.scratchpad_desc().get_size() != 0) return false;
    out.round = dnnl::reorder(round);
  }
  return true;
}

void run_product(const Product& p, const GemmDesc& desc, const GemmArgs& args, int64_t row, char* workspace) {
  dnnl::stream stream(cpu_engine());
  const auto at = [](const memory::desc& md, const void* data) {
    return memory(md, cpu_engine(), const_cast<void*>(data));  // oneDNN has no const memory; inputs are only read
  };
  memory a = at(p.a_f32, args.a + row * args.lda);
  if (desc.w_dtype != DType::f32) {
    memory rounded = at(p.a, workspace);
    dnnl::reorder(p.round).execute(stream, a, rounded);
    a = rounded;
    workspace += aligned(p.a.get_size());
  }
  std::unordered_map<int, memory> binding = {{DNNL_ARG_SRC, a},
                                             {DNNL_ARG_WEIGHTS, at(p.w, args.w)},
                                             {DNNL_ARG_DST, at(p.c, args.c + row * args.ldc)},
                                             {DNNL_ARG_SCRATCHPAD, at(p.scratch, workspace)}};
  if (args.bias != nullptr) binding.emplace(DNNL_ARG_BIAS, at(p.bias, args.bias));
  p.multiply.execute(stream, binding);
  stream.wait();
}

std::size_t rounded_bytes(const GemmDesc& desc) {
  return desc.w_dtype == DType::f32 ? 0 : aligned(static_cast<std::size_t>(kPieceRows * desc.k) * 2);
}

// oneDNN's scratchpad varies with m through its choice of blocks, so the bound is taken over several m. gemm_onednn
// declines an m that would pass it.
std::size_t search_scratch_bound(const GemmDesc& desc) {
  std::size_t bytes = 0;
  float bias = 0.0f;
  for (int64_t m : {kPieceRows / 4 + 1, kPieceRows / 2, kPieceRows * 3 / 4, kPieceRows}) {
    for (bool plain : {true, false}) {
      GemmArgs args;
      args.lda = desc.k;
      args.ldc = desc.n;
      args.bias = plain ? nullptr : &bias;
      args.accumulate = !plain;
      Product product;
      if (make_product(desc, args, m, product)) bytes = std::max(bytes, product.scratch.get_size());
    }
  }
  return aligned(bytes);
}

// The search makes eight primitives; a model has few shapes, so its results are kept.
std::size_t scratch_bound(const GemmDesc& desc) {
  using Key = std::tuple<DType, int64_t, int64_t, int>;
  static std::mutex mutex;
  static std::map<Key, std::size_t> known;
  const Key key{desc.w_dtype, desc.n, desc.k, max_workers()};
  const std::lock_guard lock(mutex);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  return known.emplace(key, search_scratch_bound(desc)).first->second;
}

}  // namespace

std::size_t gemm_onednn_workspace_bytes(const GemmDesc& desc) {
  if (!hardware_has(desc.w_dtype) || desc.n <= 0 || desc.k <= 0) return 0;
  try {
    return rounded_bytes(desc) + scratch_bound(desc);
  } catch (...) {  // an unsupported shape; gemm_onednn will decline it too
    return 0;
  }
}

bool gemm_onednn(const GemmDesc& desc, const GemmArgs& args, void* workspace) {
  if (!hardware_has(desc.w_dtype) || desc.k <= 0) return false;
  try {
    // Pieces of two sizes that differ by one row, so that at most two primitives are made.
    const int64_t pieces = (args.m + kPieceRows - 1) / kPieceRows, small = args.m / pieces, larger = args.m % pieces;
    std::array<Product, 2> products;
    const std::size_t bound = scratch_bound(desc);
    if (!make_product(desc, args, small, products[0]) || products[0].scratch.get_size() > bound) return false;
    if (larger > 0) {
      if (!make_product(desc, args, small + 1, products[1]) || products[1].scratch.get_size() > bound) return false;
    }
    int64_t row = 0;
    for (int64_t i = 0; i < pieces; ++i) {
      const Product& product = products[i < larger ? 1 : 0];
      run_product(product, desc, args, row, static_cast<char*>(workspace));
      row += product.m;
    }
    return true;
  } catch (...) {  // creation fails before anything is written
    return false;
  }
}

}  // namespace skv::kernels
