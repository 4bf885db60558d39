// Running sums over a block of 1,024 threads. The file that includes it has included ptx.cuh.
#pragma once

constexpr u32 kThreads = 1024;

// Running sum over the block's threads, exclusive; `total` is the sum of all.
DEVICE u32 scan(u32 value, u32* sWarp, u32& total) {
  const u32 lane = lane_index(), warp = threadIdx.x / 32;
  u32 sum = value;
#pragma unroll
  for (u32 d = 1; d < 32; d *= 2) {
    const u32 left = __shfl_up_sync(0xffffffffu, sum, d);
    if (lane >= d) sum += left;
  }
  if (lane == 31) sWarp[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    u32 all = sWarp[lane];
#pragma unroll
    for (u32 d = 1; d < 32; d *= 2) {
      const u32 left = __shfl_up_sync(0xffffffffu, all, d);
      if (lane >= d) all += left;
    }
    sWarp[lane] = all;
  }
  __syncthreads();
  total = sWarp[31];
  const u32 before = warp == 0 ? 0 : sWarp[warp - 1];
  __syncthreads();
  return before + sum - value;
}
