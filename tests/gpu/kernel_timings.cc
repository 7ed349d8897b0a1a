// The kernels that carry a decode step and a prefill, each beside its floor in bytes and operations, at the shape of a layer of
// Llama-3.1-8B with 122,880 tokens.
#include <algorithm>
#include <numeric>

#include "tests/gpu/timing_frame.h"

namespace skv::gpu {
namespace {

using namespace kernels;

constexpr int32_t kHeads = 8, kGroup = 4, kDim = 128, kChunk = 8, kRank = 160, kWidth = kHeads * kDim;
constexpr int32_t kTokens = 122880, kChunks = kTokens / kChunk, kPerPage = 64;
constexpr int32_t kSelected = 240, kMissed = 96, kSlots = 320;  // 1.56 % of the chunks; 60 % of them in slots
constexpr float kScale = 0.08838835f;
constexpr double kL2Bytes = 60e6;

std::string batch_text(int32_t batch) { return "batch " + std::to_string(batch); }

// Enough distinct copies of per_call bytes that the L2 cache does not serve them.
int32_t copies_of(double per_call) { return std::clamp(static_cast<int32_t>(4 * kL2Bytes / per_call) + 1, 1, 64); }

// Rows of one head after another in pages of kPerPage, as lib/kv lays them out: [pages][heads][kPerPage].
struct Paged {
  Paged(Gpu& gpu, int64_t row_bytes, int32_t heads, int32_t layers, skv_tier tier = SKV_TIER_FAST)
      : row_bytes(row_bytes), heads(heads), n_pages(kChunks / kPerPage),
        data(gpu.random(int64_t{layers} * n_pages * heads * kPerPage * row_bytes, tier)) {
    for (int64_t p = 0; p < int64_t{layers} * n_pages; ++p) {
      pages.push_back(data.as<char>() + p * heads * kPerPage * row_bytes);
    }
  }
  PagedRows rows(int32_t layer, int32_t head) const {
    return {pages.data() + int64_t{layer} * n_pages, int64_t{head} * kPerPage * row_bytes, kPerPage,
            static_cast<int32_t>(row_bytes), n_pages};
  }
  int64_t row_bytes;
  int32_t heads, n_pages;
  Buffer data;
  std::vector<void*> pages;
};

// kSelected distinct chunks an item, ascending; the first kMissed entries of each list serve as misses.
std::vector<int32_t> spread_ids(int32_t items, int32_t count) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < items; ++i) {
    for (int32_t j = 0; j < count; ++j) ids.push_back((j * (kChunks / count) + i * 7) % kChunks);
    std::sort(ids.end() - count, ids.end());
  }
  return ids;
}

void measure_ceilings(Gpu& gpu, Report& report) {
  const int64_t bytes = int64_t{1} << 30, n = 8192;
  const auto size = static_cast<double>(bytes), flops = 2.0 * static_cast<double>(n * n * n);
  const double copy = report.measure({"copy", "1 GiB, read and written", 2 * size}, [&] {
    const Buffer a = gpu.random(bytes), b = gpu.empty(bytes);
    return gpu.seconds([&](int64_t) { gpu.ops().copy(b.data(), a.data(), bytes); });
  });
  const double link = report.measure({"host link", "1 GiB, pinned to device", size, 0, true}, [&] {
    const Buffer a = gpu.random(bytes, SKV_TIER_SLOW), b = gpu.empty(bytes);
    return gpu.seconds([&](int64_t) { gpu.ops().copy(b.data(), a.data(), bytes); });
  });
  const double gemm = report.measure({"gemm", "8192^3, f32 activations, bf16 weights", 0, flops}, [&] {
    const Buffer w = gpu.random(n * n * 2), c = gpu.empty(n * n * 4);
    std::vector<float> row(static_cast<std::size_t>(n * n));
    for (std::size_t i = 0; i < row.size(); ++i) row[i] = 1e-4f * static_cast<float>((i * 2654435761u) % 20001) - 1.0f;
    const Buffer a = gpu.filled(row);
    const GemmDesc desc = {DType::bf16, n, n};
    const Buffer workspace = gpu.empty(static_cast<int64_t>(gemm_workspace_bytes(desc, n)));
    GemmArgs args;
    args.a = a.as<float>(), args.lda = n, args.w = w.data(), args.c = c.as<float>(), args.ldc = n, args.m = n;
    return gpu.seconds([&](int64_t) { gpu.ops().gemm(desc, args, workspace.data()); });
  });
  report.set_ceilings(2 * size / copy, size / link, flops / gemm);
}

std::vector<float> query_floats(int64_t n) {
  std::vector<float> q(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = 1e-4f * static_cast<float>((i * 2654435761u) % 20001) - 1.0f;
  return q;
}

void measure_score(Gpu& gpu, Report& report, const char* name, DigestKind kind, BlockCodec codec, int32_t batch) {
  const DigestFormat format = {kind, codec, DType::bf16, kChunk, kDim};
  const int32_t items = batch * kHeads;
  const double bytes = double(items) * kChunks * (static_cast<double>(format.chunk_bytes()) + 4);
  report.measure({"landmark_score", std::string(name) + ", " + batch_text(batch), bytes,
                  2.0 * items * kGroup * kChunks * kDim * (kind == DigestKind::keys_2bit ? kChunk : 1)}, [&] {
    const int32_t layers = copies_of(bytes);
    // One "layer" of pages a sequence: sequences times layers.
    const Paged rows(gpu, format.row_bytes(), kHeads, layers * batch);
    const Paged scales(gpu, std::max<int64_t>(format.scale_bytes(), 2), kHeads, layers * batch);
    const Buffer q = gpu.filled(query_floats(int64_t{items} * kGroup * kDim));
    const Buffer scores = gpu.empty(int64_t{items} * kChunks * 4);
    const LandmarkScoreDesc desc = {format, kGroup, kScale, ScoreReduce::softmax_max};
    const Buffer workspace =
        gpu.empty(static_cast<int64_t>(landmark_score_workspace_bytes(desc, int64_t{items} * kChunks)));
    std::vector<std::vector<LandmarkScoreItem>> lists(static_cast<std::size_t>(layers));
    for (int32_t l = 0; l < layers; ++l) {
      for (int32_t i = 0; i < items; ++i) {
        LandmarkScoreItem item;
        item.q = q.as<float>() + int64_t{i} * kGroup * kDim;
        item.digest.rows = rows.rows(l * batch + i / kHeads, i % kHeads);
        if (format.scale_bytes() > 0) item.digest.scales = scales.rows(l * batch + i / kHeads, i % kHeads);
        item.n = kChunks;
        item.scores = scores.as<float>() + int64_t{i} * kChunks;
        lists[static_cast<std::size_t>(l)].push_back(item);
      }
    }
    return gpu.seconds([&](int64_t i) {
      gpu.ops().landmark_score(desc, lists[static_cast<std::size_t>(i % layers)], workspace.data());
    });
  });
}

void measure_topk(Gpu& gpu, Report& report, int32_t batch) {
  const int32_t items = batch * kHeads;
  report.measure({"topk_select", std::to_string(kSelected) + " of 15,360, " + batch_text(batch),
                  4.0 * items * kChunks}, [&] {
    const Buffer scores = gpu.filled(query_floats(int64_t{items} * kChunks));
    const Buffer ids = gpu.empty(int64_t{items} * kSelected * 4), n_ids = gpu.empty(int64_t{items} * 4);
    const Buffer workspace = gpu.empty(static_cast<int64_t>(topk_select_workspace_bytes(int64_t{items} * kChunks)) + 64);
    std::vector<TopkSelectItem> list;
    for (int32_t i = 0; i < items; ++i) {
      list.push_back({scores.as<float>() + int64_t{i} * kChunks, kChunks, kSelected,
                      ids.as<int32_t>() + int64_t{i} * kSelected, n_ids.as<int32_t>() + i});
    }
    return gpu.seconds([&](int64_t) { gpu.ops().topk_select(list, workspace.data()); });
  });
}

// Two selections by turns that share 60 %, so that every call misses kMissed chunks.
void measure_slots(Gpu& gpu, Report& report, int32_t batch) {
  const int32_t items = batch * kHeads;
  report.measure({"slot_update", "60 % hits, " + batch_text(batch), 8.0 * items * kSlots}, [&] {
    const Paged table(gpu, 2, kHeads, batch);
    gpu.ops().fill(table.data.data(), 0xff, table.data.bytes());
    const Buffer slots = gpu.empty(int64_t{items} * kSlots * 8);
    gpu.ops().fill(slots.data(), 0xff, int64_t{items} * kSlots * 4);
    gpu.ops().fill(slots.as<char>() + int64_t{items} * kSlots * 4, 0, int64_t{items} * kSlots * 4);
    std::vector<int32_t> host;
    for (int32_t turn = 0; turn < 2; ++turn) {
      for (int32_t i = 0; i < items; ++i) {
        for (int32_t j = 0; j < kSelected; ++j) host.push_back(64 * j + (j < kSelected - kMissed ? 0 : 1 + turn * 31));
      }
    }
    const Buffer ids = gpu.filled(host), counts = gpu.filled(std::vector<int32_t>(static_cast<std::size_t>(items), kSelected));
    const Buffer out = gpu.empty(int64_t{items} * (3 * kSelected + 1) * 4);
    const Buffer workspace = gpu.empty(static_cast<int64_t>(slot_update_workspace_bytes(items, kSlots)) + 64);
    std::vector<SlotUpdateItem> list(static_cast<std::size_t>(items));
    uint32_t step = 0;
    return gpu.seconds([&](int64_t turn) {
      ++step;
      for (int32_t i = 0; i < items; ++i) {
        SlotUpdateItem& item = list[static_cast<std::size_t>(i)];
        item.table = table.rows(i / kHeads, i % kHeads);
        item.chunk_of_slot = slots.as<int32_t>() + int64_t{i} * kSlots;
        item.last_used = slots.as<uint32_t>() + (int64_t{items} + i) * kSlots;
        item.n_slots = kSlots, item.step = step;
        item.ids = ids.as<int32_t>() + ((turn % 2) * items + i) * kSelected;
        item.n_ids = counts.as<int32_t>() + i, item.max_ids = kSelected;
        item.slots = out.as<int32_t>() + int64_t{i} * (3 * kSelected + 1);
        item.miss_chunks = item.slots + kSelected, item.miss_slots = item.slots + 2 * kSelected;
        item.n_miss = item.slots + 3 * kSelected;
      }
      gpu.ops().slot_update(list, workspace.data());
    });
  });
}

// Ids, slots and counts of kMissed chunks an item.
struct Misses {
  Misses(Gpu& gpu, int32_t items)
      : chunks(gpu.filled(spread_ids(items, kMissed))), n(gpu.filled(std::vector<int32_t>(static_cast<std::size_t>(items), kMissed))) {
    std::vector<int32_t> host(static_cast<std::size_t>(items) * kMissed);
    for (std::size_t i = 0; i < host.size(); ++i) host[i] = static_cast<int32_t>(i % kMissed) * 3;
    slots = gpu.filled(host);
  }
  const int32_t* chunks_of(int32_t item) const { return chunks.as<int32_t>() + int64_t{item} * kMissed; }
  const int32_t* slots_of(int32_t item) const { return slots.as<int32_t>() + int64_t{item} * kMissed; }
  Buffer chunks, n, slots;
};

void measure_fetch(Gpu& gpu, Report& report, const char* name, BlockCodec codec, int32_t batch) {
  const BlockFormat format = {codec, DType::bf16, kChunk, kDim};
  const int32_t items = batch * kHeads;
  const double bytes = double(items) * kMissed * static_cast<double>(format.block_bytes());
  report.measure({"chunk_fetch", std::string(name) + ", " + batch_text(batch), bytes, 0, true}, [&] {
    const Paged blocks(gpu, format.block_bytes(), kHeads, batch, SKV_TIER_SLOW);
    const Misses misses(gpu, items);
    const Buffer slots = gpu.empty(int64_t{items} * kSlots * format.decoded_bytes());
    std::vector<ChunkFetchItem> list;
    for (int32_t i = 0; i < items; ++i) {
      list.push_back({blocks.rows(i / kHeads, i % kHeads), slots.as<char>() + int64_t{i} * kSlots * format.decoded_bytes(),
                      misses.chunks_of(i), misses.slots_of(i), misses.n.as<int32_t>() + i, kMissed, nullptr});
    }
    return gpu.seconds([&](int64_t) { gpu.ops().chunk_fetch(format, list); });
  });
}

void measure_rebuild(Gpu& gpu, Report& report, const char* name, BlockCodec codec, int32_t batch) {
  KeyRebuildDesc desc = {DType::bf16, kRank, kChunk, kDim, {}, codec};
  const int32_t items = batch * kHeads, rows = kMissed * kChunk;
  const auto block = static_cast<double>(desc.a_format().block_bytes());
  const double bytes = items * (kMissed * block + 2.0 * kRank * kDim + 2.0 * rows * kDim);
  report.measure({"key_rebuild", std::string(name) + ", " + batch_text(batch), bytes, 2.0 * items * rows * kRank * kDim},
                 [&] {
    const Paged a(gpu, desc.a_format().block_bytes(), 1, batch);
    const Buffer basis = gpu.random(int64_t{kHeads} * (kRank + 1) * kDim * 2);
    const Buffer tables = gpu.filled(query_floats(int64_t{1024} * kDim * 2));
    desc.rope = {tables.as<float>(), tables.as<float>() + int64_t{1024} * kDim, 1024, kDim, false, 1.0f};
    const Misses misses(gpu, items);
    const Buffer slots = gpu.empty(int64_t{items} * kSlots * kChunk * kDim * 2);
    std::vector<BasisSegment> segments;
    for (int32_t h = 0; h < kHeads; ++h) {
      segments.push_back({basis.as<char>() + int64_t{h} * kRank * kDim * 2,
                          basis.as<char>() + (int64_t{kHeads} * kRank + h) * kDim * 2, 0});
    }
    std::vector<KeyRebuildItem> list;
    for (int32_t i = 0; i < items; ++i) {
      list.push_back({a.rows(i / kHeads, 0), &segments[static_cast<std::size_t>(i % kHeads)], 1, misses.chunks_of(i),
                      misses.slots_of(i), misses.n.as<int32_t>() + i, kMissed,
                      slots.as<char>() + int64_t{i} * kSlots * kChunk * kDim * 2});
    }
    return gpu.seconds([&](int64_t) { gpu.ops().key_rebuild(desc, list); });
  });
}

// Over slots (selected) or over pages of 64 tokens (full attention).
void measure_decode(Gpu& gpu, Report& report, int32_t batch, bool full) {
  const int32_t items = batch * kHeads, tokens = full ? kTokens : kSelected * kChunk;
  const double bytes = 4.0 * items * tokens * kDim;
  report.measure({"attn_decode", (full ? "all 122,880 tokens, " : "1,920 tokens in slots, ") + batch_text(batch), bytes,
                  4.0 * items * kGroup * tokens * kDim}, [&] {
    const int32_t layers = copies_of(bytes), held = full ? kTokens : kSlots * kChunk;
    const int64_t part = int64_t{held} * kDim * 2;
    const Buffer kv = gpu.random(int64_t{layers} * items * 2 * part);
    const Buffer q = gpu.filled(query_floats(int64_t{items} * kGroup * kDim)), out = gpu.empty(q.bytes());
    const Buffer ids = gpu.filled(spread_ids(1, kSelected)), n = gpu.filled(std::vector<int32_t>{kSelected});
    const AttnDecodeDesc desc = {DType::bf16, kDim, kGroup, kScale};
    const Buffer workspace =
        gpu.empty(static_cast<int64_t>(attn_decode_workspace_bytes(desc, items, int64_t{items} * tokens)));
    std::vector<int32_t> slots(kSelected);
    std::iota(slots.begin(), slots.end(), 40);
    gpu.ops().upload(ids.data(), slots.data(), ids.bytes());
    // One list for all heads of a sequence and layer, as the KV manager has it: K of each head, then V, of 64 tokens.
    constexpr int32_t kPages = kTokens / 64;
    std::vector<void*> pages;
    for (int64_t p = 0; full && p < int64_t{layers} * batch * kPages; ++p) {
      pages.push_back(kv.as<char>() + p * 2 * kHeads * 64 * kDim * 2);
    }
    std::vector<KvRun> runs(full ? static_cast<std::size_t>(int64_t{layers} * items) : 0);
    std::vector<std::vector<AttnDecodeItem>> lists(static_cast<std::size_t>(layers));
    for (int64_t i = 0; i < int64_t{layers} * items; ++i) {
      char* k = kv.as<char>() + 2 * i * part;
      AttnDecodeItem item;
      item.q = q.as<float>() + (i % items) * kGroup * kDim, item.out = out.as<float>() + (i % items) * kGroup * kDim;
      if (full) {
        void* const* list = pages.data() + i / kHeads * kPages;
        const int64_t head = i % kHeads * 64 * kDim * 2;
        KvRun& run = runs[static_cast<std::size_t>(i)];
        run = {list, list, head, head + int64_t{kHeads} * 64 * kDim * 2, kPages, 64, 0, kTokens};
        item.runs = &run, item.n_runs = 1;
      } else {
        item.blocks = {k, k + part, kChunk * kDim * 2, kChunk, ids.as<int32_t>(), n.as<int32_t>(), kSelected};
      }
      lists[static_cast<std::size_t>(i / items)].push_back(item);
    }
    return gpu.seconds([&](int64_t i) {
      gpu.ops().attn_decode(desc, lists[static_cast<std::size_t>(i % layers)], workspace.data());
    });
  });
}

void measure_prefill_attention(Gpu& gpu, Report& report, int32_t tokens) {
  const double flops = 4.0 * kHeads * kGroup * kDim * (double(tokens) * tokens / 2);
  report.measure({"attn_prefill", std::to_string(tokens) + " tokens, causal", 0, flops}, [&] {
    const int64_t width = int64_t{kHeads} * kGroup * kDim, part = int64_t{tokens} * kDim * 2;
    const Buffer q = gpu.filled(query_floats(tokens * width)), out = gpu.empty(q.bytes());
    const Buffer kv = gpu.random(2 * kHeads * part);
    const AttnPrefillDesc desc = {DType::bf16, kDim, kGroup, kScale};
    const Buffer workspace = gpu.empty(static_cast<int64_t>(attn_prefill_workspace_bytes(desc)) + 64);
    std::vector<KvSpan> spans;
    for (int32_t h = 0; h < kHeads; ++h) {
      for (int32_t p = 0; p < tokens / 64; ++p) {
        const char* k = kv.as<char>() + 2 * h * part + int64_t{p} * 64 * kDim * 2;
        spans.push_back({k, k + part, 64, int64_t{p} * 64});
      }
    }
    std::vector<AttnPrefillItem> list;
    for (int32_t h = 0; h < kHeads; ++h) {
      AttnPrefillItem item;
      item.q = q.as<float>() + int64_t{h} * kGroup * kDim, item.q_stride = width, item.n_q = tokens;
      item.spans = spans.data() + int64_t{h} * (tokens / 64), item.n_spans = tokens / 64;
      item.out = out.as<float>() + int64_t{h} * kGroup * kDim, item.out_stride = width;
      list.push_back(item);
    }
    return gpu.seconds([&](int64_t) { gpu.ops().attn_prefill(desc, list, workspace.data()); });
  });
}

// A layer's factorisation: Gram matrix of 122,880 tokens in blocks of 4,096, then its leading directions.
void measure_factorisation(Gpu& gpu, Report& report, int32_t width, int32_t rank) {
  const std::string shape = "M " + std::to_string(width) + ", rank " + std::to_string(rank);
  const int64_t n = 4096, m = width;
  const Buffer x = gpu.filled(query_floats(n * m)), center = gpu.empty(m * 4), sum = gpu.empty(m * 8);
  const Buffer g = gpu.empty(m * m * 4), v = gpu.empty(m * rank * 4), e = gpu.empty(rank * 4);
  gpu.ops().fill(center.data(), 0, center.bytes());
  gpu.ops().fill(sum.data(), 0, sum.bytes());
  gpu.ops().fill(g.data(), 0, g.bytes());
  const auto bytes = std::max(gram_workspace_bytes(n, width),
                              subspace_basis_workspace_bytes(width, rank, BasisMethod::subspace_iteration));
  const Buffer workspace = gpu.empty(static_cast<int64_t>(bytes));
  const GramArgs gram = {x.as<float>(), m, n, width, center.as<float>(), g.as<float>(), sum.as<double>()};
  report.measure({"gram", shape + ", 4,096 tokens", 4.0 * static_cast<double>(n * m), 2.0 * static_cast<double>(n * m * m)},
                 [&] { return gpu.seconds([&](int64_t) { gpu.ops().gram(gram, workspace.data()); }); });
  gpu.ops().gram(gram, workspace.data());
  const double block = rank + 32;
  report.measure({"subspace_basis", shape, 0, 3 * 2.0 * width * width * block}, [&] {
    const SubspaceBasisArgs args = {g.as<float>(), width, rank, BasisMethod::subspace_iteration, v.as<float>(), e.as<float>()};
    return gpu.seconds([&](int64_t) { gpu.ops().subspace_basis(args, workspace.data()); });
  });
}

void measure_all(Gpu& gpu, Report& report) {
  measure_ceilings(gpu, report);
  for (const int32_t batch : {1, 4, 14, 27}) {
    measure_score(gpu, report, "mean bf16", DigestKind::mean, BlockCodec::raw, batch);
    measure_score(gpu, report, "mean int8", DigestKind::mean, BlockCodec::int8, batch);
    measure_topk(gpu, report, batch);
    measure_slots(gpu, report, batch);
    measure_fetch(gpu, report, "16-bit", BlockCodec::raw, batch);
    measure_fetch(gpu, report, "int8", BlockCodec::int8, batch);
    measure_fetch(gpu, report, "int4", BlockCodec::int4, batch);
    measure_rebuild(gpu, report, "A bf16", BlockCodec::raw, batch);
    measure_rebuild(gpu, report, "A int8", BlockCodec::int8, batch);
    measure_decode(gpu, report, batch, false);
    if (batch <= 4) measure_decode(gpu, report, batch, true);
    if (batch <= 4) measure_score(gpu, report, "keys 2-bit", DigestKind::keys_2bit, BlockCodec::raw, batch);
  }
  for (const int32_t tokens : {4096, 16384}) measure_prefill_attention(gpu, report, tokens);
  measure_factorisation(gpu, report, 1024, 160);
  measure_factorisation(gpu, report, 3072, 480);
}

}  // namespace
}  // namespace skv::gpu

int main(int argc, char** argv) {
  skv::gpu::Gpu gpu;
  skv::gpu::Report report(argc, argv, gpu.device().name);
  std::printf("device: %s\n", gpu.device().name.c_str());
  skv::gpu::measure_all(gpu, report);
  report.table();
}
