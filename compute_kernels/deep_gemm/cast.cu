// e4m3 of a matrix, each group of values by its own scale, in one pass:
//   scale = max(largest |x| of the group, 1e-4) / 448        out = x / scale
//
// A block takes 128 x 128 values, keeps them in registers while it finds the largest ones, and writes them. Bound by
// memory: a value of 16 bits is read and its 8 bits written, 3 bytes; a scale adds 4 bytes for 128 values, or for 16,384.
// The bits are those of the plain tensors in casts.py on a CPU. The largest magnitude is sought among bit patterns, where
// numbers < infinity < NaN: a group with an infinite value becomes zeros and NaN, one with a NaN becomes NaN.
//
// Compile-time constants:
//   TYPE    of x, 0: bf16, 1: fp16, 2: float32
//   VECTOR  1: rows of x begin at multiples of 16 bytes and are whole vectors of 16 bytes; 0: value by value
//   ROWS    of a group of 128 columns. 1: scales [m, k / 128] with m contiguous; 128: [m / 128, k / 128], plain
#include "ptx.cuh"

static_assert(ROWS == 1 || ROWS == 128, "rows of a group");
constexpr u32 kTile = 128, kWarps = 8, kThreads = 32 * kWarps;
constexpr u32 kVector = TYPE == 2 ? 4 : 8;                       // values in 16 bytes, which a lane loads
constexpr u32 kRowLanes = kTile / kVector, kRowsLoad = 32 / kRowLanes;  // lanes of a row; rows that a warp loads at once
constexpr u32 kLoads = kTile / (kWarps * kRowsLoad);

DEVICE void widen(float (&wide)[kVector], uint4 v) {
  const u32 words[4] = {v.x, v.y, v.z, v.w};
#if TYPE == 1
  const float4 low = floats_of_fp16(words[0], words[1]), high = floats_of_fp16(words[2], words[3]);
  wide[0] = low.x, wide[1] = low.y, wide[2] = low.z, wide[3] = low.w;
  wide[4] = high.x, wide[5] = high.y, wide[6] = high.z, wide[7] = high.w;
#else
#pragma unroll
  for (u32 i = 0; i < kVector; ++i)
    wide[i] = __uint_as_float(TYPE == 2 ? words[i] : i % 2 ? words[i / 2] & 0xffff0000u : words[i / 2] << 16);
#endif
}

// The values of a lane; zeros, which count for nothing, past the end.
DEVICE uint4 load(const u8* gRow, u32 column, u32 k) {
#if VECTOR
  return column < k ? __ldg(reinterpret_cast<const uint4*>(gRow) + column / kVector) : make_uint4(0, 0, 0, 0);
#else
  u32 words[4] = {0, 0, 0, 0};
#pragma unroll
  for (u32 i = 0; i < kVector; ++i) {
    if (column + i >= k) break;
    if (TYPE == 2) words[i % 4] = __ldg(reinterpret_cast<const u32*>(gRow) + column + i);
    else words[i / 2] |= u32(__ldg(reinterpret_cast<const u16*>(gRow) + column + i)) << (i % 2 * 16);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
#endif
}

DEVICE float scale_of(u32 top) { return __uint_as_float(larger(top, __float_as_uint(1e-4f))) / 448.f; }

// x / scale in three instructions: the product with the reciprocal, corrected by the remainder (Markstein 1990). It could
// round otherwise than a division only within 2^-23 of the middle between two float32, far below a step of e4m3. Where the
// scale is infinite or NaN there is no correction, and the product is right as it is.
struct Divisor {
  float inverse, scale, correction;
  DEVICE void set(float by) { inverse = 1.f / by, scale = by < infinity() ? by : 0.f, correction = by < infinity() ? -inverse : -0.f; }
  DEVICE float divide(float x) const {
    const float near = x * inverse;
    return fmaf(fmaf(near, scale, -x), correction, near);  // signs so that -0 stays -0
  }
};

DEVICE void store(u8* gRow, u32 column, u32 k, const float (&wide)[kVector], const Divisor& by) {
  u16 pairs[kVector / 2];
#pragma unroll
  for (u32 i = 0; i < kVector / 2; ++i) pairs[i] = pack_e4m3(by.divide(wide[2 * i]), by.divide(wide[2 * i + 1]));
#if VECTOR
  if (column >= k) return;
  const u32 first = pairs[0] | u32(pairs[1]) << 16;
  if constexpr (kVector == 4) *reinterpret_cast<u32*>(gRow + column) = first;
  else *reinterpret_cast<uint2*>(gRow + column) = make_uint2(first, pairs[kVector / 2 - 2] | u32(pairs[kVector / 2 - 1]) << 16);
#else
#pragma unroll
  for (u32 i = 0; i < kVector; ++i)
    if (column + i < k) gRow[column + i] = u8(pairs[i / 2] >> (i % 2 * 8));
#endif
}

DEVICE u32 largest_of_lanes(u32 top, u32 lanes) {
  for (u32 d = lanes / 2; d > 0; d /= 2) top = larger(top, __shfl_xor_sync(0xffffffffu, top, d));
  return top;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    fp8_cast(const u8* gX, u8* gOut, float* gScale, u64 row_bytes, u32 m, u32 k, u32 scale_stride) {
  __shared__ u32 sTop[kTile];  // of each row, or of each warp
  __shared__ Divisor sBy[ROWS == 1 ? kTile : 1];
  wait_for_previous_kernel();
  let_next_kernel_start();
  const u32 k_blocks = ceil_div(k, kTile), k_block = blockIdx.x % k_blocks, tile_row = blockIdx.x / k_blocks * kTile;
  const u32 lane = lane_index(), warp = threadIdx.x / 32;
  const u32 column = k_block * kTile + lane % kRowLanes * kVector, first = warp * kRowsLoad + lane / kRowLanes;
  constexpr u32 kStep = kWarps * kRowsLoad;  // rows between two loads

  uint4 values[kLoads];
#pragma unroll
  for (u32 i = 0; i < kLoads; ++i) {
    const u32 row = tile_row + first + i * kStep;
    values[i] = row < m ? load(gX + row * row_bytes, column, k) : make_uint4(0, 0, 0, 0);
  }
  u32 top[kLoads], top_all = 0;
  float wide[kVector];
#pragma unroll
  for (u32 i = 0; i < kLoads; ++i) {
    widen(wide, values[i]);
    top[i] = 0;
#pragma unroll
    for (u32 j = 0; j < kVector; ++j) top[i] = larger(top[i], __float_as_uint(wide[j]) & 0x7fffffffu);
    if (ROWS == 1) top[i] = largest_of_lanes(top[i], kRowLanes);
    top_all = larger(top_all, top[i]);
  }
  if (ROWS == 128) top_all = largest_of_lanes(top_all, 32);
#pragma unroll
  for (u32 i = 0; i < kLoads; ++i)
    if (ROWS == 1 && lane % kRowLanes == 0) sTop[first + i * kStep] = top[i];
  if (ROWS == 128 && lane == 0) sTop[warp] = top_all;
  __syncthreads();
  if (threadIdx.x < kTile / ROWS) {
    top_all = sTop[threadIdx.x];
    for (u32 i = 1; ROWS == 128 && i < kWarps; ++i) top_all = larger(top_all, sTop[i]);
    const u32 group_row = tile_row / ROWS + threadIdx.x;
    const float scale = scale_of(top_all);
    sBy[threadIdx.x].set(scale);
    if (group_row < ceil_div(m, ROWS)) gScale[ROWS == 1 ? u64(k_block) * scale_stride + group_row : u64(group_row) * scale_stride + k_block] = scale;
  }
  __syncthreads();
#pragma unroll
  for (u32 i = 0; i < kLoads; ++i) {
    const u32 row = tile_row + first + i * kStep;
    widen(wide, values[i]);
    if (row < m) store(gOut + u64(row) * k, column, k, wide, sBy[ROWS == 1 ? first + i * kStep : 0]);
  }
}
