// What a block of the grid works on: the arguments of a call, and the way through its plan. Shared by the MLA kernels.
//
// Compile-time constants, set by the Python beside each kernel:
//   PIECE    0: parts take what the plan gives; else requests are cut at multiples of so many blocks, whatever the batch
//   WHOLE    1: no plan; blocks of the grid take whole requests by turns
#pragma once
#include "ptx.cuh"

constexpr u32 kKeys = 64;                 // of a block
constexpr u32 kPlanRow = 8;               // int32 values of a part's plan
constexpr float kLn2 = 0.6931471805599453f, kLog2e = 1.4426950408889634f;

struct Arguments {
  const i32* gPlan;       // [parts, 8]: first request, last request, first block, end block, first split
  const i32* gSplits;     // [batch + 1]: running sum of splits
  const i32* gLengths;    // [batch]; if WHOLE, null where all have indices_stride
  const i32* gPages;      // [batch, pages_max]
  const float* gSink;     // [heads] or null: a logit that takes weight and gives no value
  u16* gOut;              // [batch, s_q, heads, 512]
  float* gLse;            // [batch, heads, s_q], natural log
  void* gPartial;         // [slots, kv_heads, rows, 512] of requests that are split, float32 or scaled fp16
  float* gPartialLse;     // [slots, kv_heads, rows, 4]: lse in base 2, and if fp16: log2 of both halves' scales
  float* gTop;            // WHOLE: [batch, heads, s_q], largest scaled logit
  const u8* gCache;       // GATHER: rows of the cache
  const i32* gIndices;    // GATHER by index: [batch, indices_stride]
  float scale;            // softmax scale x log2 e
  u32 batch, pages_max, page, rows, s_q, heads, kv_heads, causal;
  u32 cache_rows, indices_stride;
};

// The stretch of one request that is worked on at a time.
struct Segment {
  u32 request, length, begin, end, slot;
  bool split;
};

// What this block of the grid works on, one segment after another; loaders and math groups walk it alike.
struct Walk {
  i32 request, last;  // the rest of the plan is read again when needed: registers are scarce
#if WHOLE
  u32 ahead;  // length of the request that comes next
#endif

  DEVICE static const i32* row(const Arguments& p) { return p.gPlan + blockIdx.z * kPlanRow; }

  DEVICE explicit Walk(const Arguments& p) {
    request = WHOLE ? i32(blockIdx.z) - i32(gridDim.z) : __ldg(row(p)) - 1;
    last = WHOLE ? i32(p.batch) - 1 : __ldg(row(p) + 1);
    look_ahead(p);
  }

  // WHOLE: fetches the length that `next` needs. threadIdx.y is 0, but the assembler does not know that all lanes get
  // the same: else it waits for the value at once, to have it in a uniform register.
  DEVICE void look_ahead(const Arguments& p) {
#if WHOLE
    ahead = p.indices_stride;
    if (p.gLengths != nullptr) ahead = __ldg(p.gLengths + smaller(request + i32(gridDim.z), last) + threadIdx.y);
#endif
  }

  // Call it with the segment of the call before; the first time with begin = end = 0. Before the second: look_ahead.
  DEVICE bool next(const Arguments& p, Segment& s) {
#if WHOLE
    request += gridDim.z;
    if (request > last) return false;
    s.request = request, s.length = smaller(u32(larger(i32(__shfl_sync(0xffffffffu, ahead, 0)), 0)), p.indices_stride);
    s.begin = 0, s.end = ceil_div(s.length, kKeys), s.slot = 0, s.split = false;
    return true;
#else
    const i32 first = __ldg(row(p)), end_block = __ldg(row(p) + 3);
    const bool more = PIECE > 0 && request >= first && s.end < (request == last ? end_block : ceil_div(s.length, kKeys));
    if (!more && ++request > last) return false;
    s.request = request;
    s.length = __ldg(p.gLengths + request);
    s.begin = more ? s.end : request == first ? __ldg(row(p) + 2) : 0;
    s.end = request == last ? end_block : ceil_div(s.length, kKeys);
    const i32 before = __ldg(p.gSplits + request);
    s.split = __ldg(p.gSplits + request + 1) - before > 1;
    s.slot = before + (request == first ? __ldg(row(p) + 4) : 0);
    if constexpr (PIECE > 0) {
      s.slot = before + s.begin / larger(PIECE, 1);
      s.end = smaller(s.end, (s.begin / larger(PIECE, 1) + 1) * PIECE);
    }
    return true;
#endif
  }
};
