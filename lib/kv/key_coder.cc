#include "lib/kv/key_coder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/common/orthogonal.h"
#include "kernels/common/parallel.h"
#include "lib/kv/seal.h"
#include "lib/kv/views.h"

namespace skv::kv {
namespace {

// Tokens that decide together whether they need a segment of their own.
constexpr int64_t kSegmentUnit = 8192;

struct Energies {
  double missed = 0.0;
  double total = 0.0;
  double relative() const { return total > 0.0 ? std::sqrt(missed / total) : 0.0; }
};

class KeyCoder {
 public:
  KeyCoder(Context& context, Sequence& sequence, Layer& layer, int64_t origin, SealScratch* scratch)
      : context_(context), sequence_(sequence), layer_(layer), origin_(origin), s_(*scratch) {}

  void code_first(int64_t from, int64_t to) {
    Basis& basis = *layer_.segments.front().basis;
    make_basis_of(from, to, nullptr, &basis);
    const Energies e = project(from, to, basis);
    basis.relative_residual = static_cast<float>(e.relative());
    add(e);
  }

  // Codes one unit on the last segment, or on a better one where that one is not good enough.
  void code_unit(int64_t from, int64_t to) {
    const std::shared_ptr<Basis> last = layer_.segments.back().basis;
    Energies e = project(from, to, *last);
    if (e.relative() > bound(*last)) e = code_moved(from, to, last, e);
    add(e);
  }

  double bound(const Basis& basis) const {
    // Below this the residual is rounding of A and B, not missing directions.
    const bool exact = context_.policy().dtype == DType::f32 && context_.policy().key_codec == kernels::BlockCodec::raw;
    const double floor = exact ? 1e-5 : 1.0 / 64;
    return context_.policy().residual_factor * std::max<double>(basis.relative_residual, floor);
  }

 private:
  int64_t width() const { return context_.geometry().key_width(); }
  int64_t rank() const { return context_.policy().rank; }

  void add(const Energies& e) {
    layer_.key_energy += e.total;
    layer_.missed_energy += e.missed;
  }

  // Pre-RoPE keys of [from, from + n) into x.
  void load_block(int64_t from, int64_t n) {
    const Geometry& g = context_.geometry();
    context_.ops.kv_gather({context_.policy().dtype, g.kv_heads, g.head_dim, kExactPageTokens, layer_.exact.data(),
                            from, n, s_.x});
    context_.ops.rope(context_.rope, {s_.x, width(), n, g.kv_heads, g.head_dim, from, true});
  }

  Energies code_moved(int64_t from, int64_t to, const std::shared_ptr<Basis>& last, const Energies& e) {
    if (distinct_bases() < context_.policy().max_segments && entry_left()) {
      if (std::shared_ptr<Basis> fresh = try_basis()) {
        make_basis_of(from, to, last.get(), fresh.get());
        const Energies own = project(from, to, *fresh);
        fresh->relative_residual = static_cast<float>(own.relative());
        layer_.segments.push_back({chunk_at(from), std::move(fresh)});
        return own;
      }
    }
    ++sequence_.counters.forced_segments;
    return code_with_best(from, to, last, e);
  }

  Energies code_with_best(int64_t from, int64_t to, const std::shared_ptr<Basis>& last, const Energies& e) {
    std::shared_ptr<Basis> best = last, coded = last;
    Energies best_e = e;
    for (const Segment& segment : layer_.segments) {
      if (segment.basis == last) continue;
      const Energies other = project(from, to, *segment.basis);
      coded = segment.basis;
      if (other.missed < best_e.missed) best = segment.basis, best_e = other;
    }
    if (!entry_left()) best = last;
    if (coded != best) best_e = project(from, to, *best);
    if (best != last) layer_.segments.push_back({chunk_at(from), best});
    return best_e;
  }

  std::shared_ptr<Basis> try_basis() {
    try {
      return make_basis(context_);
    } catch (const std::exception&) {
      return nullptr;  // no memory: an existing basis serves
    }
  }

  int32_t chunk_at(int64_t token) const { return static_cast<int32_t>(token / context_.policy().chunk); }
  bool entry_left() const {
    return static_cast<int64_t>(layer_.segments.size()) < segment_entries(context_.policy());
  }
  int64_t distinct_bases() const {
    std::vector<const Basis*> seen;
    for (const Segment& segment : layer_.segments) {
      if (std::find(seen.begin(), seen.end(), segment.basis.get()) == seen.end()) seen.push_back(segment.basis.get());
    }
    return static_cast<int64_t>(seen.size());
  }

  // The r leading directions of the centred keys of [from, to); with a prior, of them and the prior's own spectrum,
  // weighted as if it had been seen on as many tokens.
  void make_basis_of(int64_t from, int64_t to, const Basis* prior, Basis* basis) {
    const auto m = static_cast<int32_t>(width());
    const bool centered = context_.policy().centered;
    std::memset(s_.gram, 0, sizeof(float) * static_cast<std::size_t>(m) * static_cast<std::size_t>(m));
    std::fill(s_.sum, s_.sum + m, 0.0);
    for (int64_t at = from; at < to; at += kFactorBlock) {
      const int64_t n = std::min(kFactorBlock, to - at);
      load_block(at, n);
      if (at == from) set_center(n, centered);
      context_.ops.gram({s_.x, m, n, m, s_.center, s_.gram, s_.sum}, s_.workspace);
    }
    const int64_t n = to - from;
    if (centered) kernels::gram_center(s_.gram, s_.sum, n, m);
    if (prior) add_prior(*prior, n);
    factor(n * (prior ? 2 : 1));
    store_basis(n, centered, basis);
  }

  // A provisional centre (the first block's mean) keeps the Gram matrix well scaled under a large bias.
  void set_center(int64_t n, bool centered) {
    const int64_t m = width();
    for (int64_t c = 0; c < m; ++c) {
      double sum = 0.0;
      for (int64_t t = 0; centered && t < n; ++t) sum += s_.x[t * m + c];
      s_.center[c] = static_cast<float>(sum / static_cast<double>(n));
    }
  }

  // gram += n V diag(eigenvalues) V^T with the prior's V and per-token eigenvalues.
  void add_prior(const Basis& prior, int64_t n) {
    const int64_t m = width(), r = rank();
    widen_basis(prior);  // p = V Q
    rotation(s_.rotation);
    const float* eigenvalues = eigenvalues_of(prior);
    kernels::parallel_for(m, [&](int64_t i, int) {
      for (int64_t j = 0; j < r; ++j) {
        double v = 0.0;  // (p Q^T)[i, j]
        for (int64_t l = 0; l < r; ++l) v += double{s_.p[i * r + l]} * s_.rotation[j * r + l];
        s_.vectors[i * r + j] = static_cast<float>(v);
        s_.weighted[i * r + j] = static_cast<float>(v) * eigenvalues[j] * static_cast<float>(n);
      }
    });
    kernels::parallel_for(m, [&](int64_t i, int) {
      for (int64_t k = 0; k < m; ++k) {
        float sum = 0.0f;
        for (int64_t j = 0; j < r; ++j) sum += s_.weighted[i * r + j] * s_.vectors[k * r + j];
        s_.gram[i * m + k] += sum;
      }
    });
  }

  // Vectors and per-token eigenvalues of gram. Keys that are not finite get plain axes: they are damaged anyway.
  void factor(int64_t n_tokens) {
    const int64_t m = width(), r = rank();
    const auto method = context_.policy().full_factorization ? kernels::BasisMethod::full
                                                             : kernels::BasisMethod::subspace_iteration;
    const bool ok = context_.ops.subspace_basis({s_.gram, static_cast<int32_t>(m), static_cast<int32_t>(r), method,
                                                 s_.vectors, s_.eigenvalues}, s_.workspace);
    for (int64_t j = 0; j < r; ++j) {
      s_.eigenvalues[j] = ok ? s_.eigenvalues[j] / static_cast<float>(n_tokens) : 0.0f;
    }
    if (ok) return;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < r; ++j) s_.vectors[i * r + j] = i == j ? 1.0f : 0.0f;
    }
  }

  void rotation(float* q) {
    const int64_t r = rank();
    if (context_.policy().rotated) {
      kernels::fixed_orthogonal(static_cast<int32_t>(r), q);
      return;
    }
    for (int64_t i = 0; i < r * r; ++i) q[i] = i % (r + 1) == 0 ? 1.0f : 0.0f;
  }

  // B = (V Q)^T per head, mu and eigenvalues, rounded as they are stored.
  void store_basis(int64_t n, bool centered, Basis* basis) {
    const Geometry& g = context_.geometry();
    const int64_t m = width(), r = rank();
    void* base = basis->memory.data();
    rotation(s_.rotation);
    kernels::parallel_for(m, [&](int64_t i, int) {
      const int64_t head = i / g.head_dim, column = i % g.head_dim;
      for (int64_t j = 0; j < r; ++j) {
        double p = 0.0;
        for (int64_t l = 0; l < r; ++l) p += double{s_.vectors[i * r + l]} * s_.rotation[l * r + j];
        store_f32(base, context_.policy().dtype, (head * r + j) * g.head_dim + column, static_cast<float>(p));
      }
    });
    for (int64_t c = 0; c < m; ++c) {
      const double mu = centered ? s_.center[c] + s_.sum[c] / static_cast<double>(n) : 0.0;
      store_f32(base, context_.policy().dtype, m * r + c, static_cast<float>(mu));
    }
    std::memcpy(const_cast<float*>(eigenvalues_of(*basis)), s_.eigenvalues, sizeof(float) * static_cast<std::size_t>(r));
  }

  const float* eigenvalues_of(const Basis& basis) const {
    return static_cast<const float*>(
        offset_bytes(basis.memory.data(), width() * (rank() + 1) * context_.layout.element()));
  }

  // p and mu from the stored form, so that a later flush projects exactly as the prompt did.
  void widen_basis(const Basis& basis) {
    const Geometry& g = context_.geometry();
    const int64_t m = width(), r = rank();
    const DType dtype = context_.policy().dtype;
    kernels::parallel_for(m, [&](int64_t i, int) {
      const int64_t head = i / g.head_dim, column = i % g.head_dim;
      for (int64_t j = 0; j < r; ++j) {
        s_.p[i * r + j] = load_f32(basis.memory.data(), dtype, (head * r + j) * g.head_dim + column);
      }
      s_.mu[i] = load_f32(basis.memory.data(), dtype, m * r + i);
    });
  }

  Energies project(int64_t from, int64_t to, const Basis& basis) {
    const Geometry& g = context_.geometry();
    const int32_t chunk = context_.policy().chunk;
    widen_basis(basis);
    Energies e;
    for (int64_t at = from; at < to; at += kFactorBlock) {
      const int64_t n = std::min(kFactorBlock, to - at);
      load_block(at, n);
      const int64_t entry = (at - origin_) / chunk * g.kv_heads;
      context_.ops.key_project({context_.policy().dtype, g.kv_heads, g.head_dim, context_.policy().rank, chunk,
                                context_.policy().key_codec},
                               {s_.x, n, s_.mu, s_.p, basis.memory.data(), lowrank_rows(context_.layout, layer_),
                                chunk_at(at), s_.residual + entry, s_.energy + entry},
                               s_.workspace);
      for (int64_t i = entry; i < entry + n / chunk * g.kv_heads; ++i) {
        e.missed += s_.residual[i];
        e.total += s_.energy[i];
      }
    }
    return e;
  }

  Context& context_;
  Sequence& sequence_;
  Layer& layer_;
  int64_t origin_;  // first token of the seal: residual and energy count chunks from here
  SealScratch& s_;
};

}  // namespace

double code_keys(Context& context, Sequence& sequence, Layer& layer, int64_t from, int64_t to, SealScratch* scratch) {
  KeyCoder coder(context, sequence, layer, from, scratch);
  if (from == 0) {
    coder.code_first(from, to);
  } else {
    for (int64_t at = from; at < to; at += kSegmentUnit) coder.code_unit(at, std::min(at + kSegmentUnit, to));
  }
  return coder.bound(*layer.segments.back().basis);
}

}  // namespace skv::kv
