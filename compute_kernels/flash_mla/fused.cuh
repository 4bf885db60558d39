// The combination inside the attention kernel: a request that is cut over n parts of the plan is put together by these n
// blocks, each of which takes an nth of the tile's rows once all have stored their partial results.
//
// A block works through all its segments first and waits then, so nobody waits in a circle; the launch is cooperative, so
// all blocks are there. Flags say whose partial results are stored, one for each producer and consumer, and its consumer
// clears it: so nothing must be cleared before, and a launch may be repeated. What a flag holds when it is set is the
// launch's own number of 64 random bits: memory that was never cleared does not hold it.
#pragma once
#include "attend.cuh"
#include "combine.cuh"

struct Fused {
  u64* gFlags;  // [row tiles, kv_heads, parts, 2, parts]: of a producer, by whether its piece is a request's first, of a consumer
  u64 number;
};

constexpr u32 kTeamsFrom = 16;  // of so many pieces all eight warps take each row together
struct Teams {
  float4 sSum[8][kColumns];  // in the key buffers, which nobody reads any more
};

// The pieces of a request of which this block has one.
struct Pieces {
  u32 request, first_slot, count, index;

  // `first`: the piece that is its request's first, which only a part's last request can be; else its first request, which
  // began in an earlier part.
  DEVICE static bool find(const Arguments& p, bool first, Pieces& found) {
    const i32* row = Walk::row(p);
    const i32 from = __ldg(row), to = __ldg(row + 1), index = __ldg(row + 4);
    if (from > to || (first ? from == to && index > 0 : index == 0)) return false;
    found.request = first ? to : from;
    found.index = first ? 0 : index;
    found.first_slot = __ldg(p.gSplits + found.request);
    found.count = __ldg(p.gSplits + found.request + 1) - found.first_slot;
    return found.count > 1;
  }
};

DEVICE u64* flag_of(const Fused& f, u32 producer, bool first, u32 consumer) {
  const u64 tile = blockIdx.y * gridDim.x + blockIdx.x;
  return f.gFlags + ((tile * gridDim.z + producer) * 2 + first) * gridDim.z + consumer;
}

// One row, whose partial results lie in memory, by warps team, team + kTeams, ...
template <u32 kTeams>
DEVICE void combine_row(const Arguments& p, Teams& s, const Pieces& pieces, u32 row) {
  const u32 warp = threadIdx.x / 32, lane = lane_index(), ratio = p.heads / p.kv_heads;
  const u32 row_all = blockIdx.y * p.rows + row;
  const u64 at = u64(pieces.first_slot) * p.kv_heads * p.rows + row_all;
  const Partials partials{static_cast<const uint4*>(p.gPartial) + at * kChunks * 32, p.gPartialLse + at * 4, u64(p.kv_heads) * p.rows};
  float4 sum[kOwn];
  float shift, total;
  sum_splits<kTeams>(partials, pieces.count, kTeams == 1 ? 0 : warp, sum, shift, total);
  const Target target(row_all, p.rows, ratio);
  const float inverse = total > 0.f ? 1.f / total : 0.f;
  u16* gRow = target.row(p.gOut, pieces.request, p.s_q, p.heads);
  if constexpr (kTeams == 1) {
#pragma unroll
    for (u32 i = 0; i < kOwn; ++i) store_column(gRow, column_of(lane, i), sum[i], inverse);
  } else {
#pragma unroll
    for (u32 i = 0; i < kOwn; ++i) s.sSum[warp][column_of(lane, i)] = sum[i];
    named_barrier_sync(kSums, kMathThreads);
    if (threadIdx.x < kColumns) {
      float4 all = s.sSum[0][threadIdx.x];
#pragma unroll
      for (u32 i = 1; i < kTeams; ++i) add_four(all, s.sSum[i][threadIdx.x], 1.f);
      store_column(gRow, threadIdx.x, all, inverse);
    }
    named_barrier_sync(kSums, kMathThreads);
  }
  if (lane == 0 && (kTeams == 1 || warp == 0)) target.lse(p.gLse, pieces.request, p.s_q, p.heads) = natural_lse(shift, total);
}

DEVICE void combine_share(const Arguments& p, Teams& s, const Pieces& pieces) {
  const u32 rows = smaller(kRows, p.rows - blockIdx.x * kRows), share = ceil_div(rows, pieces.count);
  const u32 begin = pieces.index * share, end = smaller(begin + share, rows), first = blockIdx.x * kRows;
  if (pieces.count >= kTeamsFrom)
    for (u32 row = begin; row < end; ++row) combine_row<8>(p, s, pieces, first + row);
  else
    for (u32 row = begin + threadIdx.x / 32; row < end; row += 8) combine_row<1>(p, s, pieces, first + row);
}

// After `attend`, by both warpgroups.
DEVICE void combine(const Arguments& p, const Fused& f, Shared& s) {
  const u32 part = blockIdx.z, thread = threadIdx.x;
  Pieces pieces;
  named_barrier_sync(kSums, kMathThreads);  // all partial results of this block are stored
  for (u32 first = 0; first < 2; ++first)
    if (Pieces::find(p, first, pieces) && thread < pieces.count) set_flag(flag_of(f, part, first, part - pieces.index + thread), f.number);
  for (u32 first = 0; first < 2; ++first) {
    if (!Pieces::find(p, first, pieces)) continue;
    if (thread < pieces.count) await_flag(flag_of(f, part - pieces.index + thread, thread == 0, part), f.number);
    named_barrier_sync(kSums, kMathThreads);
    combine_share(p, *reinterpret_cast<Teams*>(s.sK[0]), pieces);
  }
}
