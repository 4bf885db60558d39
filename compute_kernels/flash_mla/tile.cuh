// What a tile of 64 query rows needs (see attend.cuh): its shared memory, its products, its softmax.
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
