// Puts the splits of a request together (see combine.cuh). Reads each partial once; writes bf16 or fp16 and the natural-log
// lse. The grid is fixed, so that the launch fits into a CUDA graph; each block first lists the split requests (often none)
// and then takes rows in turn.
#include "combine.cuh"

// ALL: 1 if any request may be split, in any number of pieces: then each block looks at every row in its turn.
// TEAMS: warps of a row, each of which sums every TEAMS-th split. One for few splits, eight for many.
constexpr u32 kTeams = TEAMS, kThreads = 32 * kTeams;
constexpr u32 kListed = 160;  // parts of a plan

struct Shared {
  float4 sSum[kTeams][kColumns];
  u32 sRequests[kListed];
  u32 sCount;
};

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
    sum_splits<kTeams>(partials, splits, team, sum, shift, total);

    const Target target(row_all, rows, ratio);
    const float sink = gSink == nullptr ? 0.f : exp2_fast(fmaf(__ldg(gSink + target.head), 1.4426950408889634f, -shift));
    const float inverse = total > 0.f ? 1.f / (total + sink) : 0.f;
    u16* gRow = target.row(gOut, request, s_q, heads);
    if constexpr (kTeams == 1) {
#pragma unroll
      for (u32 i = 0; i < kOwn; ++i) store_column(gRow, column_of(thread, i), sum[i], inverse);
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
        store_column(gRow, thread, all, inverse);
      }
      __syncthreads();
    }
    if (thread == 0) target.lse(gLse, request, s_q, heads) = natural_lse(shift, total);
  }
}
