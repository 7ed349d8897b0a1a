// int8 coordinates end to end: keys with a bias of 100 times their spread through gram, basis, key_project and
// key_rebuild, against the keys themselves. Centring is what makes int8 as good as f32; without it, it is not.
#include "kernels/common/orthogonal.h"
#include "kernels/gram/gram.h"
#include "kernels/key_project/key_project.h"
#include "kernels/key_rebuild/key_rebuild.h"
#include "kernels/rope/rope_tables.h"
#include "kernels/subspace_basis/subspace_basis.h"
#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::BlockCodec;

struct Shape {
  int32_t heads, head_dim, rank, chunk;
  int64_t tokens;
  int64_t m() const { return int64_t{heads} * head_dim; }
};
std::vector<Shape> shapes() {
  if (tested_slowly()) return {{2, 64, 20, 8, 192}};
  return {{4, 64, 40, 16, 1024}, {8, 128, 160, 8, 1536}};
}

// Keys of rank `rank` with a decaying spectrum and spread 1, white noise, and a bias per column 100 times the spread.
struct Keys {
  Shape shape;
  std::vector<float> x;
  double energy = 0.0;  // of centred keys

  Keys(Random& rng, const Shape& shape_, double noise) : shape(shape_) {
    const int64_t n = shape.tokens, m = shape.m(), r = shape.rank;
    std::vector<float> f(static_cast<std::size_t>(n * r)), w(static_cast<std::size_t>(r * m)), bias(m);
    x.resize(static_cast<std::size_t>(n * m));
    double variance = 0.0;
    for (int64_t j = 0; j < r; ++j) variance += std::exp(-8.0 * static_cast<double>(j) / static_cast<double>(r));
    for (float& value : f) value = rng.normal();
    for (float& value : bias) value = 100.0f * rng.normal();
    for (int64_t j = 0; j < r; ++j)
      for (int64_t d = 0; d < m; ++d)
        w[j * m + d] = rng.normal() * static_cast<float>(
            std::sqrt(std::exp(-8.0 * static_cast<double>(j) / static_cast<double>(r)) / variance));
    for (int64_t i = 0; i < n; ++i)
      for (int64_t d = 0; d < m; ++d) x[i * m + d] = static_cast<float>(noise) * rng.normal();
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < r; ++j)
        for (int64_t d = 0; d < m; ++d) x[i * m + d] += f[i * r + j] * w[j * m + d];
    for (float value : x) energy += static_cast<double>(value) * value;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t d = 0; d < m; ++d) x[i * m + d] += bias[d];
  }
};

// mu, V_r Q and the eigenproblem behind them; dtype is that of mu and B.
struct Basis {
  std::vector<float> mu, p;

  Basis(const Keys& keys, bool centred) {
    const int64_t n = keys.shape.tokens, m = keys.shape.m(), r = keys.shape.rank;
    const auto m32 = static_cast<int32_t>(m), r32 = static_cast<int32_t>(r);
    std::vector<float> center(static_cast<std::size_t>(m)), g(static_cast<std::size_t>(m * m)), values(r), v(m * r),
        q(static_cast<std::size_t>(r * r));
    std::vector<double> sum(static_cast<std::size_t>(m));
    if (centred) std::copy_n(keys.x.begin(), m, center.begin());  // any row will do
    std::vector<char> work(kernels::gram_workspace_bytes(n, m32) + 64);
    const kernels::GramArgs moments{keys.x.data(), m, n, m32, center.data(), g.data(), sum.data()};
    if (centred) {
      tested_ops().gram(moments, aligned(work));
      tested_ops().gram_center(g.data(), sum.data(), n, m32);
    } else {
      kernels::gram_cpu(moments, aligned(work));  // in f32: bf16 rows on a GPU would lose all beside such a bias
    }
    mu.assign(center.begin(), center.end());
    if (centred)
      for (int64_t d = 0; d < m; ++d) mu[d] += static_cast<float>(sum[d] / static_cast<double>(n));
    const auto full = kernels::BasisMethod::full;
    work.resize(kernels::subspace_basis_workspace_bytes(m32, r32, full) + 64);
    EXPECT_TRUE(tested_ops().subspace_basis({g.data(), m32, r32, full, v.data(), values.data()}, aligned(work)));
    kernels::fixed_orthogonal(r32, q.data());
    p.assign(static_cast<std::size_t>(m * r), 0.0f);
    for (int64_t d = 0; d < m; ++d)
      for (int64_t k = 0; k < r; ++k)
        for (int64_t j = 0; j < r; ++j) p[d * r + j] += v[d * r + k] * q[k * r + j];
  }
  static void* aligned(std::vector<char>& bytes) {
    return bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64;
  }
};

struct Path {
  const char* name;
  const kernels::Ops& ops;
  int64_t most_tokens;
};
Path tested() { return {"tested", tested_ops(), 1 << 20}; }
Path reference() { return {"reference", kernels::ref_ops(), 128}; }

enum class A { f32, bf16, int8 };

struct Errors {
  double key = 0.0;       // ||rebuilt - key|| / ||centred keys||, after RoPE
  double residual = 0.0;  // the same by key_project's own account
  double kept = 0.0;      // energy kept, likewise: of keys less mu
};

class Pipeline {
 public:
  Pipeline(const Keys& keys, const Basis& basis, DType dtype, A a, const Path& path)
      : keys_(keys), basis_(basis), a_(a), path_(path), n_(std::min(keys.shape.tokens, path.most_tokens)) {
    const Shape& s = keys.shape;
    desc_ = {dtype, s.heads, s.head_dim, s.rank, s.chunk, a == A::int8 ? BlockCodec::int8 : BlockCodec::raw};
    b_.resize(static_cast<std::size_t>(s.m() * s.rank * dtype_bytes(dtype)));
    mu_.resize(static_cast<std::size_t>(s.m() * dtype_bytes(dtype)));
    for (int64_t d = 0; d < s.m(); ++d) {
      store_f32(mu_.data(), dtype, d, basis.mu[d]);
      for (int64_t j = 0; j < s.rank; ++j)
        store_f32(b_.data(), dtype, (d / s.head_dim * s.rank + j) * s.head_dim + d % s.head_dim,
                  basis.p[d * s.rank + j]);
    }
  }

  Errors run() {
    project();
    rebuild();
    const double energy = keys_.energy * static_cast<double>(n_) / static_cast<double>(keys_.shape.tokens);
    errors_.key = std::sqrt(missed() / energy);
    errors_.residual = std::sqrt(errors_.residual / energy);
    return errors_;
  }

 private:
  kernels::PagedRows rows() {
    const auto block_bytes = static_cast<int32_t>(desc_.a_format().block_bytes());
    return {&page_, 0, static_cast<int32_t>(n_ / desc_.chunk), block_bytes, 1};
  }

  void project() {
    const int64_t m = keys_.shape.m(), cells = n_ / desc_.chunk * desc_.kv_heads;
    blocks_.resize(static_cast<std::size_t>(n_ / desc_.chunk * desc_.a_format().block_bytes()));
    page_ = blocks_.data();
    std::vector<float> mu(static_cast<std::size_t>(m)), residual(static_cast<std::size_t>(cells)), energy(residual);
    for (int64_t d = 0; d < m; ++d) mu[d] = load_f32(mu_.data(), desc_.dtype, d);
    std::vector<char> work(kernels::key_project_workspace_bytes(desc_, n_) + 64);
    path_.ops.key_project(desc_, {keys_.x.data(), n_, mu.data(), basis_.p.data(), b_.data(), rows(), 0,
                                  residual.data(), energy.data()}, Basis::aligned(work));
    double total = 0.0;
    for (int64_t i = 0; i < cells; ++i) errors_.residual += residual[i], total += energy[i];
    errors_.kept = 1.0 - errors_.residual / total;
    if (a_ == A::bf16 && desc_.dtype == DType::f32)
      for (int64_t i = 0; i < n_ * desc_.rank; ++i)
        store_f32(page_, DType::f32, i, bf16_to_f32(f32_to_bf16(load_f32(page_, DType::f32, i))));
  }

  void rebuild() {
    const int64_t dim = desc_.head_dim, bytes = dtype_bytes(desc_.dtype);
    const auto chunks = static_cast<int32_t>(n_ / desc_.chunk);
    std::vector<double> inv_freq;
    for (int64_t i = 0; i < dim / 2; ++i) inv_freq.push_back(frequency(i));
    const int32_t hi_rows = kernels::rope_hi_rows(n_);
    std::vector<float> lo(static_cast<std::size_t>(kernels::rope_lo_floats(dim / 2))),
        hi(static_cast<std::size_t>(kernels::rope_hi_floats(dim / 2, hi_rows)));
    kernels::rope_fill_tables(inv_freq, hi_rows, lo.data(), hi.data());
    const kernels::KeyRebuildDesc desc{desc_.dtype, desc_.rank, desc_.chunk, desc_.head_dim,
                                       {lo.data(), hi.data(), hi_rows, desc_.head_dim, false, 1.0f}, desc_.a_codec};
    std::vector<int32_t> ids(static_cast<std::size_t>(chunks)), n_ids = {chunks};
    for (int32_t c = 0; c < chunks; ++c) ids[c] = c;
    slots_.resize(static_cast<std::size_t>(n_ * keys_.shape.m() * bytes));
    std::vector<kernels::BasisSegment> segments;
    std::vector<kernels::KeyRebuildItem> items;
    for (int64_t h = 0; h < desc_.kv_heads; ++h)
      segments.push_back({b_.data() + h * desc_.rank * dim * bytes, mu_.data() + h * dim * bytes, 0});
    for (int64_t h = 0; h < desc_.kv_heads; ++h)
      items.push_back({rows(), &segments[static_cast<std::size_t>(h)], 1, ids.data(), ids.data(), n_ids.data(),
                       chunks, slots_.data() + h * n_ * dim * bytes});
    path_.ops.key_rebuild(desc, items);
  }

  double frequency(int64_t i) const {
    return std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(desc_.head_dim));
  }

  // Squared distance of the rebuilt keys to the given ones, rotated here.
  double missed() const {
    const int64_t dim = desc_.head_dim, half = dim / 2;
    double sum = 0.0;
    for (int64_t t = 0; t < n_; ++t)
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(t) * frequency(i), c = std::cos(angle), s = std::sin(angle);
        for (int64_t h = 0; h < desc_.kv_heads; ++h) {
          const double x = keys_.x[t * keys_.shape.m() + h * dim + i];
          const double y = keys_.x[t * keys_.shape.m() + h * dim + half + i];
          const int64_t at = (h * n_ + t) * dim + i;
          sum += std::pow(load_f32(slots_.data(), desc_.dtype, at) - (x * c - y * s), 2);
          sum += std::pow(load_f32(slots_.data(), desc_.dtype, at + half) - (y * c + x * s), 2);
        }
      }
    return sum;
  }

  const Keys& keys_;
  const Basis& basis_;
  A a_;
  Path path_;
  int64_t n_;
  kernels::KeyProjectDesc desc_;
  Errors errors_;
  void* page_ = nullptr;
  std::vector<unsigned char> b_, mu_, blocks_, slots_;
};

Errors measure(const Keys& keys, const Basis& basis, A a, const Path& path, DType dtype = DType::f32) {
  return Pipeline(keys, basis, dtype, a, path).run();
}

std::string describe(const Shape& shape, double noise, const char* path) {
  char text[96];
  std::snprintf(text, sizeof(text), "M %4d r %3d noise %.2f %-9s", static_cast<int>(shape.m()), shape.rank, noise,
                path);
  return text;
}

// Returns the line to print.
std::string expect_int8_costs_little(const Keys& keys, const Basis& basis, double noise, const Path& path) {
  const std::string params = describe(keys.shape, noise, path.name);
  const Errors f32 = measure(keys, basis, A::f32, path), bf16 = measure(keys, basis, A::bf16, path),
               int8 = measure(keys, basis, A::int8, path);
  // The basis holds all but the noise outside it, as much of which as it can fit among so many tokens.
  const double n = static_cast<double>(keys.shape.tokens), m = static_cast<double>(keys.shape.m()), r = keys.shape.rank;
  const double outside = noise * std::sqrt(n * m * (1.0 - r / m) * (1.0 - r / n) / keys.energy);
  EXPECT_NEAR(f32.key, outside, 0.1 * outside) << params;
  EXPECT_LE(int8.key, 1.05 * f32.key) << params;
  for (const Errors& e : {f32, int8}) EXPECT_NEAR(e.residual, e.key, 1e-3 * e.key) << params;
  char line[256];
  std::snprintf(line, sizeof(line), "%s key error: f32 A %.5f, bf16 A %.5f (%.4f of f32), int8 A %.5f (%.4f of f32)",
                params.c_str(), f32.key, bf16.key, bf16.key / f32.key, int8.key, int8.key / f32.key);
  return line;
}

TEST(KeyCodec, int8_coordinates_of_centred_keys_cost_at_most_5_percent_of_the_key_error) {
  Random rng;
  for (const Shape& shape : shapes())
    for (double noise : {0.03, 0.2}) {
      const Keys keys(rng, shape, noise);
      const Basis basis(keys, true);
      const std::string line = expect_int8_costs_little(keys, basis, noise, tested());
      std::printf("%s\n%s\n", line.c_str(), expect_int8_costs_little(keys, basis, noise, reference()).c_str());
      if (shape.m() < 1024) for_each_target([&] { expect_int8_costs_little(keys, basis, noise, tested()); });
    }
}

// Without centring f32 coordinates still serve, short of the weak directions that drown in an f32 Gram matrix of such
// keys, and the energy kept reads as good as ever; but int8 ones are lost, for the scale of a row is that of its bias.
TEST(KeyCodec, int8_coordinates_without_centring_lose_the_keys) {
  Random rng;
  const double noise = 0.03;
  for (const Shape& shape : shapes()) {
    const Keys keys(rng, shape, noise);
    const Basis centred(keys, true), plain(keys, false);
    for (const Path& path : {tested(), reference()}) {
      const std::string params = describe(shape, noise, path.name);
      const Errors best = measure(keys, centred, A::f32, path), f32 = measure(keys, plain, A::f32, path),
                   int8 = measure(keys, plain, A::int8, path);
      std::printf("%s not centred: f32 A %.5f, int8 A %.5f (%.1f of centred f32), energy kept %.6f\n", params.c_str(),
                  f32.key, int8.key, int8.key / best.key, int8.kept);
      EXPECT_LT(f32.key, 2.0 * best.key) << params;
      EXPECT_GT(int8.key, 2.0 * f32.key) << params;
      EXPECT_GT(int8.key, 2.0 * best.key) << params;
      EXPECT_GT(int8.kept, 0.999) << params;
    }
  }
}

// All in bf16, as a sequence keeps it: the rounding of mu and of the keys themselves is then the larger part at such
// a bias, and int8 adds nothing to it.
TEST(KeyCodec, int8_coordinates_are_as_good_as_bf16_ones_where_all_else_is_bf16) {
  Random rng;
  for (const Shape& shape : shapes()) {
    const Keys keys(rng, shape, 0.03);
    const Basis basis(keys, true);
    const Errors bf16 = measure(keys, basis, A::bf16, tested(), DType::bf16),
                 int8 = measure(keys, basis, A::int8, tested(), DType::bf16);
    const std::string params = describe(shape, 0.03, "tested");
    std::printf("%s all bf16: bf16 A %.5f, int8 A %.5f\n", params.c_str(), bf16.key, int8.key);
    EXPECT_LE(int8.key, 1.01 * bf16.key);
  }
}

void bench() {}  // key_project_test and key_rebuild_test time the two ops

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
