// Puts the splits of a request together: out = sum of 2^(lse_i - lse) x out_i, lse = log2 of the sum of 2^lse_i.
// One block a row of a split request. Reads each partial once; writes bf16 or fp16 and the natural-log lse.
#include "ptx.cuh"

constexpr u32 kThreads = 128, kSplitsMax = 160, kValues = 512;
#if HALF
#define PACK pack_fp16
#else
#define PACK pack_bf16
#endif

extern "C" __global__ void __launch_bounds__(kThreads)
    mla_combine(const i32* gPlan, const i32* gSplits, const float* gPartial, const float* gPartialLse, u16* gOut,
                float* gLse, u32 rows, u32 s_q, u32 heads, u32 kv_heads) {
  __shared__ float sWeight[kSplitsMax];
  __shared__ float sTop[4], sTotal[4];
  wait_for_previous_kernel();
  // The part that holds a request's second piece speaks for the request; no other part does anything.
  const i32* plan = gPlan + blockIdx.z * 8;
  if (plan[0] > plan[1] || plan[4] != 1) return;
  const u32 request = plan[0], first = gSplits[request], splits = gSplits[request + 1] - first;
  const u32 row = blockIdx.x, kv_head = blockIdx.y, thread = threadIdx.x;
  const u64 at = (u64(first) * kv_heads + kv_head) * rows + row, step = u64(kv_heads) * rows;

  float own[2], top = -infinity();
#pragma unroll
  for (u32 i = 0; i < 2; ++i) {
    const u32 split = thread + i * kThreads;
    own[i] = split < splits ? gPartialLse[at + split * step] : -infinity();
    top = fmaxf(top, own[i]);
  }
#pragma unroll
  for (u32 d = 16; d > 0; d /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, d));
  if (thread % 32 == 0) sTop[thread / 32] = top;
  __syncthreads();
  top = fmaxf(fmaxf(sTop[0], sTop[1]), fmaxf(sTop[2], sTop[3]));
  const float shift = top == -infinity() ? 0.f : top;
  float total = 0.f;
#pragma unroll
  for (u32 i = 0; i < 2; ++i) {
    const u32 split = thread + i * kThreads;
    const float weight = exp2_fast(own[i] - shift);
    if (split < splits) sWeight[split] = weight;
    total += weight;
  }
#pragma unroll
  for (u32 d = 16; d > 0; d /= 2) total += __shfl_xor_sync(0xffffffffu, total, d);
  if (thread % 32 == 0) sTotal[thread / 32] = total;
  __syncthreads();
  total = (sTotal[0] + sTotal[1]) + (sTotal[2] + sTotal[3]);

  const float4* gFrom = reinterpret_cast<const float4*>(gPartial + at * kValues) + thread;
  float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 8
  for (u32 split = 0; split < splits; ++split) {
    const float4 v = __ldcs(gFrom + split * step * (kValues / 4));
    const float w = sWeight[split];
    sum.x = fmaf(w, v.x, sum.x);
    sum.y = fmaf(w, v.y, sum.y);
    sum.z = fmaf(w, v.z, sum.z);
    sum.w = fmaf(w, v.w, sum.w);
  }
  const float inverse = total > 0.f ? 1.f / total : 0.f;
  const u32 ratio = heads / kv_heads, position = row / ratio, head = kv_head * ratio + row % ratio;
  u16* gRow = gOut + ((u64(request) * s_q + position) * heads + head) * kValues;
  *reinterpret_cast<uint2*>(gRow + thread * 4) =
      make_uint2(PACK(sum.x * inverse, sum.y * inverse), PACK(sum.z * inverse, sum.w * inverse));
  if (thread == 0)
    gLse[(u64(request) * heads + head) * s_q + position] = total > 0.f ? 0.6931471805599453f * (shift + log2_fast(total)) : infinity();
}
