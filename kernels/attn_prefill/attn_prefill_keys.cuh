// The keys of attn_prefill's items as its kernels see them: cut into tiles on the host.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "kernels/attn_prefill/attn_prefill.h"
#include "kernels/common/cuda/mma_tile.cuh"
#include "kernels/common/cuda/stream.h"
#include "kernels/common/cuda/warp.cuh"

namespace skv::kernels {
namespace {

constexpr int kTileKeys = 64;

// Keys are placed relative to the item's first query token: token t sees those with at <= t.
struct KeyPiece {
  const void* k;
  const void* v;
  int32_t n;
  int32_t at;
};

// Up to 64 keys of ascending position: the first piece, and what follows it in a list of its own.
struct alignas(16) KeyTile {
  const void* k;
  const void* v;
  int32_t at;    // of the first key
  int32_t rest;  // index of the second piece
  int16_t n;
  int16_t first_n;  // of the first piece
};

struct Work {
  AttnPrefillItem item;
  const KeyTile* tiles;
  const KeyPiece* rest;
  int32_t n_tiles;
};

// The next tile from i on that the token sees, or n_tiles. The same for all lanes.
__device__ __forceinline__ int next_tile(const Work& work, int i, int token) {
  for (; i < work.n_tiles; i += 32) {
    const int mine = i + cuda::lane_id();
    const unsigned seen = __ballot_sync(cuda::kFullWarp, mine < work.n_tiles && work.tiles[mine].at <= token);
    if (seen != 0) return i + __ffs(static_cast<int>(seen)) - 1;
  }
  return work.n_tiles;
}

// Walks over a tile's rows in ascending order.
struct RowCursor {
  const KeyPiece* rest;
  KeyPiece piece;
  int begin = 0;  // row of the tile where the piece begins

  __device__ __forceinline__ RowCursor(const Work& work, const KeyTile& tile)
      : rest(work.rest + tile.rest), piece{tile.k, tile.v, tile.first_n, tile.at} {}
  __device__ __forceinline__ void seek(int row) {  // below the tile's n
    while (row >= begin + piece.n) {
      begin += piece.n;
      piece = *rest++;
    }
  }
};

// Cuts spans into tiles: after 64 keys, and wherever positions do not ascend. Keys past the item's last query are
// left out, and end the tile that they would have been in, so that what a query sees of the list is cut alike for any
// block of queries. Lists may be null: then they are only counted.
struct TileCutter {
  const AttnPrefillItem& item;
  int64_t row_bytes;
  KeyTile* tiles;
  KeyPiece* rest;
  int32_t n_tiles = 0;
  int32_t n_rest = 0;
  KeyTile open = {};
  int64_t last = 0;  // position after which the open tile goes on

  void close() {
    if (open.n == 0) return;
    if (tiles != nullptr) tiles[n_tiles] = open;
    ++n_tiles;
    open = {};
  }

  void add(const KvSpan& span, int64_t row, int32_t n) {
    const int64_t pos = span.pos + row;
    // Only whether a token sees a key counts, so history beyond 32 bits may be drawn nearer.
    const auto at = static_cast<int32_t>(std::max<int64_t>(pos - item.pos, -(int64_t{1} << 30)));
    const KeyPiece piece{offset_bytes(span.k, row * row_bytes), offset_bytes(span.v, row * row_bytes), n, at};
    if (open.n == 0) {
      open = {piece.k, piece.v, at, n_rest, 0, static_cast<int16_t>(n)};
    } else {
      if (rest != nullptr) rest[n_rest] = piece;
      ++n_rest;
    }
    open.n = static_cast<int16_t>(open.n + n);
    last = pos + n - 1;
  }

  void cut() {
    for (const KvSpan& span : std::span(item.spans, static_cast<std::size_t>(item.n_spans))) {
      const int64_t seen = std::clamp<int64_t>(item.pos + item.n_q - span.pos, 0, span.n);
      for (int64_t row = 0; row < seen;) {
        if (open.n == kTileKeys || (open.n > 0 && span.pos + row <= last)) close();
        const int64_t n = std::min<int64_t>(kTileKeys - open.n, seen - row);
        add(span, row, static_cast<int32_t>(n));
        row += n;
      }
      if (seen < span.n) close();
    }
    close();
  }
};

// Of the items' lists at most: a span may begin a tile, and go on in a piece.
int64_t list_bytes(std::span<const AttnPrefillItem> items) {
  int64_t bytes = 0;
  for (const AttnPrefillItem& item : items) {
    int64_t keys = 0;
    for (int32_t i = 0; i < item.n_spans; ++i) keys += item.spans[i].n;
    bytes += static_cast<int64_t>(sizeof(KeyTile) + sizeof(KeyPiece)) * (keys / kTileKeys + item.n_spans + 1);
    bytes += static_cast<int64_t>(sizeof(Work)) + 2 * cuda::kStageAlign;
  }
  return bytes;
}

cuda::Staged<Work> make_work(cuda::Lists& lists, const AttnPrefillDesc& desc,
                             std::span<const AttnPrefillItem> items) {
  const int64_t row_bytes = desc.head_dim * dtype_bytes(desc.dtype);
  auto work = lists.make<Work>(static_cast<int64_t>(items.size()));
  for (int64_t i = 0; i < work.size(); ++i) {
    const AttnPrefillItem& item = items[static_cast<std::size_t>(i)];
    TileCutter count{item, row_bytes, nullptr, nullptr};
    count.cut();
    const auto tiles = lists.make<KeyTile>(count.n_tiles);
    const auto rest = lists.make<KeyPiece>(count.n_rest);
    work[i] = {item, tiles.device(), rest.device(), static_cast<int32_t>(tiles.size())};
    if (tiles.size() == count.n_tiles && rest.size() == count.n_rest) {
      TileCutter{item, row_bytes, tiles.begin(), rest.begin()}.cut();
    }
  }
  return work;
}

}  // namespace
}  // namespace skv::kernels
