#include "lib/kv/key_coder.h"

#include <algorithm>
#include <cmath>

#include "kernels/common/orthogonal.h"
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
    context_.ops.kv_gather({context_.layout.exact_page(), layer_.exact.data(), from, n, s_.x});
    const kernels::RopeItem item = {s_.x, width(), n, g.kv_heads, g.head_dim, from, true};
    context_.ops.rope(context_.rope, {&item, 1});
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
    const kernels::Ops& ops = context_.ops;
    const bool centered = context_.policy().centered;
    ops.fill(s_.gram, 0, int64_t{m} * m * 4);
    ops.fill(s_.sum, 0, int64_t{m} * 8);
    ops.fill(s_.center, 0, int64_t{m} * 4);
    upload_rotation();
    for (int64_t at = from; at < to; at += factor_block(context_.policy())) {
      const int64_t n = std::min(factor_block(context_.policy()), to - at);
      load_block(at, n);
      // The first block's mean as a provisional centre keeps the Gram matrix well scaled under a large bias.
      if (at == from && centered) ops.column_mean({s_.x, n, m, s_.center});
      ops.gram({s_.x, m, n, m, s_.center, s_.gram, s_.sum}, s_.workspace);
    }
    const int64_t n = to - from;
    if (centered) ops.gram_center(s_.gram, s_.sum, n, m);
    if (prior) {
      ops.gram_prior(context_.layout.basis(),
                     {prior->memory.data(), s_.rotation, static_cast<float>(n), s_.gram}, s_.workspace);
    }
    store_basis(n, factor(), n * (prior ? 2 : 1), basis);
  }

  // Vectors and eigenvalues of gram. Keys that are not finite get plain axes and no energy: they are damaged anyway.
  bool factor() {
    const int64_t m = width(), r = rank();
    const auto method = context_.policy().full_factorization ? kernels::BasisMethod::full
                                                             : kernels::BasisMethod::subspace_iteration;
    if (context_.ops.subspace_basis({s_.gram, static_cast<int32_t>(m), static_cast<int32_t>(r), method, s_.vectors,
                                     s_.eigenvalues}, s_.workspace)) {
      return true;
    }
    for (int64_t i = 0; i < m * r; ++i) s_.host_axes[i] = i / r == i % r ? 1.0f : 0.0f;
    context_.ops.upload(s_.vectors, s_.host_axes, m * r * 4);
    context_.ops.fill(s_.eigenvalues, 0, r * 4);
    return false;
  }

  void store_basis(int64_t n, bool factored, int64_t n_weighed, Basis* basis) {
    kernels::BasisStoreArgs args;
    args.vectors = s_.vectors;
    args.rotation = s_.rotation;
    args.eigenvalues = s_.eigenvalues;
    args.eigenvalue_scale = factored ? 1.0f / static_cast<float>(n_weighed) : 1.0f;
    if (context_.policy().centered) args.center = s_.center, args.sum = s_.sum;
    args.n = n;
    args.basis = basis->memory.data();
    context_.ops.basis_store(context_.layout.basis(), args);
  }

  void upload_rotation() {
    const int64_t r = rank();
    if (context_.policy().rotated) {
      kernels::fixed_orthogonal(static_cast<int32_t>(r), s_.host_rotation);
    } else {
      for (int64_t i = 0; i < r * r; ++i) s_.host_rotation[i] = i % (r + 1) == 0 ? 1.0f : 0.0f;
    }
    context_.ops.upload(s_.rotation, s_.host_rotation, r * r * 4);
  }

  Energies project(int64_t from, int64_t to, const Basis& basis) {
    const Geometry& g = context_.geometry();
    const int32_t chunk = context_.policy().chunk;
    // From the stored form, so that a later flush projects exactly as the prompt did.
    context_.ops.basis_load(context_.layout.basis(), {basis.memory.data(), s_.p, s_.mu});
    const auto entry_at = [&](int64_t token) { return (token - origin_) / chunk * g.kv_heads; };
    for (int64_t at = from; at < to; at += factor_block(context_.policy())) {
      const int64_t n = std::min(factor_block(context_.policy()), to - at);
      load_block(at, n);
      context_.ops.key_project({context_.policy().dtype, g.kv_heads, g.head_dim, context_.policy().rank, chunk,
                                context_.policy().key_codec},
                               {s_.x, n, s_.mu, s_.p, basis.memory.data(), lowrank_rows(context_.layout, layer_),
                                chunk_at(at), s_.residual_data + entry_at(at), s_.energy_data + entry_at(at)},
                               s_.workspace);
    }
    return read_energies(entry_at(from), entry_at(to));
  }

  Energies read_energies(int64_t from, int64_t to) {
    context_.ops.download(s_.residual + from, s_.residual_data + from, (to - from) * 4);
    context_.ops.download(s_.energy + from, s_.energy_data + from, (to - from) * 4);
    Energies e;
    for (int64_t i = from; i < to; ++i) e.missed += s_.residual[i], e.total += s_.energy[i];
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
