// A row's partial results put together by warps: out = sum of 2^(lse_i - lse) x out_i, lse = log2 of the sum of 2^lse_i.
//
// Compile-time constants beside HALF, what is written (0: bf16, 1: fp16):
//   SCALED  1 if partial results are fp16, each half of a row with a scale; else they are float32
#pragma once
#include "ptx.cuh"

constexpr u32 kValues = 512, kColumns = kValues / 4, kOwn = kColumns / 32;  // a column is four values, a lane has four of them
constexpr u32 kChunks = SCALED ? 2 : 4;  // of 16 bytes, which a lane fetches of a split
constexpr u32 kAhead = 4;                // splits of a warp whose values travel before their weights are known

DEVICE float warp_max(float x) {
#pragma unroll
  for (u32 d = 16; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
  return x;
}

DEVICE float warp_sum(float x) {
#pragma unroll
  for (u32 d = 16; d > 0; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
  return x;
}

DEVICE void add_four(float4& sum, float4 v, float weight) {
  sum = make_float4(fmaf(weight, v.x, sum.x), fmaf(weight, v.y, sum.y), fmaf(weight, v.z, sum.z), fmaf(weight, v.w, sum.w));
}

// A row's partial results: split i lies `step` rows after split i - 1.
struct Partials {
  const uint4* gValues;
  const float* gLse;  // four a row: see walk.cuh
  u64 step;

  DEVICE float lse(u32 split) const { return gLse[split * step * 4]; }

  DEVICE void fetch(uint4 (&values)[kChunks], u32 split) const {
#pragma unroll
    for (u32 c = 0; c < kChunks; ++c) values[c] = __ldcs(gValues + (split * step * kChunks + c) * 32 + lane_index());
  }

  // Adds a split's values, whose lse is `shift` + log2 of its weight.
  DEVICE void add(float4 (&sum)[kOwn], const uint4 (&values)[kChunks], u32 split, float shift) const {
    const float lse_split = lse(split) - shift;
#pragma unroll
    for (u32 c = 0; c < kChunks; ++c) {
      if constexpr (SCALED) {
        const float weight = exp2_fast(lse_split + gLse[split * step * 4 + 1 + c]);
        add_four(sum[2 * c], floats_of_fp16(values[c].x, values[c].y), weight);
        add_four(sum[2 * c + 1], floats_of_fp16(values[c].z, values[c].w), weight);
      } else {
        const float4 four = make_float4(__uint_as_float(values[c].x), __uint_as_float(values[c].y), __uint_as_float(values[c].z), __uint_as_float(values[c].w));
        add_four(sum[c], four, exp2_fast(lse_split));
      }
    }
  }
};

// Which column of a row a lane's i-th is: chunks are 16 bytes.
DEVICE u32 column_of(u32 lane, u32 i) { return SCALED ? (i / 2 * 32 + lane) * 2 + i % 2 : i * 32 + lane; }

// A warp's share of a row's weighted sum, every kTeams-th split, with weights 2^(lse - shift); `total` is the sum of all
// weights.
template <u32 kTeams>
DEVICE void sum_splits(const Partials& row, u32 splits, u32 team, float4 (&sum)[kOwn], float& shift, float& total) {
  uint4 values[kAhead][kChunks];
#pragma unroll
  for (u32 a = 0; a < kAhead; ++a)
    if (team + a * kTeams < splits) row.fetch(values[a], team + a * kTeams);
  float top = -infinity(), weights = 0.f;
  for (u32 i = lane_index(); i < splits; i += 32) top = fmaxf(top, row.lse(i));
  top = warp_max(top);
  shift = top == -infinity() ? 0.f : top;
  for (u32 i = lane_index(); i < splits; i += 32) weights += exp2_fast(row.lse(i) - shift);
  total = warp_sum(weights);
#pragma unroll
  for (u32 i = 0; i < kOwn; ++i) sum[i] = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
  for (u32 a = 0; a < kAhead; ++a)
    if (team + a * kTeams < splits) row.add(sum, values[a], team + a * kTeams, shift);
#pragma unroll 4
  for (u32 split = team + kAhead * kTeams; split < splits; split += kTeams) {
    row.fetch(values[0], split);
    row.add(sum, values[0], split, shift);
  }
}

DEVICE void store_column(u16* gRow, u32 column, float4 sum, float inverse) {
  *reinterpret_cast<uint2*>(gRow + column * 4) =
      HALF ? make_uint2(pack_fp16(sum.x * inverse, sum.y * inverse), pack_fp16(sum.z * inverse, sum.w * inverse))
           : make_uint2(pack_bf16(sum.x * inverse, sum.y * inverse), pack_bf16(sum.z * inverse, sum.w * inverse));
}

// Where row `row_all` of all kv heads' rows is written.
struct Target {
  u32 position, head;
  DEVICE Target(u32 row_all, u32 rows, u32 ratio) {
    position = row_all % rows / ratio;
    head = row_all / rows * ratio + row_all % rows % ratio;
  }
  DEVICE u16* row(u16* gOut, u32 request, u32 s_q, u32 heads) const { return gOut + ((u64(request) * s_q + position) * heads + head) * kValues; }
  DEVICE float& lse(float* gLse, u32 request, u32 s_q, u32 heads) const { return gLse[(u64(request) * heads + head) * s_q + position]; }
};

DEVICE float natural_lse(float shift, float total) {
  return total > 0.f ? 0.6931471805599453f * (shift + log2_fast(total)) : infinity();
}
