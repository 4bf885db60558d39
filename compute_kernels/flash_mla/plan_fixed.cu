// The plan of the batch-invariant mode: every request is cut at multiples of PIECE blocks of 64 keys, whatever else is in the
// batch, and the parts take equal numbers of pieces in order. Pieces are summed one by one and then combined in order, so a
// request's bits depend on its own length only.
//
// gPlan and gSplits as plan.cu writes them; the split index is not used, pieces count from the request's begin.
#include "ptx.cuh"
#include "scan.cuh"

constexpr u32 kPieceKeys = PIECE * 64;

// The request that holds piece `piece`: the last whose first piece is at or before it.
DEVICE u32 find(const u32* sFirst, u32 batch, u32 piece) {
  u32 low = 0, high = batch;
  while (high - low > 1) {
    const u32 middle = (low + high) / 2;
    if (sFirst[middle] <= piece) low = middle;
    else high = middle;
  }
  return low;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    mla_plan_fixed(const i32* gLengths, i32* gPlan, i32* gSplits, u32 batch, u32 parts) {
  extern __shared__ u32 sFirst[];  // [batch]: first piece of each request
  __shared__ u32 sWarp[32];
  wait_for_previous_kernel();
  u32 pieces = 0, total;
  for (u32 first = 0; first < batch; first += kThreads) {
    const u32 r = first + threadIdx.x;
    const u32 own = r < batch ? larger(ceil_div(u32(larger(gLengths[r], 0)), kPieceKeys), 1u) : 0;
    const u32 before = scan(own, sWarp, total);
    if (r < batch) gSplits[r] = sFirst[r] = pieces + before;
    pieces += total;
  }
  if (threadIdx.x == 0) gSplits[batch] = pieces;
  __syncthreads();
  for (u32 part = threadIdx.x; part < parts; part += kThreads) {
    const u32 begin = u64(pieces) * part / parts, end = u64(pieces) * (part + 1) / parts;
    const bool work = begin < end;
    const u32 first = work ? find(sFirst, batch, begin) : batch, last = work ? find(sFirst, batch, end - 1) : 0;
    i32* row = gPlan + part * 8;
    row[0] = first;
    row[1] = work ? i32(last) : -1;
    row[2] = work ? (begin - sFirst[first]) * PIECE : 0;
    row[3] = work ? smaller((end - sFirst[last]) * PIECE, ceil_div(u32(larger(gLengths[last], 0)), 64u)) : 0;
    row[4] = row[5] = row[6] = row[7] = 0;
  }
}
