// How a tile's output leaves the registers (see attend.cuh): divided by the sum of the weights, or, if the request is split,
// as a partial result that a combination reads.
#pragma once
#include "tile.cuh"

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
