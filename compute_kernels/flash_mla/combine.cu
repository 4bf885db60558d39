// Puts the splits of a request together: out = sum of 2^(lse_i - lse) x out_i, lse = log2 of the sum of 2^lse_i.
// Reads each partial once; writes bf16 or fp16 and the natural-log lse. The grid is fixed, so that the launch fits into a
// CUDA graph; each block first lists the split requests (often none) and then takes rows in turn.
#include "ptx.cuh"

// ALL: 1 if any request may be split, in any number of pieces: then each block looks at every row in its turn.
// TEAMS: threads of a row in teams of 128, each of which sums every TEAMS-th split. One for few splits, four for many.
constexpr u32 kColumns = 128, kTeams = TEAMS, kThreads = kColumns * kTeams;
constexpr u32 kPartsMax = ALL ? 1024 : 160, kValues = 512;
constexpr u32 kListed = 160;  // parts of a plan
#if HALF
#define PACK pack_fp16
#else
#define PACK pack_bf16
#endif

struct Shared {
  float sWeight[kPartsMax];
  float sWarp[kThreads / 32];
  float4 sSum[kTeams][kColumns];
  u32 sRequests[kListed];
  u32 sCount;
};

// Of all threads of the block.
DEVICE float block_max(float x, float* sWarp) {
#pragma unroll
  for (u32 d = 16; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
  if (lane_index() == 0) sWarp[threadIdx.x / 32] = x;
  __syncthreads();
#pragma unroll
  for (u32 i = 0; i < kThreads / 32; ++i) x = fmaxf(x, sWarp[i]);
  __syncthreads();
  return x;
}

DEVICE float block_sum(float x, float* sWarp) {
#pragma unroll
  for (u32 d = 16; d > 0; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
  if (lane_index() == 0) sWarp[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0.f;
#pragma unroll
  for (u32 i = 0; i < kThreads / 32; ++i) x += sWarp[i];
  __syncthreads();
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

// `at` counts rows over slots and kv heads; consecutive splits lie `step` rows apart.
DEVICE float4 sum_splits(const Shared& s, const float* gPartial, u64 at, u64 step, u32 splits, u32 team, u32 column) {
  const float4* gFrom = reinterpret_cast<const float4*>(gPartial + at * kValues) + column;
  float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 8
  for (u32 split = team; split < splits; split += kTeams) {
    const float4 v = __ldcs(gFrom + split * step * (kValues / 4));
    const float w = s.sWeight[split];
    sum.x = fmaf(w, v.x, sum.x);
    sum.y = fmaf(w, v.y, sum.y);
    sum.z = fmaf(w, v.z, sum.z);
    sum.w = fmaf(w, v.w, sum.w);
  }
  return sum;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    mla_combine(const i32* gPlan, const i32* gSplits, const float* gPartial, const float* gPartialLse, u16* gOut,
                float* gLse, const float* gSink, u32 parts, u32 rows, u32 s_q, u32 heads, u32 kv_heads, u32 batch) {
  __shared__ Shared s;
  const u32 thread = threadIdx.x, team = thread / kColumns, column = thread % kColumns;
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (!ALL && thread < 32) list_requests(s, gPlan, parts);
  __syncthreads();
  const u32 rows_all = rows * kv_heads, ratio = heads / kv_heads;
  for (u32 item = blockIdx.x; item < (ALL ? batch : s.sCount) * rows_all; item += gridDim.x) {
    const u32 request = ALL ? item / rows_all : s.sRequests[item / rows_all], row_all = item % rows_all;
    const u32 kv_head = row_all / rows, row = row_all % rows;
    const u32 first = gSplits[request], splits = gSplits[request + 1] - first;
    if (ALL && splits < 2) continue;
    const u64 at = u64(first) * rows_all + row_all;

    constexpr u32 kOwn = ceil_div(kPartsMax, kThreads);
    float own[kOwn], top = -infinity(), weight = 0.f;
#pragma unroll
    for (u32 i = 0; i < kOwn; ++i) {
      const u32 split = thread + i * kThreads;
      own[i] = split < splits ? gPartialLse[at + u64(split) * rows_all] : -infinity();
      top = fmaxf(top, own[i]);
    }
    top = block_max(top, s.sWarp);
    const float shift = top == -infinity() ? 0.f : top;
#pragma unroll
    for (u32 i = 0; i < kOwn; ++i) {
      const u32 split = thread + i * kThreads;
      const float w = exp2_fast(own[i] - shift);
      if (split < splits) s.sWeight[split] = w;
      weight += w;
    }
    const float total = block_sum(weight, s.sWarp);  // its barriers also publish the weights

    float4 sum = sum_splits(s, gPartial, at, rows_all, splits, team, column);
    s.sSum[team][column] = sum;
    __syncthreads();
    if (team == 0) {
#pragma unroll
      for (u32 i = 1; i < kTeams; ++i) {
        const float4 v = s.sSum[i][column];
        sum.x += v.x;
        sum.y += v.y;
        sum.z += v.z;
        sum.w += v.w;
      }
      const u32 position = row / ratio, head = kv_head * ratio + row % ratio;
      const float sink = gSink == nullptr ? 0.f : exp2_fast(fmaf(__ldg(gSink + head), 1.4426950408889634f, -shift));
      const float inverse = total > 0.f ? 1.f / (total + sink) : 0.f;
      u16* gRow = gOut + ((u64(request) * s_q + position) * heads + head) * kValues;
      *reinterpret_cast<uint2*>(gRow + column * 4) =
          make_uint2(PACK(sum.x * inverse, sum.y * inverse), PACK(sum.z * inverse, sum.w * inverse));
      if (column == 0)
        gLse[(u64(request) * heads + head) * s_q + position] = total > 0.f ? 0.6931471805599453f * (shift + log2_fast(total)) : infinity();
    }
    __syncthreads();
  }
}
