// MLA attention of one tile of 64 query rows, shared by the kernels that differ in how keys reach shared memory:
//   S = scale * Q[r] . K[0 .. visible)      O[r] = softmax(S) . V,   V = the first 512 columns of K.
//
// A tile's output, 64 x 512 float32, is more than one warpgroup's registers hold, so the left half
// lies in warpgroup 0 and the right half in warpgroup 1. They take key blocks of 64 in pairs: group 0 multiplies
// Q with even blocks and does their softmax, group 1 with odd ones; each then multiplies both blocks' weights by its
// half of V, in order. So one group's softmax runs beside the other's products. A third warpgroup loads.
//
//   group 0: S0 = Q K0 | softmax 0, publish P0, max | OL += P0 V0L            | wait P1 | OL += P1 V1L
//   group 1: S1 = Q K1 | wait P0 | OR += P0 V0R beside softmax 1, publish P1  |           OR += P1 V1R
//
// Buffers are freed by halves (columns 0-255 and the 64 rotary ones; columns 256-511), each by its last reader.
//
// Compile-time constants, set by the Python beside each kernel:
//   HALF     0: bf16, 1: fp16
//   GATHER   0: keys come by copy engine; 1: threads write them, rows that do not count are marked in a bit mask
//   CAUSAL   if GATHER: whether query positions may see different numbers of keys
//   QK_TILES columns of Q and K over 64: 9, or 8 without rotary columns
//   PIECE    0: parts take what the plan gives; else requests are cut at multiples of so many blocks, whatever the batch
//   WHOLE    1: no plan; blocks of the grid take whole requests by turns, and the largest logit is an output
#pragma once
#include "walk.cuh"
#include "wgmma.cuh"

constexpr u32 kRows = 64, kTiles = 9, kValueTiles = 8;  // a tile is 64 x 64 values, 128-byte swizzle
constexpr u32 kTileBytes = 64 * 128, kBlockBytes = kTiles * kTileBytes;
constexpr u32 kMathThreads = 256, kThreads = 384;
constexpr float kSlack = 8.f;             // the kept maximum may lag by 2^8: no rescaling, no loss in bf16 or float32

#if GATHER
constexpr bool kLimits = CAUSAL;  // rows of a gathered tile differ in what they see
#else
constexpr bool kLimits = true;
#endif
constexpr bool kFp8 = GATHER && !WHOLE;      // FP8 rows: multiplied as fp16, rotary columns come with the right half
static_assert(!kFp8 || HALF, "one instruction makes two fp16 of two e4m3; two bf16 take seven");
constexpr u32 kFulls = GATHER ? 2 : kTiles;  // gathered tiles arrive by halves, others one by one
static_assert(QK_TILES == kTiles || QK_TILES == kValueTiles, "with or without rotary columns");

enum Barrier : u32 { kGroup0 = 1, kGroup1 = 2, kP0 = 3, kP1 = 4, kSums = 5, kQuery = 6 };

struct alignas(1024) Shared {
  u8 sQ[kTiles][kTileBytes];
  u8 sK[2][kTiles][kTileBytes];  // the ninth tile of buffer 1 holds P1 once its product is done
  u8 sP0[kTileBytes];
  float sMax[2][kRows];          // running maximum after the even and after the odd block, base 2
  float sSum[2][2][kRows];       // [segment parity][half]: one may still be read while the next is written
  u64 fullQ, emptyQ;
  u64 full[2][kFulls];
  u64 empty[2][2];               // [buffer][half]
#if GATHER
  alignas(8) u16 sValid[2][4];              // [buffer][warp that wrote the rows]: a bit a key
#endif
#if WHOLE
  float sTop[2][2][kRows];       // likewise: largest logit of each group's blocks
#endif
};

static_assert(sizeof(Shared) <= 232448, "what a block may have");

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

#if HALF && !GATHER
#define PACK_OUT pack_fp16
#else
#define PACK_OUT pack_bf16  // queries and outputs of gathered keys are bf16
#endif

using Scores = float[32];
using Output = float[128];
using Weights = u32[4][4];  // the A operand of four k steps

// S = Q K; starts as soon as the first 64 columns are there. The half that is freed last comes last.
DEVICE void multiply_scores(Shared& s, Scores& rS, u32 buffer, u32 parity) {
  pin_registers(rS);
  wgmma_fence();
#pragma unroll
  for (u32 i = 0; i < QK_TILES; ++i) {
    const u32 tile = QK_TILES == kValueTiles || kFp8 || i < 4 ? i : i == 4 ? kValueTiles : i - 1;
    if (!GATHER || i == 0 || tile == 4) {
      barrier_wait(&s.full[buffer][GATHER ? tile / 4 : tile], parity);
      if constexpr (GATHER && !kFp8) fence_proxy_async();  // the rows come by cp.async, whose writers cannot fence
    }
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
#if WHOLE
  float top[2];
#endif

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

// Keys that this thread's row `r` may see. Seldom asked, so it is no register.
DEVICE u32 visible_keys(const Arguments& p, u32 length, u32 r) {
  const u32 row = blockIdx.x * kRows + threadIdx.x / 32 % 4 * 16 + lane_index() / 4 + 8 * r;
  const u32 hidden = p.causal ? p.s_q - 1 - smaller(row / (p.heads / p.kv_heads), p.s_q - 1) : 0;
  return length > hidden ? length - hidden : 0;
}

// rS becomes the weights; `rows.max` moves from `before` (the maximum in force) to the new one.
DEVICE void softmax(const Arguments& p, Shared& s, u32 buffer, Scores& rS, Weights& rP, Rows& rows, const float (&before)[2], u32 length, u32 first_key) {
  const float scale = p.scale;
  const u32 hidden_max = p.causal ? p.s_q - 1 : 0;
#if GATHER
  const volatile u32* sValid = reinterpret_cast<const volatile u32*>(s.sValid[buffer]);
  if ((sValid[0] & sValid[1]) != 0xffffffffu) {
    const u32 low = sValid[0] >> (lane_index() % 4 * 2), high = sValid[1] >> (lane_index() % 4 * 2);
#pragma unroll
    for (u32 i = 0; i < 32; ++i)
      if (!((i < 16 ? low : high) >> (i % 16 / 4 * 8 + i % 2) & 1)) rS[i] = -infinity();
  }
#endif
  if (kLimits && first_key + kKeys + hidden_max > length) {
    const u32 visible[2] = {visible_keys(p, length, 0), visible_keys(p, length, 1)};
#pragma unroll
    for (u32 i = 0; i < 32; ++i) {
      const u32 key = first_key + i / 4 * 8 + lane_index() % 4 * 2 + i % 2;
      if (key >= visible[i / 2 % 2]) rS[i] = -infinity();
    }
  }
#pragma unroll
  for (u32 r = 0; r < 2; ++r) {
    float top = -infinity();
#pragma unroll
    for (u32 j = 0; j < 8; ++j) top = fmaxf(top, fmaxf(rS[4 * j + 2 * r], rS[4 * j + 2 * r + 1]));
    top = quad_max(top) * scale;
#if WHOLE
    rows.top[r] = fmaxf(rows.top[r], top);
#endif
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
  if constexpr (GATHER) {
    barrier_wait(&s.full[buffer][half], parity);
    if constexpr (!kFp8) fence_proxy_async();
  } else {
#pragma unroll
    for (u32 t = 0; t < 4; ++t) barrier_wait(&s.full[buffer][half * 4 + t], parity);
    if (keys < kKeys) clear_tail(s, buffer, half, keys);
  }
}

DEVICE void release(u64* empty) {
  __syncwarp();
  if (lane_index() == 0) barrier_arrive(empty);
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
    const float sink = p.gSink != nullptr && row < p.rows ? exp2_fast(fmaf(__ldg(p.gSink + head), kLog2e, -rows.max[r])) : 0.f;
    const float inverse = rows.sum[r] > 0.f ? 1.f / (rows.sum[r] + sink) : 0.f;
    u16* gRow = p.gOut + ((u64(request) * p.s_q + position) * p.heads + head) * 512 + half * 256;
#pragma unroll
    for (u32 g = 0; g < 8; ++g) {
      u32 packed[4];
#pragma unroll
      for (u32 i = 0; i < 4; ++i) packed[i] = PACK_OUT(rO[16 * g + 4 * i + 2 * r] * inverse, rO[16 * g + 4 * i + 2 * r + 1] * inverse);
      const uint4 eight = transpose_quad(packed[0], packed[1], packed[2], packed[3]);
      if (row < p.rows) *reinterpret_cast<uint4*>(gRow + g * 32 + lane % 4 * 8) = eight;
    }
    if (half == 0 && lane % 4 == 0 && row < p.rows)
      p.gLse[(u64(request) * p.heads + head) * p.s_q + position] =
          rows.sum[r] > 0.f ? kLn2 * (rows.max[r] + log2_fast(rows.sum[r])) : infinity();
#if WHOLE
    if (half == 0 && lane % 4 == 0 && row < p.rows) p.gTop[(u64(request) * p.heads + head) * p.s_q + position] = kLn2 * rows.top[r];
#endif
  }
}

// The power of two by which the largest value of row `r` divided ends in [2^14, 2^15): fp16 keeps 2^-39 of that. A row
// with an infinite value is not scaled.
DEVICE i32 partial_exponent(const Output& rO, u32 r, float inverse) {
  float top = 0.f;
#pragma unroll
  for (u32 i = 0; i < 64; ++i) top = fmaxf(top, fabsf(rO[4 * (i / 2) + 2 * r + i % 2]));
  const i32 exponent = i32(__float_as_uint(quad_max(top) * inverse) >> 23) - 127;
  return exponent == 128 ? 0 : larger(exponent, -100) - 14;
}

// Half of a row in fp16 with its own power of two: 2^-12 of each value, an eighth of what rounding the output costs.
DEVICE void store_partial(const Arguments& p, const Output& rO, const Rows& rows, u32 slot, u32 half) {
  const u32 lane = lane_index();
#pragma unroll
  for (u32 r = 0; r < 2; ++r) {
    const u32 row = blockIdx.x * kRows + threadIdx.x / 32 % 4 * 16 + lane / 4 + 8 * r;
    const float inverse = rows.sum[r] > 0.f ? 1.f / rows.sum[r] : 0.f;
    const i32 exponent = partial_exponent(rO, r, inverse);
    const float factor = inverse * __uint_as_float(u32(127 - exponent) << 23);
    const u64 at = (u64(slot) * p.kv_heads + blockIdx.y) * p.rows + row;
    u16* gRow = static_cast<u16*>(p.gPartial) + at * 512 + half * 256 + lane % 4 * 8;
#pragma unroll
    for (u32 g = 0; g < 8; ++g) {
      u32 packed[4];
#pragma unroll
      for (u32 i = 0; i < 4; ++i) packed[i] = pack_fp16(rO[16 * g + 4 * i + 2 * r] * factor, rO[16 * g + 4 * i + 2 * r + 1] * factor);
      const uint4 eight = transpose_quad(packed[0], packed[1], packed[2], packed[3]);
      if (row < p.rows) *reinterpret_cast<uint4*>(gRow + g * 32) = eight;
    }
    if (lane % 4 == 0 && row < p.rows) {
      if (half == 0) p.gPartialLse[at * 4] = rows.sum[r] > 0.f ? rows.max[r] + log2_fast(rows.sum[r]) : -infinity();
      p.gPartialLse[at * 4 + 1 + half] = float(exponent);
    }
  }
}

DEVICE void store(const Arguments& p, Shared& s, u32 parity, const Output& rO, Rows& rows, const Segment& segment, u32 half) {
  const u32 row = threadIdx.x / 32 % 4 * 16 + lane_index() / 4;
  auto& sSum = s.sSum[parity];
#pragma unroll
  for (u32 r = 0; r < 2 && segment.begin < segment.end; ++r) {
    rows.sum[r] = quad_sum(rows.sum[r]);
    if (lane_index() % 4 == 0) sSum[half][row + 8 * r] = rows.sum[r];
#if WHOLE
    if (lane_index() % 4 == 0) s.sTop[parity][half][row + 8 * r] = rows.top[r];
#endif
    __syncwarp();
  }
  if (segment.begin < segment.end) {
    named_barrier_sync_apart(kSums, kMathThreads);
    rows.sum[0] = sSum[0][row] + sSum[1][row];
    rows.sum[1] = sSum[0][row + 8] + sSum[1][row + 8];
#if WHOLE
    rows.top[0] = fmaxf(s.sTop[parity][0][row], s.sTop[parity][1][row]);
    rows.top[1] = fmaxf(s.sTop[parity][0][row + 8], s.sTop[parity][1][row + 8]);
#endif
  }
  if (segment.split) store_partial(p, rO, rows, segment.slot, half);
  else store_final(p, rO, rows, segment.request, half);
}

// ---------------------------------------------------------------- the two warpgroups
struct Parities {
  u32 q = 0, buffer[2] = {0, 0};
};

DEVICE u32 keys_in(const Segment& segment, u32 block) { return smaller(kKeys, segment.length - block * kKeys); }

DEVICE void left_pair(const Arguments& p, Shared& s, Output& rO, Rows& rows, const Segment& segment, u32 block, Parities& parity) {
  const bool has_odd = block + 1 < segment.end;
  const u32 sP1 = smem_address(s.sK[1][kValueTiles]);
  Scores rS;
  Weights rP;
  multiply_scores(s, rS, 0, parity.buffer[0]);
  wgmma_wait<0>();
  pin_registers(rS);
  if (block + 2 >= segment.end) release_query(s);

  const float before[2] = {rows.max[0], rows.max[1]};
  softmax(p, s, 0, rS, rP, rows, before, segment.length, block * kKeys);
  publish(smem_address(s.sP0), s.sMax[0], rP, rows);
  named_barrier_arrive(kP0, kMathThreads);
  const float factor[2] = {rescale_factor(before[0], rows.max[0]), rescale_factor(before[1], rows.max[1])};
  rescale(rO, factor);
  if (!GATHER && keys_in(segment, block) < kKeys) clear_tail(s, 0, 0, keys_in(segment, block));
  multiply_own(rO, rP, value_descriptor(s, 0, 0));
  parity.buffer[0] ^= 1;

  if (!has_odd) {
    wgmma_wait<0>();
    pin_registers(rO);
    release(&s.empty[0][0]);
    return;
  }
  wgmma_wait<0>();
  pin_registers(rO);
  release(&s.empty[0][0]);  // before the wait for the other group: what follows in this half has the longest way
  named_barrier_sync(kP1, kMathThreads);

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

DEVICE void right_pair(const Arguments& p, Shared& s, Output& rO, Rows& rows, const Segment& segment, u32 block, Parities& parity) {
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
    softmax(p, s, 1, rS, rP, rows, even, segment.length, (block + 1) * kKeys);
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
  if (!GATHER && keys_in(segment, block + 1) < kKeys) clear_tail(s, 1, 1, keys_in(segment, block + 1));
  multiply_own(rO, rP, value_descriptor(s, 1, 1));
  parity.buffer[1] ^= 1;
  wgmma_wait<0>();
  pin_registers(rO);
  release(&s.empty[1][1]);
}

// Both warpgroups turn the query from bf16 to fp16, in place.
DEVICE void convert_query(Shared& s) {
  uint4* sQ = reinterpret_cast<uint4*>(s.sQ[0]);
#pragma unroll 2
  for (u32 i = threadIdx.x; i < QK_TILES * kTileBytes / 16; i += kMathThreads) sQ[i] = fp16_of_bf16(sQ[i]);
  fence_proxy_async();
  named_barrier_sync_apart(kQuery, kMathThreads);
}

template <u32 kHalf>
DEVICE void attend(const Arguments& p, Shared& s) {
  Walk walk(p);
  Segment segment{};
  Parities parity;
  while (walk.next(p, segment)) {
    Output rO;
    Rows rows;
#pragma unroll
    for (u32 i = 0; i < 128; ++i) rO[i] = 0.f;
#pragma unroll
    for (u32 r = 0; r < 2; ++r) {
      rows.max[r] = -infinity();
      rows.sum[r] = 0.f;
#if WHOLE
      rows.top[r] = -infinity();
#endif
    }
    if (segment.begin < segment.end) {
      barrier_wait(&s.fullQ, parity.q);
      parity.q ^= 1;
      if constexpr (kFp8) convert_query(s);
    }
    for (u32 block = segment.begin; block < segment.end; block += 2) {
      if constexpr (kHalf == 0) left_pair(p, s, rO, rows, segment, block, parity);
      else right_pair(p, s, rO, rows, segment, block, parity);
    }
    walk.look_ahead(p);  // not sooner: the fences of the products would wait for it
    store(p, s, parity.q, rO, rows, segment, kHalf);
  }
}

// One thread calls it, before anything waits on a barrier. `writers`: threads, or copies, that fill what one arrival is for.
DEVICE void init_barriers(Shared& s, u32 writers = 1) {
  barrier_init(&s.fullQ, 1);
  barrier_init(&s.emptyQ, 8);
  for (u32 i = 0; i < 2 * kFulls; ++i) barrier_init(&s.full[0][0] + i, writers);
  for (u32 i = 0; i < 4; ++i) barrier_init(&s.empty[0][0] + i, 4);
  barrier_init_fence();
}

DEVICE void load_query(Shared& s, const TensorMap& map_q, u32 request, u32& parity) {
  barrier_wait(&s.emptyQ, parity);
  parity ^= 1;
  barrier_expect_bytes(&s.fullQ, QK_TILES * kTileBytes);
  for (u32 t = 0; t < QK_TILES; ++t) tma_load_4d(&map_q, &s.fullQ, s.sQ[t], t * 64, blockIdx.x * kRows, blockIdx.y, request);
}
