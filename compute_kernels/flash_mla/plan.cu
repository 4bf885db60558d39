// Cuts the key blocks of a batch into `parts` stretches of nearly equal cost, on the device.
//
// Imagine all requests on one line: each takes kOverhead units (its query, its output) and then one unit a block
// of 64 keys (at least one). Part i takes the blocks between i x quota and (i + 1) x quota. Every part finds its
// ends by itself in the running sums, so the plan costs a scan and a binary search, not a walk.
//
// A split request costs more than its blocks: partial outputs are written and read again. So if whole requests fit
// into the parts with at most kSlack units over the quota, nothing is split. And if there are more parts than requests,
// each part may get one piece: the pieces are equal, of the least even size with which the parts suffice.
#include "ptx.cuh"
#include "scan.cuh"

constexpr u32 kKeys = 64, kOverhead = OVERHEAD;
constexpr u32 kSlack = 8, kWholeMax = 512;  // of more requests than this, the walk below would cost too much

// Packs whole requests greedily into parts of at most `limit` units. sStart[i] is part i's first request. Returns the
// number of parts, or `parts` + 1 if they do not suffice.
DEVICE u32 pack_whole(const u32* sFirst, u32* sStart, u32 batch, u32 line, u32 parts, u32 limit) {
  u32 used = 1, begin = 0, start = 0;
  sStart[0] = 0;
  for (u32 r = 0; r < batch; ++r) {
    const u32 end = r + 1 < batch ? sFirst[r + 1] - kOverhead : line;
    if (end - begin > limit) {
      begin = start;
      if (end - begin > limit || used == parts) return parts + 1;
      sStart[used++] = r;
    }
    start = end;
  }
  sStart[used] = batch;
  return used;
}

// The least even number of blocks a piece with which one piece a part is enough. Every thread tries one size.
DEVICE u32 piece_size(const u32* sBlocks, u32* sFound, u32 batch, u32 parts) {
  const u32 size = 2 * (threadIdx.x + 1);
  u32 pieces = 0;
  for (u32 r = 0; r < batch; ++r) pieces += larger(ceil_div(sBlocks[r], size), 1u);
  if (pieces <= parts) atomicMin(sFound, size);
  __syncthreads();
  return *sFound;
}

// One piece a part; thread r writes the pieces of request r.
DEVICE void write_pieces(const u32* sBlocks, u32* sWarp, i32* gPlan, i32* gSplits, u32 batch, u32 parts, u32 size) {
  const u32 r = threadIdx.x, blocks = r < batch ? sBlocks[r] : 0;
  const u32 pieces = r < batch ? larger(ceil_div(blocks, size), 1u) : 0;
  u32 total;
  const u32 first = scan(pieces, sWarp, total);
  if (r < batch) gSplits[r] = first;
  if (r == 0) gSplits[batch] = total;
  for (u32 i = 0; i < pieces; ++i) {
    i32* row = gPlan + (first + i) * 8;
    row[0] = row[1] = r;
    row[2] = i * size;
    row[3] = smaller((i + 1) * size, blocks);
    row[4] = i;
    row[5] = row[6] = row[7] = 0;
  }
  for (u32 part = total + threadIdx.x; part < parts; part += kThreads) {
    i32* row = gPlan + part * 8;
    row[0] = batch;
    row[1] = -1;
    row[2] = row[3] = row[4] = row[5] = row[6] = row[7] = 0;
  }
}

// gPlan [parts, 8]: first request, last request, first block of the first, end block of the last, split index of
// the first. A part with nothing to do has last < first. gSplits [batch + 1]: running sum of splits.
extern "C" __global__ void __launch_bounds__(kThreads)
    mla_plan(const i32* gLengths, i32* gPlan, i32* gSplits, u32 batch, u32 parts) {
  extern __shared__ u32 sFirst[];  // [batch]: place of each request's first block on the line; then [parts + 1]
  u32* sStart = sFirst + batch;
  __shared__ u32 sUsed;
  __shared__ u32 sWarp[32];
  wait_for_previous_kernel();
  u32 line = 0, total;
  for (u32 first = 0; first < batch; first += kThreads) {
    const u32 r = first + threadIdx.x;
    const u32 units = r < batch ? kOverhead + larger(ceil_div(u32(larger(gLengths[r], 0)), kKeys), 1u) : 0;
    const u32 before = scan(units, sWarp, total);
    if (r < batch) sFirst[r] = line + before + kOverhead;
    line += total;
  }
  __syncthreads();
  const u32 quota = (ceil_div(line, parts) + 1) / 2 * 2;  // blocks are taken in pairs
  if (threadIdx.x == 0) sUsed = batch <= kWholeMax ? pack_whole(sFirst, sStart, batch, line, parts, quota + kSlack) : parts + 1;
  __syncthreads();
  if (sUsed <= parts) {
    for (u32 r = threadIdx.x; r <= batch; r += kThreads) gSplits[r] = r;
    for (u32 part = threadIdx.x; part < parts; part += kThreads) {
      const bool work = part < sUsed;
      const i32 first = work ? sStart[part] : batch, last = work ? i32(sStart[part + 1]) - 1 : -1;
      i32* row = gPlan + part * 8;
      row[0] = first;
      row[1] = last;
      row[3] = work ? ceil_div(u32(larger(gLengths[last], 0)), kKeys) : 0;
      row[2] = row[4] = row[5] = row[6] = row[7] = 0;
    }
    return;
  }
  if (batch <= parts && batch <= kThreads) {
    u32* sBlocks = sStart;  // parts + 1 values, of which batch are needed
    __syncthreads();
    if (threadIdx.x < batch) sBlocks[threadIdx.x] = ceil_div(u32(larger(gLengths[threadIdx.x], 0)), kKeys);
    if (threadIdx.x == 0) sUsed = 0xffffffffu;
    __syncthreads();
    const u32 size = piece_size(sBlocks, &sUsed, batch, parts);
    if (size <= quota) {
      write_pieces(sBlocks, sWarp, gPlan, gSplits, batch, parts, size);
      return;
    }
  }
  u32 slots = 0;
  for (u32 first = 0; first < batch; first += kThreads) {
    const u32 r = first + threadIdx.x;
    u32 splits = 0;
    if (r < batch) {
      const u32 end = r + 1 < batch ? sFirst[r + 1] - kOverhead : line;
      splits = (end - 1) / quota - sFirst[r] / quota + 1;
    }
    const u32 before = scan(splits, sWarp, total);
    if (r < batch) gSplits[r] = slots + before;
    slots += total;
  }
  if (threadIdx.x == 0) gSplits[batch] = slots;
  for (u32 part = threadIdx.x; part < parts; part += kThreads) {
    const u32 begin = part * quota, end = begin + quota;
    u32 low = 0, high = batch;  // first request that has a block at or after `begin`
    while (low < high) {
      const u32 middle = (low + high) / 2;
      const u32 last = middle + 1 < batch ? sFirst[middle + 1] - kOverhead : line;
      if (last > begin) high = middle;
      else low = middle + 1;
    }
    const u32 first_request = low;
    high = batch;               // first request whose blocks begin at or after `end`
    while (low < high) {
      const u32 middle = (low + high) / 2;
      if (sFirst[middle] >= end) high = middle;
      else low = middle + 1;
    }
    const i32 last_request = i32(low) - 1;
    i32* row = gPlan + part * 8;
    const bool work = i32(first_request) <= last_request;
    row[0] = first_request;
    row[1] = last_request;
    row[2] = work && begin > sFirst[first_request] ? begin - sFirst[first_request] : 0;
    row[3] = work ? smaller(end - sFirst[last_request], ceil_div(u32(larger(gLengths[last_request], 0)), kKeys)) : 0;
    row[4] = work ? part - smaller(sFirst[first_request] / quota, part) : 0;
    row[5] = row[6] = row[7] = 0;
  }
}
