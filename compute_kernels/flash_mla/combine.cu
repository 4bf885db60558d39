// Puts the splits of a request together: out = sum of 2^(lse_i - lse) x out_i, lse = log2 of the sum of 2^lse_i.
// Reads each partial once; writes bf16 or fp16 and the natural-log lse. The grid is fixed, so that the launch fits into a
// CUDA graph; each block first lists the split requests (often none) and then takes rows in turn.
#include "ptx.cuh"

// ALL: 1 if any request may be split, in any number of pieces: then each block looks at every row in its turn.
// TEAMS: warps of a row, each of which sums every TEAMS-th split. One for few splits, eight for many.
// SCALED: 1 if partial results are fp16, each half of a row with a scale; else they are float32.
constexpr u32 kTeams = TEAMS, kThreads = 32 * kTeams, kValues = 512;
constexpr u32 kColumns = kValues / 4, kOwn = kColumns / 32;  // a column is four values, a lane has four of them
constexpr u32 kChunks = SCALED ? 2 : 4;                      // of 16 bytes, which a lane fetches of a split
constexpr u32 kAhead = 4;     // splits of a warp whose values travel before their weights are known
constexpr u32 kListed = 160;  // parts of a plan
#if HALF
#define PACK pack_fp16
#else
#define PACK pack_bf16
#endif

struct Shared {
  float4 sSum[kTeams][kColumns];
  u32 sRequests[kListed];
  u32 sCount;
};

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

// The part that holds a request's second piece speaks for the request. Warp 0 lists them, in order.
DEVICE void list_requests(Shared& s, const i32* gPlan, u32 parts) {
  u32 count = 0;
  int4 rows[kListed / 32];
  i32 split[kListed / 32];
#pragma unroll
  for (u32 i = 0; i < kListed / 32; ++i) {  // all loads first: one wait
    const u32 part = i * 32 + lane_index();
    rows[i] = part < parts ? __ldg(reinterpret_cast<const int4*>(gPlan + part * 8)) : make_int4(0, -1, 0, 0);
    split[i] = part < parts ? __ldg(gPlan + part * 8 + 4) : 0;
  }
#pragma unroll
  for (u32 i = 0; i < kListed / 32; ++i) {
    const bool speaks = rows[i].x <= rows[i].y && split[i] == 1;
    const u32 all = __ballot_sync(0xffffffffu, speaks);
    if (speaks) s.sRequests[count + __popc(all & ((1u << lane_index()) - 1))] = rows[i].x;
    count += __popc(all);
  }
  if (lane_index() == 0) s.sCount = count;
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

// This warp's share of a row's weighted sum, with weights 2^(lse - shift); `total` is the sum of all weights.
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

DEVICE void store(u16* gRow, u32 column, float4 sum, float inverse) {
  *reinterpret_cast<uint2*>(gRow + column * 4) =
      make_uint2(PACK(sum.x * inverse, sum.y * inverse), PACK(sum.z * inverse, sum.w * inverse));
}

extern "C" __global__ void __launch_bounds__(kThreads)
    mla_combine(const i32* gPlan, const i32* gSplits, const uint4* gPartial, const float* gPartialLse, u16* gOut,
                float* gLse, const float* gSink, u32 parts, u32 rows, u32 s_q, u32 heads, u32 kv_heads, u32 batch) {
  __shared__ Shared s;
  const u32 thread = threadIdx.x, team = thread / 32;
  // The plan is older than the kernel before this one, which itself waited for it.
  if (!ALL && team == 0) list_requests(s, gPlan, parts);
  wait_for_previous_kernel();
  let_next_kernel_start();
  __syncthreads();
  const u32 rows_all = rows * kv_heads, ratio = heads / kv_heads;
  for (u32 item = blockIdx.x; item < (ALL ? batch : s.sCount) * rows_all; item += gridDim.x) {
    const u32 request = ALL ? item / rows_all : s.sRequests[item / rows_all], row_all = item % rows_all;
    const u32 first = gSplits[request], splits = gSplits[request + 1] - first;
    if (ALL && splits < 2) continue;
    const u64 at = u64(first) * rows_all + row_all;
    const Partials partials{gPartial + at * kChunks * 32, gPartialLse + at * 4, rows_all};
    float4 sum[kOwn];
    float shift, total;
    sum_splits(partials, splits, team, sum, shift, total);

    const u32 position = row_all % rows / ratio, head = row_all / rows * ratio + row_all % rows % ratio;
    const float sink = gSink == nullptr ? 0.f : exp2_fast(fmaf(__ldg(gSink + head), 1.4426950408889634f, -shift));
    const float inverse = total > 0.f ? 1.f / (total + sink) : 0.f;
    u16* gRow = gOut + ((u64(request) * s_q + position) * heads + head) * kValues;
    if constexpr (kTeams == 1) {
#pragma unroll
      for (u32 i = 0; i < kOwn; ++i) store(gRow, column_of(thread, i), sum[i], inverse);
    } else {
#pragma unroll
      for (u32 i = 0; i < kOwn; ++i) s.sSum[team][column_of(thread % 32, i)] = sum[i];
      __syncthreads();
      if (thread < kColumns) {
        float4 all = s.sSum[0][thread];
#pragma unroll
        for (u32 i = 1; i < kTeams; ++i) {
          const float4 v = s.sSum[i][thread];
          all = make_float4(all.x + v.x, all.y + v.y, all.z + v.z, all.w + v.w);
        }
        store(gRow, thread, all, inverse);
      }
      __syncthreads();
    }
    if (thread == 0)
      gLse[(u64(request) * heads + head) * s_q + position] = total > 0.f ? 0.6931471805599453f * (shift + log2_fast(total)) : infinity();
  }
}
