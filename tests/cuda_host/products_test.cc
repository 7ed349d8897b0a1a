// The calls of cuBLASLt and cuSOLVER (kernels/common/cuda/products.cc) over the libraries of the fake device.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/cuda_host/cuda_host.h"
#include "tests/cuda_host/stream_fixture.h"

namespace skv::test {
namespace {

constexpr uint64_t kSeed = 20260121;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class Products : public StreamTest {
 protected:
  ~Products() override {
    cuda_host::set_faults({});
    for (void* p : taken_) cudaFree(p);
  }
  // n elements, the first `offset` elements behind what cudaMalloc gives.
  template <class T>
  T* device(int64_t n, int64_t offset = 0) {
    void* p = nullptr;
    EXPECT_EQ(cudaMalloc(&p, static_cast<std::size_t>(n + offset) * sizeof(T)), cudaSuccess);
    taken_.push_back(p);
    return static_cast<T*>(p) + offset;
  }
  template <class T>
  T* device(const std::vector<T>& host, int64_t offset = 0) {
    T* p = device<T>(static_cast<int64_t>(host.size()), offset);
    stream_->upload(p, host.data(), static_cast<int64_t>(host.size() * sizeof(T)));
    return p;
  }
  template <class T>
  std::vector<T> host(const T* p, int64_t n) {
    std::vector<T> values(static_cast<std::size_t>(n));
    stream_->download(values.data(), p, n * static_cast<int64_t>(sizeof(T)));
    return values;
  }
  int64_t integer(int64_t from, int64_t to) { return std::uniform_int_distribution<int64_t>(from, to)(random_); }
  std::vector<double> normal(int64_t n) {
    std::vector<double> values(static_cast<std::size_t>(n));
    for (double& x : values) x = std::normal_distribution<double>()(random_);
    return values;
  }
  void expect_failure(const std::string& failure) {
    EXPECT_EQ(stream_->failure(), failure);
    make_stream(true);
  }

  std::mt19937_64 random_{kSeed};
  std::vector<void*> taken_;
};

// A matrix as stored, and as op() has it.
struct Operand {
  bool transposed;
  int64_t rows, columns, ld;  // of op()
  std::vector<double> stored;

  int64_t stored_rows() const { return transposed ? columns : rows; }
  int64_t stored_columns() const { return transposed ? rows : columns; }
  double at(int64_t row, int64_t column) const {
    return stored[static_cast<std::size_t>(transposed ? column * ld + row : row * ld + column)];
  }
};

Operand operand(bool transposed, int64_t rows, int64_t columns, int64_t pad) {
  Operand x{transposed, rows, columns, 0, {}};
  x.ld = x.stored_columns() + pad;
  return x;
}

// Rounds what is stored to the type, and gives its bits.
std::vector<unsigned char> rounded(Operand& x, DType type) {
  const std::size_t bytes = type == DType::f32 ? 4 : 2;
  std::vector<unsigned char> bits(x.stored.size() * bytes);
  for (std::size_t i = 0; i < x.stored.size(); ++i) {
    store_f32(bits.data(), type, static_cast<int64_t>(i), static_cast<float>(x.stored[i]));
    x.stored[i] = double{load_f32(bits.data(), type, static_cast<int64_t>(i))};
  }
  return bits;
}

struct Sum {
  double value = 0.0, magnitude = 0.0;
};
Sum sum_of(const Operand& a, const Operand& b, int64_t row, int64_t column) {
  Sum sum;
  for (int64_t l = 0; l < a.columns; ++l) {
    const double term = a.at(row, l) * b.at(l, column);
    sum.value += term;
    sum.magnitude += std::fabs(term);
  }
  return sum;
}

TEST_F(Products, of_all_types_and_layouts_are_right) {
  for (int round = 0; round < 300; ++round) {
    const DType type = round % 3 == 0 ? DType::f32 : round % 3 == 1 ? DType::bf16 : DType::f16;
    const int64_t unit = integer(0, 1) != 0 ? 1 : 8;  // so that strides are often aligned
    const int64_t m = integer(1, round % 10 == 0 ? 150 : 20), n = unit * integer(1, 40 / unit);
    const int64_t k = unit * integer(1, 40 / unit);
    const int64_t pad = integer(0, 1) * integer(0, 9);
    const auto offset = [&] { return integer(0, 3) == 0 ? integer(1, 3) : 0; };
    Operand a = operand(integer(0, 1) != 0, m, k, pad), b = operand(integer(0, 1) != 0, k, n, pad);
    a.stored = normal(a.stored_rows() * a.ld);
    b.stored = normal(b.stored_rows() * b.ld);
    const int64_t element = type == DType::f32 ? 4 : 2, ldc = n + pad;
    const float beta = integer(0, 1) != 0 ? 0.0f : 0.75f, alpha = 1.5f;
    const std::vector<float> before(static_cast<std::size_t>(m * ldc), beta == 0.0f ? kNan : 2.0f);
    float* c = device(before, offset());
    const void* stored_a = device(rounded(a, type), offset() * element);
    const void* stored_b = device(rounded(b, type), offset() * element);
    cuda::matrix_product(*stream_, {type, a.transposed, b.transposed, m, n, k, stored_a, a.ld, stored_b, b.ld, c, ldc,
                                    alpha, beta});
    const std::vector<float> got = host(c, m * ldc);
    for (int64_t row = 0; row < m; ++row) {
      for (int64_t column = 0; column < ldc; ++column) {
        const float x = got[static_cast<std::size_t>(row * ldc + column)];
        if (column >= n) {
          ASSERT_EQ(std::isnan(x), beta == 0.0f) << "written between rows";
          continue;
        }
        const Sum want = sum_of(a, b, row, column);
        ASSERT_NEAR(x, alpha * want.value + beta * 2.0, 1e-5 * (1.0 + want.magnitude))
            << "seed " << kSeed << " round " << round;
      }
    }
  }
  EXPECT_STREQ(stream_->failure(), "");
}

TEST_F(Products, of_doubles_are_right) {
  for (int round = 0; round < 60; ++round) {
    const int64_t m = integer(1, 30), n = integer(1, 30), k = integer(1, 30), pad = integer(0, 2);
    Operand a = operand(integer(0, 1) != 0, m, k, pad), b = operand(integer(0, 1) != 0, k, n, pad);
    a.stored = normal(a.stored_rows() * a.ld);
    b.stored = normal(b.stored_rows() * b.ld);
    double *stored_a = device(a.stored), *stored_b = device(b.stored), *c = device<double>(m * n);
    cuda::double_product(*stream_,
                         {a.transposed, b.transposed, m, n, k, stored_a, a.ld, stored_b, b.ld, c, n});
    const std::vector<double> got = host(c, m * n);
    for (int64_t i = 0; i < m * n; ++i) {
      const Sum want = sum_of(a, b, i / n, i % n);
      ASSERT_NEAR(got[static_cast<std::size_t>(i)], want.value, 1e-13 * (1.0 + want.magnitude))
          << "seed " << kSeed << " round " << round;
    }
  }
  EXPECT_STREQ(stream_->failure(), "");
}

// Products of the first m rows of one matrix, for several m.
class ProductRows : public Products {
 protected:
  static constexpr int64_t kRows = 300, kColumns = 24, kDepth = 336;

  std::vector<float> first_row(int64_t m, int64_t offset) {
    if (a_ == nullptr) {
      std::vector<float> a(kRows * kDepth), b(kDepth * kColumns);
      for (float& x : a) x = std::normal_distribution<float>()(random_);
      for (float& x : b) x = std::normal_distribution<float>()(random_);
      a_ = device(a, offset);
      b_ = device(b, offset);
      c_ = device<float>(kRows * kColumns, offset);
    }
    cuda::matrix_product(*stream_, {DType::f32, false, false, m, kColumns, kDepth, a_, kDepth, b_, kColumns, c_,
                                    kColumns});
    return host(c_, kColumns);
  }
  float *a_ = nullptr, *b_ = nullptr, *c_ = nullptr;
};

TEST_F(ProductRows, have_the_same_bits_whatever_their_number) {
  for (const int64_t offset : {0, 1}) {
    a_ = nullptr;
    const std::vector<float> few = first_row(1, offset);
    for (const int64_t m : {2, 16, 20, 40, 64}) EXPECT_EQ(first_row(m, offset), few) << m;
    const std::vector<float> many = first_row(65, offset);
    for (const int64_t m : {80, 100, 300}) EXPECT_EQ(first_row(m, offset), many) << m;
    EXPECT_STREQ(stream_->failure(), "");
  }
}

TEST_F(ProductRows, have_the_same_bits_whichever_number_came_first) {
  const std::vector<float> few = first_row(1, 0), many = first_row(80, 0);
  stream_.reset();
  cuda::free_products(products_);
  products_ = cuda::make_products(handle_);
  make_stream(true);
  EXPECT_EQ(first_row(300, 0), many);
  EXPECT_EQ(first_row(64, 0), few);
  EXPECT_STREQ(stream_->failure(), "");
}

// Without them there is still a product, of whichever bits: this is also how the test above would fail.
TEST_F(ProductRows, are_made_where_no_algorithm_for_all_serves) {
  cuda_host::Faults faults;
  faults.exact_algorithms = true;
  cuda_host::set_faults(faults);
  const std::vector<float> few = first_row(1, 0), other = first_row(64, 0);
  EXPECT_STREQ(stream_->failure(), "");
  EXPECT_NE(few, other);
  for (std::size_t i = 0; i < few.size(); ++i) EXPECT_NEAR(few[i], other[i], 1e-3);
}

TEST_F(ProductRows, are_made_by_the_next_algorithm_where_the_first_refuses) {
  // Aligned, so that there are two.
  const auto product = [&] {
    cuda::matrix_product(*stream_, {DType::f32, false, false, 4, 8, 16, a_, 16, b_, 8, c_, 8});
    return host(c_, 32);
  };
  first_row(1, 0);
  const std::vector<float> first = product();
  cuda_host::Faults faults;
  faults.refused_algorithms = 1;
  cuda_host::set_faults(faults);
  const std::vector<float> second = product();
  EXPECT_STREQ(stream_->failure(), "");
  EXPECT_NE(first, second);
  for (std::size_t i = 0; i < first.size(); ++i) EXPECT_NEAR(first[i], second[i], 1e-4);
  faults.refused_algorithms = 99;
  cuda_host::set_faults(faults);
  product();
  expect_failure("matrix product: CUBLAS_STATUS_NOT_SUPPORTED");
}

TEST_F(Products, of_nothing_ask_nobody) {
  cuda_host::Faults faults;
  faults.refused_algorithms = 99;
  cuda_host::set_faults(faults);
  for (const auto& [m, n, k] : {std::array{0, 3, 3}, std::array{3, 0, 3}, std::array{3, 3, 0}}) {
    cuda::matrix_product(*stream_, {DType::f32, false, false, m, n, k, nullptr, 3, nullptr, 3, nullptr, 3});
    cuda::double_product(*stream_, {false, false, m, n, k, nullptr, 3, nullptr, 3, nullptr, 3});
  }
  EXPECT_STREQ(stream_->failure(), "");
}

TEST_F(Products, need_their_handles) {
  cuda::Stream bare(handle_, memory_, nullptr);
  cuda::matrix_product(bare, {DType::f32, false, false, 1, 1, 1, nullptr, 1, nullptr, 1, nullptr, 1});
  EXPECT_STREQ(bare.failure(), "matrix product: the stream has no library handles");
}

TEST_F(Products, eigenvectors_are_rows_in_ascending_order) {
  for (const int64_t n : {5, 1, 33, 8}) {  // the workspace grows for the third
    std::vector<double> a = normal(n * n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i; ++j) a[static_cast<std::size_t>(i * n + j)] = a[static_cast<std::size_t>(j * n + i)];
    }
    double *vectors = device(a), *values = device<double>(n);
    ASSERT_TRUE(cuda::symmetric_eigen(*stream_, vectors, static_cast<int32_t>(n), values));
    const std::vector<double> v = host(vectors, n * n), w = host(values, n);
    EXPECT_TRUE(std::is_sorted(w.begin(), w.end()));
    for (int64_t e = 0; e < n; ++e) {
      const double* vector = v.data() + e * n;
      double length = 0.0;
      for (int64_t i = 0; i < n; ++i) {
        double product = 0.0;
        for (int64_t j = 0; j < n; ++j) product += a[static_cast<std::size_t>(i * n + j)] * vector[j];
        EXPECT_NEAR(product, w[static_cast<std::size_t>(e)] * vector[i], 1e-12 * static_cast<double>(n));
        length += vector[i] * vector[i];
      }
      EXPECT_NEAR(length, 1.0, 1e-12);
    }
  }
  EXPECT_STREQ(stream_->failure(), "");
}

TEST_F(Products, an_eigenproblem_comes_after_what_is_kept) {
  // Its matrix, 5.0, is made by the product: the upper half of that double is the float 2.3125.
  const float* factors = device(std::vector<float>{1.0f, 2.3125f});
  double *a = device(std::vector<double>{0.0}), *w = device<double>(1);
  ASSERT_TRUE(cuda::symmetric_eigen(*stream_, a, 1, w));  // the next one has its workspace
  stream_->begin_record();
  cuda::matrix_product(*stream_, {DType::f32, false, false, 1, 1, 1, factors, 1, factors + 1, 1,
                                  reinterpret_cast<float*>(a) + 1, 1});
  EXPECT_TRUE(cuda::symmetric_eigen(*stream_, a, 1, w));
  stream_->end_record();
  EXPECT_EQ(host(w, 1)[0], 5.0);
}

TEST_F(Products, give_back_what_they_took) {
  double *a = device(std::vector<double>(64, 1.0)), *w = device<double>(8);
  const cuda_host::Usage before = cuda_host::usage();
  cuda::Products* products = cuda::make_products(handle_);
  EXPECT_NEAR(static_cast<double>(cuda_host::usage().device_bytes - before.device_bytes),
              static_cast<double>(cuda::products_bytes()), 256);
  {
    cuda::Stream stream(handle_, memory_, products);
    EXPECT_TRUE(cuda::symmetric_eigen(stream, a, 8, w));
  }
  cuda::free_products(products);
  EXPECT_EQ(cuda_host::usage().device_bytes, before.device_bytes);
  EXPECT_EQ(cuda_host::usage().allocations, before.allocations);
}

TEST_F(Products, an_eigenproblem_without_an_answer_is_no_failure) {
  double *a = device(std::vector<double>(9, std::nan(""))), *w = device<double>(3);
  EXPECT_FALSE(cuda::symmetric_eigen(*stream_, a, 3, w));
  EXPECT_STREQ(stream_->failure(), "");
}

TEST_F(Products, what_refuses_an_eigenproblem_is_said) {
  double *a = device(std::vector<double>{2, 1, 1, 2}), *w = device<double>(2);
  cuda_host::Faults faults;
  faults.eigenproblems_refused = true;
  cuda_host::set_faults(faults);
  EXPECT_FALSE(cuda::symmetric_eigen(*stream_, a, 2, w));
  expect_failure("eigenproblem: cuSOLVER refused it");
  faults = {};
  faults.allocations_before_failure = 0;
  cuda_host::set_faults(faults);
  EXPECT_FALSE(cuda::symmetric_eigen(*stream_, a, 2, w));
  expect_failure("eigenproblem workspace: out of memory");
  EXPECT_TRUE(cuda::symmetric_eigen(*stream_, a, 2, w));
  EXPECT_NEAR(host(w, 2)[0], 1.0, 1e-14);
  EXPECT_NEAR(host(w, 2)[1], 3.0, 1e-14);
}

}  // namespace
}  // namespace skv::test
