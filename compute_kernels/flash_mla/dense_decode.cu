// MLA decode over a paged cache: for each row r of a request (its heads folded with its query positions)
//   S = scale * Q[r] . K[0 .. visible)      O[r] = softmax(S) . V,   V = the first 512 columns of K.
//
// A tile is 64 rows. Its output, 64 x 512 float32, is more than one warpgroup's registers hold, so the left half
// lies in warpgroup 0 and the right half in warpgroup 1. They take key blocks of 64 in pairs: group 0 multiplies
// Q with even blocks and does their softmax, group 1 with odd ones; each then multiplies both blocks' weights by its
// half of V, in order. So one group's softmax runs beside the other's products. A third warpgroup loads.
//
//   group 0: S0 = Q K0 | softmax 0, publish P0, max | OL += P0 V0L            | wait P1 | OL += P1 V1L
//   group 1: S1 = Q K1 | wait P0 | OR += P0 V0R beside softmax 1, publish P1  |           OR += P1 V1R
//
// Buffers are freed by halves (columns 0-255 and the 64 rotary ones; columns 256-511), each by its last reader, and
// one load warp serves each half, so that no load waits behind another.
//
// Compile-time constants: CLUSTER (row tiles that receive each key block by one multicast), BOX (cache rows a copy
// brings: at most a page), HALF (0: bf16, 1: fp16).
#include "wgmma.cuh"

constexpr u32 kRows = 64, kKeys = 64, kTiles = 9, kValueTiles = 8;  // a tile is 64 x 64 values, 128-byte swizzle
constexpr u32 kTileBytes = 64 * 128, kBlockBytes = kTiles * kTileBytes;
constexpr u32 kMathThreads = 256, kThreads = 384;
constexpr u32 kShare = kKeys / CLUSTER;   // key rows of a block that this block of the cluster loads
constexpr u32 kPlanRow = 8;               // int32 values of a part's plan
constexpr float kSlack = 8.f;             // the kept maximum may lag by 2^8: no rescaling, no loss in bf16 or float32

// A load warp of small boxes holds several page numbers at once.
constexpr u32 kLoadRegisters = BOX == 16 ? 56 : 40, kMathRegisters = BOX == 16 ? 224 : 232;
static_assert(kLoadRegisters + 2 * kMathRegisters <= 512, "the register file");
static_assert(kShare % BOX == 0, "a share is whole boxes");

enum Barrier : u32 { kGroup0 = 1, kGroup1 = 2, kP0 = 3, kP1 = 4, kSums = 5 };

struct alignas(1024) Shared {
  u8 sQ[kTiles][kTileBytes];
  u8 sK[2][kTiles][kTileBytes];  // the ninth tile of buffer 1 holds P1 once its product is done
  u8 sP0[kTileBytes];
  float sMax[2][kRows];          // running maximum after the even and after the odd block, base 2
  float sSum[2][2][kRows];       // [segment parity][half]: one may still be read while the next is written
  u64 fullQ, emptyQ;
  u64 full[2][kTiles];
  u64 empty[2][2];               // [buffer][half]
};

struct Arguments {
  const i32* gPlan;       // [parts, 8]: first request, last request, first block, end block, first split
  const i32* gSplits;     // [batch + 1]: running sum of splits
  const i32* gLengths;    // [batch]
  const i32* gPages;      // [batch, pages_max]
  u16* gOut;              // [batch, s_q, heads, 512]
  float* gLse;            // [batch, heads, s_q], natural log
  float* gPartial;        // [slots, kv_heads, rows, 512] of requests that are split
  float* gPartialLse;     // [slots, kv_heads, rows], base 2
  float scale;            // softmax scale x log2 e
  u32 pages_max, page, rows, s_q, heads, kv_heads, causal;
};

// The stretch of one request that a part works on.
struct Segment {
  u32 request, length, begin, end, slot;
  bool split;
};

struct Plan {
  i32 first, last, first_block, end_block, first_split;
  DEVICE explicit Plan(const i32* row) {
    first = __ldg(row), last = __ldg(row + 1), first_block = __ldg(row + 2), end_block = __ldg(row + 3);
    first_split = __ldg(row + 4);
  }
  DEVICE Segment at(const Arguments& p, i32 request) const {
    Segment s;
    s.request = request;
    s.length = __ldg(p.gLengths + request);
    s.begin = request == first ? first_block : 0;
    s.end = request == last ? end_block : ceil_div(s.length, kKeys);
    const i32 before = __ldg(p.gSplits + request);
    s.split = __ldg(p.gSplits + request + 1) - before > 1;
    s.slot = before + (request == first ? first_split : 0);
    return s;
  }
};

// ---------------------------------------------------------------- load
// Warp `index` of the load group serves buffer index / 2, half index % 2.
DEVICE void load_keys(const Arguments& p, Shared& s, const TensorMap& map_q, const TensorMap& map_k, u32 index, u32 rank) {
  const u32 buffer = index / 2, half = index % 2, row_tile = blockIdx.x, kv_head = blockIdx.y;
  const Plan plan(p.gPlan + blockIdx.z * kPlanRow);
  u32 parity = 1, parity_q = 1;
  for (i32 request = plan.first; request <= plan.last; ++request) {
    const Segment segment = plan.at(p, request);
    if (segment.begin >= segment.end) continue;
    if (index == 0) {
      barrier_wait(&s.emptyQ, parity_q);
      parity_q ^= 1;
      barrier_expect_bytes(&s.fullQ, kBlockBytes);
      for (u32 t = 0; t < kTiles; ++t) tma_load_4d(&map_q, &s.fullQ, s.sQ[t], t * 64, row_tile * kRows, kv_head, request);
    }
    const i32* gPages = p.gPages + u64(request) * p.pages_max;
    for (u32 block = segment.begin + buffer; block < segment.end; block += 2, parity ^= 1) {
      const u32 first_key = block * kKeys, keys = smaller(kKeys, segment.length - first_key);
      const u32 boxes_all = ceil_div(keys, BOX);  // boxes of the whole cluster; the rest of the block stays stale
      i32 pages[kShare / BOX];
#pragma unroll
      for (u32 i = 0; i < kShare / BOX; ++i) {
        const u32 box = rank * (kShare / BOX) + i;
        const u32 page = (first_key + box * BOX) / p.page;  // may lie past the end: read, and not used
        pages[i] = page < p.pages_max ? __ldg(gPages + page) : 0;
      }
      barrier_wait(&s.empty[buffer][half], parity);
      for (u32 i = 0; i < 4 + (half == 0); ++i) {
        const u32 tile = i == 4 ? kValueTiles : half * 4 + i;
        u64* full = &s.full[buffer][tile];
        barrier_expect_bytes(full, boxes_all * BOX * 128);
#pragma unroll
        for (u32 j = 0; j < kShare / BOX; ++j) {
          const u32 box = rank * (kShare / BOX) + j;
          if (box >= boxes_all) break;
          u8* destination = s.sK[buffer][tile] + box * BOX * 128;
          const i32 offset = (first_key + box * BOX) % p.page;
          if constexpr (CLUSTER > 1) tma_multicast_4d(&map_k, full, destination, tile * 64, kv_head, offset, pages[j], (1 << CLUSTER) - 1, kEvictFirst);
          else tma_load_4d(&map_k, full, destination, tile * 64, kv_head, offset, pages[j], kEvictFirst);
        }
      }
    }
  }
}

// ---------------------------------------------------------------- tensor-core steps
#if HALF
#define QK wgmma_f16
#define PV_REGISTERS wgmma_f16_rs_bt
#define PV_SHARED wgmma_f16_bt
#define PACK pack_fp16
#else
#define QK wgmma_bf16
#define PV_REGISTERS wgmma_bf16_rs_bt
#define PV_SHARED wgmma_bf16_bt
#define PACK pack_bf16
#endif

using Scores = float[32];
using Output = float[128];
using Weights = u32[4][4];  // the A operand of four k steps

// S = Q K; starts as soon as the first 64 columns are there. The half that is freed last comes last.
DEVICE void multiply_scores(Shared& s, Scores& rS, u32 buffer, u32 parity) {
  pin_registers(rS);
  wgmma_fence();
#pragma unroll
  for (u32 i = 0; i < kTiles; ++i) {
    const u32 tile = i < 4 ? i : i == 4 ? kValueTiles : i - 1;
    barrier_wait(&s.full[buffer][tile], parity);
    const u64 q = k_major_descriptor(smem_address(s.sQ[tile])), k = k_major_descriptor(smem_address(s.sK[buffer][tile]));
#pragma unroll
    for (u32 step = 0; step < 4; ++step) QK(rS, q + 2 * step, k + 2 * step, i + step != 0);
  }
  wgmma_commit();
}

DEVICE u64 value_descriptor(Shared& s, u32 buffer, u32 half) {
  return mn_major_descriptor(smem_address(s.sK[buffer][half * 4]), kTileBytes);
}

DEVICE void multiply_own(Output& rO, const Weights& rP, u64 v) {
  pin_registers(rO);
  wgmma_fence();
#pragma unroll
  for (u32 step = 0; step < 4; ++step) PV_REGISTERS(rO, rP[step], v + step * (2048 >> 4), true);
  wgmma_commit();
}

DEVICE void multiply_other(Output& rO, u32 sP, u64 v) {
  const u64 p = k_major_descriptor(sP);
  pin_registers(rO);
  wgmma_fence();
#pragma unroll
  for (u32 step = 0; step < 4; ++step) PV_SHARED(rO, p + 2 * step, v + step * (2048 >> 4), true);
  wgmma_commit();
}

// ---------------------------------------------------------------- softmax
// A thread owns parts of two rows, `low` = lane / 4 of its warp's sixteen and `low` + 8; index 0 and 1 below.
struct Rows {
  float max[2], sum[2];
  u32 visible[2];  // keys that the row may see

  DEVICE void rescale_sum(const float (&factor)[2]) {
    sum[0] *= factor[0];
    sum[1] *= factor[1];
  }
};

DEVICE float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

DEVICE float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// What values scaled by 2^-before must be multiplied with to be scaled by 2^-after. Both may be -infinity.
DEVICE float rescale_factor(float before, float after) { return before == after ? 1.f : exp2_fast(before - after); }

// rS becomes the weights; `rows.max` moves from `before` (the maximum in force) to the new one.
DEVICE void softmax(Scores& rS, Weights& rP, Rows& rows, const float (&before)[2], u32 first_key, u32 visible_min, float scale) {
  if (first_key + kKeys > visible_min) {
#pragma unroll
    for (u32 i = 0; i < 32; ++i) {
      const u32 key = first_key + i / 4 * 8 + lane_index() % 4 * 2 + i % 2;
      if (key >= rows.visible[i / 2 % 2]) rS[i] = -infinity();
    }
  }
#pragma unroll
  for (u32 r = 0; r < 2; ++r) {
    float top = -infinity();
#pragma unroll
    for (u32 j = 0; j < 8; ++j) top = fmaxf(top, fmaxf(rS[4 * j + 2 * r], rS[4 * j + 2 * r + 1]));
    top = quad_max(top) * scale;
    rows.max[r] = top > before[r] + kSlack ? top : before[r];
    const float shift = rows.max[r] == -infinity() ? 0.f : rows.max[r];
    float sum = 0.f;
#pragma unroll
    for (u32 j = 0; j < 8; ++j)
#pragma unroll
      for (u32 c = 0; c < 2; ++c) {
        float& x = rS[4 * j + 2 * r + c];
        x = exp2_fast(fmaf(x, scale, -shift));
        sum += x;
      }
    rows.sum[r] = rows.sum[r] * rescale_factor(before[r], rows.max[r]) + sum;
  }
#pragma unroll
  for (u32 step = 0; step < 4; ++step)
#pragma unroll
    for (u32 i = 0; i < 4; ++i) rP[step][i] = PACK(rS[8 * step + 2 * i], rS[8 * step + 2 * i + 1]);
}

DEVICE void rescale(Output& rO, const float (&factor)[2]) {
  if (!__any_sync(0xffffffffu, factor[0] != 1.f || factor[1] != 1.f)) return;
#pragma unroll
  for (u32 i = 0; i < 128; ++i) rO[i] *= factor[i / 2 % 2];
}

// Leaves the weights where the other warpgroup's products read them, and the maximum beside them.
DEVICE void publish(u32 sP, float* sMax, const Weights& rP, const Rows& rows) {
  const u32 lane = lane_index(), warp = threadIdx.x / 32 % 4, row = warp * 16 + (lane & 15);
#pragma unroll
  for (u32 step = 0; step < 4; ++step) {
    const u32 chunk = (2 * step + lane / 16) ^ (row & 7);
    stmatrix_x4(sP + row * 128 + chunk * 16, rP[step][0], rP[step][1], rP[step][2], rP[step][3]);
  }
  if (lane % 4 == 0) {
    sMax[warp * 16 + lane / 4] = rows.max[0];
    sMax[warp * 16 + lane / 4 + 8] = rows.max[1];
  }
  fence_proxy_async();
  __syncwarp();  // the barrier that follows takes whole warps
}

DEVICE void read_max(float (&max)[2], const float* sMax) {
  const u32 row = threadIdx.x / 32 % 4 * 16 + lane_index() / 4;
  max[0] = sMax[row];
  max[1] = sMax[row + 8];
}

// The weights of keys past the end are zero, but what the cache holds there may be NaN, and 0 x NaN is NaN.
DEVICE void clear_tail(Shared& s, u32 buffer, u32 half, u32 keys) {
  for (u32 i = threadIdx.x % 128 + keys * 8; i < kKeys * 8; i += 128)
#pragma unroll
    for (u32 t = 0; t < 4; ++t) *reinterpret_cast<uint4*>(s.sK[buffer][half * 4 + t] + i * 16) = make_uint4(0, 0, 0, 0);
  fence_proxy_async();
  named_barrier_sync(kGroup0 + half, 128);
}

// Values of this warpgroup's half: arrived, and finite.
DEVICE void await_values(Shared& s, u32 buffer, u32 half, u32 parity, u32 keys) {
#pragma unroll
  for (u32 t = 0; t < 4; ++t) barrier_wait(&s.full[buffer][half * 4 + t], parity);
  if (keys < kKeys) clear_tail(s, buffer, half, keys);
}

DEVICE void release(u64* empty) {
  __syncwarp();
  if constexpr (CLUSTER > 1) {
    if (lane_index() < CLUSTER) barrier_arrive_at(empty, lane_index());
  } else {
    if (lane_index() == 0) barrier_arrive(empty);
  }
}

// Q is this block's own, so only its own load warp hears of it.
DEVICE void release_query(Shared& s) {
  __syncwarp();
  if (lane_index() == 0) barrier_arrive(&s.emptyQ);
}

// ---------------------------------------------------------------- store
// Four groups of eight columns as packed pairs, one pair a lane of the quad: afterwards each lane holds one whole group.
DEVICE uint4 transpose_quad(u32 a, u32 b, u32 c, u32 d) {
  const bool odd = lane_index() & 1, high = lane_index() & 2;
  const u32 keep0 = high ? c : a, keep1 = high ? d : b;
  const u32 far0 = __shfl_xor_sync(0xffffffffu, high ? a : c, 2), far1 = __shfl_xor_sync(0xffffffffu, high ? b : d, 2);
  const u32 own = odd ? keep1 : keep0, far = odd ? far1 : far0;
  const u32 near = __shfl_xor_sync(0xffffffffu, odd ? keep0 : keep1, 1), cross = __shfl_xor_sync(0xffffffffu, odd ? far0 : far1, 1);
  const u32 x = odd ? near : own, y = odd ? own : near, z = odd ? cross : far, w = odd ? far : cross;
  return high ? make_uint4(z, w, x, y) : make_uint4(x, y, z, w);
}

DEVICE void store_final(const Arguments& p, const Output& rO, const Rows& rows, u32 request, u32 half) {
  const u32 lane = lane_index(), ratio = p.heads / p.kv_heads;
#pragma unroll
  for (u32 r = 0; r < 2; ++r) {
    const u32 row = blockIdx.x * kRows + threadIdx.x / 32 % 4 * 16 + lane / 4 + 8 * r;
    const u32 position = row / ratio, head = blockIdx.y * ratio + row % ratio;
    const float inverse = rows.sum[r] > 0.f ? 1.f / rows.sum[r] : 0.f;
    u16* gRow = p.gOut + ((u64(request) * p.s_q + position) * p.heads + head) * 512 + half * 256;
#pragma unroll
    for (u32 g = 0; g < 8; ++g) {
      u32 packed[4];
#pragma unroll
      for (u32 i = 0; i < 4; ++i) packed[i] = PACK(rO[16 * g + 4 * i + 2 * r] * inverse, rO[16 * g + 4 * i + 2 * r + 1] * inverse);
      const uint4 eight = transpose_quad(packed[0], packed[1], packed[2], packed[3]);
      if (row < p.rows) *reinterpret_cast<uint4*>(gRow + g * 32 + lane % 4 * 8) = eight;
    }
    if (half == 0 && lane % 4 == 0 && row < p.rows)
      p.gLse[(u64(request) * p.heads + head) * p.s_q + position] =
          rows.sum[r] > 0.f ? 0.6931471805599453f * (rows.max[r] + log2_fast(rows.sum[r])) : infinity();
  }
}

DEVICE void store_partial(const Arguments& p, const Output& rO, const Rows& rows, u32 slot, u32 half) {
  const u32 lane = lane_index();
#pragma unroll
  for (u32 r = 0; r < 2; ++r) {
    const u32 row = blockIdx.x * kRows + threadIdx.x / 32 % 4 * 16 + lane / 4 + 8 * r;
    if (row >= p.rows) continue;
    const float inverse = rows.sum[r] > 0.f ? 1.f / rows.sum[r] : 0.f;
    const u64 at = (u64(slot) * p.kv_heads + blockIdx.y) * p.rows + row;
    float* gRow = p.gPartial + at * 512 + half * 256 + lane % 4 * 2;
#pragma unroll
    for (u32 j = 0; j < 32; ++j)
      *reinterpret_cast<float2*>(gRow + j * 8) = make_float2(rO[4 * j + 2 * r] * inverse, rO[4 * j + 2 * r + 1] * inverse);
    if (half == 0 && lane % 4 == 0)
      p.gPartialLse[at] = rows.sum[r] > 0.f ? rows.max[r] + log2_fast(rows.sum[r]) : -infinity();
  }
}

DEVICE void store(const Arguments& p, float (&sSum)[2][kRows], const Output& rO, Rows& rows, const Segment& segment, u32 half) {
  const u32 row = threadIdx.x / 32 % 4 * 16 + lane_index() / 4;
#pragma unroll
  for (u32 r = 0; r < 2 && segment.begin < segment.end; ++r) {
    rows.sum[r] = quad_sum(rows.sum[r]);
    if (lane_index() % 4 == 0) sSum[half][row + 8 * r] = rows.sum[r];
    __syncwarp();
  }
  if (segment.begin < segment.end) {
    named_barrier_sync(kSums, kMathThreads);
    rows.sum[0] = sSum[0][row] + sSum[1][row];
    rows.sum[1] = sSum[0][row + 8] + sSum[1][row + 8];
  }
  if (segment.split) store_partial(p, rO, rows, segment.slot, half);
  else store_final(p, rO, rows, segment.request, half);
}

// ---------------------------------------------------------------- the two warpgroups
struct Parities {
  u32 q = 0, buffer[2] = {0, 0};
};

DEVICE u32 keys_in(const Segment& segment, u32 block) { return smaller(kKeys, segment.length - block * kKeys); }

DEVICE void left_pair(const Arguments& p, Shared& s, Output& rO, Rows& rows, const Segment& segment, u32 block, u32 visible_min, Parities& parity) {
  const bool has_odd = block + 1 < segment.end;
  const u32 sP1 = smem_address(s.sK[1][kValueTiles]);
  Scores rS;
  Weights rP;
  multiply_scores(s, rS, 0, parity.buffer[0]);
  wgmma_wait<0>();
  pin_registers(rS);
  if (block + 2 >= segment.end) release_query(s);

  const float before[2] = {rows.max[0], rows.max[1]};
  softmax(rS, rP, rows, before, block * kKeys, visible_min, p.scale);
  publish(smem_address(s.sP0), s.sMax[0], rP, rows);
  named_barrier_arrive(kP0, kMathThreads);
  const float factor[2] = {rescale_factor(before[0], rows.max[0]), rescale_factor(before[1], rows.max[1])};
  rescale(rO, factor);
  if (keys_in(segment, block) < kKeys) clear_tail(s, 0, 0, keys_in(segment, block));
  multiply_own(rO, rP, value_descriptor(s, 0, 0));
  parity.buffer[0] ^= 1;

  if (has_odd) named_barrier_sync(kP1, kMathThreads);
  wgmma_wait<0>();
  pin_registers(rO);
  release(&s.empty[0][0]);
  if (!has_odd) return;

  float after[2];
  read_max(after, s.sMax[1]);
  const float factor1[2] = {rescale_factor(rows.max[0], after[0]), rescale_factor(rows.max[1], after[1])};
  rows.max[0] = after[0], rows.max[1] = after[1];
  rows.rescale_sum(factor1);
  rescale(rO, factor1);
  await_values(s, 1, 0, parity.buffer[1], keys_in(segment, block + 1));
  parity.buffer[1] ^= 1;
  multiply_other(rO, sP1, value_descriptor(s, 1, 0));
  wgmma_wait<0>();
  pin_registers(rO);
  release(&s.empty[1][0]);
}

DEVICE void right_pair(const Arguments& p, Shared& s, Output& rO, Rows& rows, const Segment& segment, u32 block, u32 visible_min, Parities& parity) {
  const bool has_odd = block + 1 < segment.end;
  const u32 sP1 = smem_address(s.sK[1][kValueTiles]);
  Scores rS;
  Weights rP;
  if (has_odd) {
    multiply_scores(s, rS, 1, parity.buffer[1]);
    wgmma_wait<0>();
    pin_registers(rS);
  }
  if (block + 2 >= segment.end) release_query(s);

  named_barrier_sync(kP0, kMathThreads);
  float even[2];
  read_max(even, s.sMax[0]);
  const float factor[2] = {rescale_factor(rows.max[0], even[0]), rescale_factor(rows.max[1], even[1])};
  rows.max[0] = even[0], rows.max[1] = even[1];
  rows.rescale_sum(factor);
  rescale(rO, factor);
  await_values(s, 0, 1, parity.buffer[0], keys_in(segment, block));
  parity.buffer[0] ^= 1;
  multiply_other(rO, smem_address(s.sP0), value_descriptor(s, 0, 1));

  if (has_odd) {  // beside that product
    softmax(rS, rP, rows, even, (block + 1) * kKeys, visible_min, p.scale);
    named_barrier_sync(kGroup1, 128);  // all four warps have read the ninth tile: it may become P1
    publish(sP1, s.sMax[1], rP, rows);
    named_barrier_arrive(kP1, kMathThreads);
  }
  wgmma_wait<0>();
  pin_registers(rO);
  release(&s.empty[0][1]);
  if (!has_odd) return;

  const float factor1[2] = {rescale_factor(even[0], rows.max[0]), rescale_factor(even[1], rows.max[1])};
  rescale(rO, factor1);
  if (keys_in(segment, block + 1) < kKeys) clear_tail(s, 1, 1, keys_in(segment, block + 1));
  multiply_own(rO, rP, value_descriptor(s, 1, 1));
  parity.buffer[1] ^= 1;
  wgmma_wait<0>();
  pin_registers(rO);
  release(&s.empty[1][1]);
}

template <u32 kHalf>
DEVICE void attend(const Arguments& p, Shared& s) {
  const Plan plan(p.gPlan + blockIdx.z * kPlanRow);
  Parities parity;
  for (i32 request = plan.first; request <= plan.last; ++request) {
    const Segment segment = plan.at(p, request);
    Output rO;
    Rows rows;
#pragma unroll
    for (u32 i = 0; i < 128; ++i) rO[i] = 0.f;
#pragma unroll
    for (u32 r = 0; r < 2; ++r) {
      const u32 row = blockIdx.x * kRows + threadIdx.x / 32 % 4 * 16 + lane_index() / 4 + 8 * r;
      const u32 hidden = p.causal ? p.s_q - 1 - smaller(row / (p.heads / p.kv_heads), p.s_q - 1) : 0;
      rows.max[r] = -infinity();
      rows.sum[r] = 0.f;
      rows.visible[r] = segment.length > hidden ? segment.length - hidden : 0;
    }
    const u32 hidden_max = p.causal ? p.s_q - 1 : 0;
    const u32 visible_min = segment.length > hidden_max ? segment.length - hidden_max : 0;
    if (segment.begin < segment.end) {
      barrier_wait(&s.fullQ, parity.q);
      parity.q ^= 1;
    }
    for (u32 block = segment.begin; block < segment.end; block += 2) {
      if constexpr (kHalf == 0) left_pair(p, s, rO, rows, segment, block, visible_min, parity);
      else right_pair(p, s, rO, rows, segment, block, visible_min, parity);
    }
    store(p, s.sSum[parity.q], rO, rows, segment, kHalf);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    mla_dense_decode(const __grid_constant__ TensorMap map_q, const __grid_constant__ TensorMap map_k, const __grid_constant__ Arguments p) {
  extern __shared__ __align__(1024) u8 memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  const u32 warp = warp_index();
  const u32 rank = CLUSTER > 1 ? cluster_rank() : 0;
  if (warp == 0 && elect_one()) {
    prefetch_tensor_map(&map_q);
    prefetch_tensor_map(&map_k);
    barrier_init(&s.fullQ, 1);
    barrier_init(&s.emptyQ, 8);
    for (u32 i = 0; i < 2 * kTiles; ++i) barrier_init(&s.full[0][0] + i, 1);
    for (u32 i = 0; i < 4; ++i) barrier_init(&s.empty[0][0] + i, 4 * CLUSTER);
    barrier_init_fence();
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  __syncthreads();
  if constexpr (CLUSTER > 1) cluster_sync_relaxed();
  if (warp >= 8) {
    registers_shrink<kLoadRegisters>();
    if (elect_one()) load_keys(p, s, map_q, map_k, warp - 8, rank);
    __syncwarp();
  } else {
    registers_grow<kMathRegisters>();
    if (warp < 4) attend<0>(p, s);
    else attend<1>(p, s);
  }
  if constexpr (CLUSTER > 1) cluster_sync_relaxed();
}
