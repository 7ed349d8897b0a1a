// landmark_score on a GPU, in two passes: a block a split of kSplitRows rows leaves log masses and, per head, their
// largest and sum of weights; then a block 1024 rows merges these, in order, and normalises. A raw_max needs only the
// first pass.
//
// Floor      bytes n * (digest + 8 G + 4) an item: digests are read once for up to eight heads, and the masses stay
//            in L2 unless the batch is large. Of a bf16 mean at head_dim 128 and G = 4: 292 bytes a row, and 8
//            products of m16n8k16 for 16 rows, far below what tensor cores do in that time. Instructions on top of
//            loads and products: 2.5 an int8 code, 0.6 a 2-bit one
// Splits     64 KiB of a bf16 mean, all asked for at once and half of it before the heads are prepared; 16K chunks of
//            one KV head are 64 blocks, and a multiprocessor has two or three at a time
#include "kernels/landmark_score/landmark_score.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "kernels/landmark_score/landmark_keys.cuh"
#include "kernels/landmark_score/landmark_rows.cuh"

namespace skv::kernels {
namespace {

using namespace landmark;

constexpr int32_t kFinishRows = 1024;

__device__ __forceinline__ const char* address_of(const PagedRows& rows, int32_t i) {
  const int32_t page = i / rows.rows_per_page, in_page = i - page * rows.rows_per_page;
  return static_cast<const char*>(rows.pages[page]) + rows.offset_bytes + int64_t{in_page} * rows.row_bytes;
}

__device__ __forceinline__ float half_of(const PagedRows& rows, int32_t i) {
  return cuda::f16_to_float(*reinterpret_cast<const uint16_t*>(address_of(rows, i)));
}

__device__ __forceinline__ bool is_excluded(const LandmarkScoreItem& item, int32_t j) {
  return item.excluded != nullptr && (item.excluded[j / 64] >> (j % 64) & 1u) != 0;
}

// The larger one; a NaN stays.
__device__ __forceinline__ float keep_larger(float best, float x) { return best != best || best > x ? best : x; }

// The scales of a chunk's keys to shared memory.
__device__ __forceinline__ void stage_scales(const ScoreArgs& args, const PagedRows& scales, int32_t row,
                                             unsigned char* shared) {
  const int32_t chunk = args.desc.format.chunk;
  const uint2* from = reinterpret_cast<const uint2*>(address_of(scales, row));
  uint2* to = shared_array<uint2>(shared, args.scales_at) + static_cast<int>(threadIdx.x) * (chunk / 4);
  for (int32_t i = 0; i < chunk / 4; ++i) to[i] = __ldg(from + i);
}

template <class Reader>
__global__ void __launch_bounds__(kScoreThreads, Reader::kMinBlocks)
    score_split(const ScoreArgs args, const ScoreTask* tasks) {
  SKV_SHARED(shared);
  const ScoreTask& task = tasks[blockIdx.x];
  const LandmarkScoreItem& item = task.item;
  const int32_t first = static_cast<int32_t>(blockIdx.y) * kSplitRows, n = min(item.n - first, kSplitRows);
  if (n <= 0) return;
  const int thread = static_cast<int>(threadIdx.x);
  const bool valid = thread < n;
  const int32_t row = first + min(thread, n - 1);  // the last stands in for rows past it
  shared_array<const char*>(shared, 0)[thread] = address_of(item.digest.rows, row);
  float scale = 1.0f, variance = 0.0f;
  if constexpr (Reader::kCoded) scale = half_of(item.digest.scales, row);
  if constexpr (Reader::kKeys) stage_scales(args, item.digest.scales, row, shared);
  else if (args.desc.format.kind == DigestKind::mean_variance) variance = half_of(item.digest.variances, row);
  const bool excluded = !valid || is_excluded(item, row);
  float* mass = shared_array<float>(shared, args.mass_at);
  float best = -FLT_MAX;
  __syncthreads();
  for (int32_t head = 0; head < args.desc.group; head += Reader::kHeads) {
    const int32_t heads = min(Reader::kHeads, args.desc.group - head);
    typename Reader::Step step;
    Reader::begin(args, shared, step);
    Reader::prepare(args, item, head, shared);
    __syncthreads();
    Reader::measure(args, n, shared, step);
    __syncthreads();
    for (int32_t h = 0; h < heads && valid; ++h) {
      const HeadTerms& terms = shared_array<HeadTerms>(shared, args.terms_at)[h];
      float x = mass[h * kMassStride + thread];
      if constexpr (Reader::kCoded) x *= terms.step * scale;
      x = fmaf(terms.spread, variance, x) + args.base;
      if (excluded) x = -INFINITY;
      mass[h * kMassStride + thread] = x;
      if (task.mass != nullptr) task.mass[(head + h) * task.mass_stride + row] = x;
      best = keep_larger(best, x);
    }
    __syncthreads();
    if (task.parts != nullptr && warp_index() < heads) {
      const ScorePart part = part_of(mass + warp_index() * kMassStride, n);
      if (lane_index() == 0) task.parts[int64_t{blockIdx.y} * args.desc.group + head + warp_index()] = part;
    }
    __syncthreads();
  }
  if (args.desc.reduce == ScoreReduce::raw_max && valid) item.scores[row] = excluded ? -INFINITY : best;
}

// As normalise(); the whole warp. parts: of one head, `stride` apart.
__device__ __forceinline__ Normaliser merge_parts(const ScorePart* parts, int32_t splits, int64_t stride) {
  float whole = -INFINITY;
  for (int32_t s = lane_index(); s < splits; s += cuda::kWarp) whole = fmaxf(whole, parts[s * stride].max);
  whole = cuda::warp_max(whole);
  if (whole == -INFINITY) whole = 0.0f;  // every weight is zero, not NaN
  double total = 0.0;
  for (int32_t s = lane_index(); s < splits; s += cuda::kWarp) {
    const ScorePart part = parts[s * stride];
    total += static_cast<double>(part.sum) * (fabsf(part.max) < INFINITY ? expf(part.max - whole) : 0.0f);
  }
  total = cuda::warp_sum(total);
  return {whole, total == 0.0 ? 0.0f : static_cast<float>(log(total))};
}

// Scores of kFinishRows rows of an item from its log masses.
__global__ void __launch_bounds__(kScoreThreads) finish_scores(const int32_t group, const ScoreTask* tasks) {
  SKV_SHARED(shared);
  const ScoreTask& task = tasks[blockIdx.x];
  const int32_t first = static_cast<int32_t>(blockIdx.y) * kFinishRows, n = task.item.n;
  if (first >= n) return;
  Normaliser* norms = shared_array<Normaliser>(shared, 0);
  for (int32_t h = warp_index(); h < group; h += kScoreWarps) {
    Normaliser norm;
    if (task.parts != nullptr) {
      norm = merge_parts(task.parts + h, (n + kSplitRows - 1) / kSplitRows, group);
    } else {
      const ScorePart part = part_of(task.mass + h * task.mass_stride, n);
      norm = merge_parts(&part, 1, 0);
    }
    if (lane_index() == 0) norms[h] = norm;
  }
  __syncthreads();
  const int32_t end = min(first + kFinishRows, n);
  for (int32_t j = first + static_cast<int32_t>(threadIdx.x); j < end; j += kScoreThreads) {
    float best = -INFINITY;
#pragma unroll 4
    for (int32_t h = 0; h < group; ++h) {  // one exp a row, and equal masses give equal scores wherever they stand
      best = keep_larger(best, (task.mass[h * task.mass_stride + j] - norms[h].max) - norms[h].log_sum);
    }
    task.item.scores[j] = is_excluded(task.item, j) ? -INFINITY : expf(best);
  }
}

struct Grid {
  uint32_t items = 0;
  int32_t max_n = 0;
};

int32_t rounded_up(int32_t n, int32_t unit) { return (n + unit - 1) / unit * unit; }

// Takes its place in shared memory behind what is there already.
int32_t place(ScoreArgs* args, int32_t bytes) {
  const int32_t at = args->shared_bytes;
  args->shared_bytes += rounded_up(bytes, 16);
  return at;
}

ScoreArgs common_args(const LandmarkScoreDesc& desc, int32_t heads) {
  ScoreArgs args;
  args.desc = desc;
  const DigestKind kind = desc.format.kind;
  const bool mean = kind == DigestKind::mean || kind == DigestKind::mean_variance;
  args.base = mean ? std::log(static_cast<float>(desc.format.chunk)) : 0.0f;
  args.size = kind == DigestKind::box ? 2 * desc.format.head_dim : desc.format.head_dim;
  place(&args, kSplitRows * static_cast<int32_t>(sizeof(char*)));
  args.mass_at = place(&args, heads * kMassStride * 4);
  args.terms_at = place(&args, heads * static_cast<int32_t>(sizeof(HeadTerms)));
  return args;
}

template <class Reader>
void launch_split(cuda::Stream& stream, const ScoreArgs& args, const Grid& grid, const ScoreTask* tasks) {
  const auto splits = static_cast<uint32_t>((grid.max_n + kSplitRows - 1) / kSplitRows);
  cuda::launch(score_split<Reader>, dim3(grid.items, splits), dim3(kScoreThreads),
               static_cast<std::size_t>(args.shared_bytes), stream, args, tasks);
}

template <class T>
void score_plain(cuda::Stream& stream, const LandmarkScoreDesc& desc, const Grid& grid, const ScoreTask* tasks) {
  ScoreArgs args = common_args(desc, PlainRows<T>::kHeads);
  args.query_at = place(&args, PlainRows<T>::kHeads * args.size * 4);
  launch_split<PlainRows<T>>(stream, args, grid, tasks);
}

template <bool Coded, int kTiles, int kUnits, int kSets>
void score_rows(cuda::Stream& stream, const LandmarkScoreDesc& desc, const Grid& grid, const ScoreTask* tasks) {
  using Reader = RowTiles<Coded, kTiles, kUnits, kSets>;
  ScoreArgs args = common_args(desc, Reader::kHeads);
  args.row_units = static_cast<int32_t>(desc.format.row_bytes() / 16);
  args.query_groups = rounded_up((args.row_units + 3) / 4, kUnits);
  args.query_at = place(&args, args.query_groups * Reader::kProducts * kSets * cuda::kWarp * 8);
  launch_split<Reader>(stream, args, grid, tasks);
}

template <int kWords, int kSets>
void score_keys(cuda::Stream& stream, const LandmarkScoreDesc& desc, const Grid& grid, const ScoreTask* tasks) {
  using Reader = KeyTiles<kWords, kSets>;
  static_assert(kMassStride >= kMaxKeyDim, "a head is rotated where its masses will be");
  ScoreArgs args = common_args(desc, Reader::kHeads);
  const int32_t chunk = desc.format.chunk;
  args.hadamard = cuda::make_hadamard(desc.format.head_dim, false);
  args.chunk_inverse = static_cast<uint32_t>((65536 + chunk - 1) / chunk);
  args.query_at = place(&args, kWords * Reader::kProducts * kSets * cuda::kWarp * 8);
  args.scales_at = place(&args, kSplitRows * chunk * 2);
  args.logits_at = place(&args, kScoreWarps * Reader::kHeads * Reader::kUnitChunks * (chunk + 1) * 4);
  launch_split<Reader>(stream, args, grid, tasks);
}

template <int kSets>
void score_tiles(cuda::Stream& stream, const LandmarkScoreDesc& desc, const Grid& grid, const ScoreTask* tasks) {
  const DigestFormat& format = desc.format;
  if (format.kind == DigestKind::keys_2bit) {
    if (format.head_dim <= 64) score_keys<1, kSets>(stream, desc, grid, tasks);
    else if (format.head_dim <= 128) score_keys<2, kSets>(stream, desc, grid, tasks);
    else score_keys<4, kSets>(stream, desc, grid, tasks);
    return;
  }
  const bool coded = format.codec == BlockCodec::int8, narrow = format.row_bytes() <= 128;
  if (coded && narrow) score_rows<true, 2, 2, kSets>(stream, desc, grid, tasks);
  else if (coded) score_rows<true, 1, 4, kSets>(stream, desc, grid, tasks);
  else if (narrow) score_rows<false, 2, 2, kSets>(stream, desc, grid, tasks);
  else score_rows<false, 1, 4, kSets>(stream, desc, grid, tasks);
}

void score_splits(cuda::Stream& stream, const LandmarkScoreDesc& desc, const Grid& grid, const ScoreTask* tasks) {
  const DigestFormat& format = desc.format;
  const bool keys = format.kind == DigestKind::keys_2bit, coded = format.codec == BlockCodec::int8;
  const bool wide = !keys && !coded && format.dtype == DType::f32;
  if (keys || (!wide && format.row_bytes() % 16 == 0)) {
    if (desc.group <= 4) score_tiles<1>(stream, desc, grid, tasks);
    else score_tiles<2>(stream, desc, grid, tasks);
  } else if (coded) {
    score_plain<int8_t>(stream, desc, grid, tasks);
  } else if (wide) {
    score_plain<float>(stream, desc, grid, tasks);
  } else {
    score_plain<uint16_t>(stream, desc, grid, tasks);
  }
}

int32_t splits_of(const LandmarkScoreItem& item) {
  return item.n > kSplitRows ? (item.n + kSplitRows - 1) / kSplitRows : 0;
}

}  // namespace

void landmark_score_cuda(cuda::Stream& stream, const LandmarkScoreDesc& desc,
                         std::span<const LandmarkScoreItem> items, void* workspace) {
  cuda::Lists lists(stream);
  const auto tasks = lists.make<ScoreTask>(static_cast<int64_t>(items.size()));
  int64_t splits = 0, rows = 0;
  for (const LandmarkScoreItem& item : items) splits += splits_of(item), rows += item.n;
  DeviceScorePlan plan = lay_out_device_scores(desc, splits, rows, workspace);
  const bool raw = desc.reduce == ScoreReduce::raw_max;
  Grid grid{static_cast<uint32_t>(tasks.size()), 0};
  for (int64_t i = 0; i < tasks.size(); ++i) {
    ScoreTask task{items[static_cast<std::size_t>(i)]};
    const LandmarkScoreItem& item = task.item;
    lists.localize(task.item.digest);
    task.mass = item.log_mass != nullptr || raw ? item.log_mass : plan.mass;
    task.mass_stride = item.log_mass != nullptr ? item.log_mass_stride : item.n;
    if (!raw) {
      if (splits_of(item) > 0) task.parts = plan.parts;
      plan.parts += int64_t{splits_of(item)} * desc.group;
      plan.mass += int64_t{item.n} * desc.group;
    }
    tasks[i] = task;
    grid.max_n = std::max(grid.max_n, item.n);
  }
  score_splits(stream, desc, grid, tasks.device());
  if (raw) return;
  const auto blocks = static_cast<uint32_t>((grid.max_n + kFinishRows - 1) / kFinishRows);
  cuda::launch(finish_scores, dim3(grid.items, blocks), dim3(kScoreThreads),
               static_cast<std::size_t>(desc.group) * sizeof(Normaliser), stream, desc.group, tasks.device());
}

}  // namespace skv::kernels
