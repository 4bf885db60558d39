// The group of each row, -1 for rows of nobody, where only the ends of the groups are given: a group begins at the next
// multiple of `step` after the end of the one before.
//
// Compile-time constant: THREADS of a block, a row each
#include "ptx.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) group_ids(const i32* gEnds, i32* gIds, u32 rows, u32 groups, u32 step) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const u32 row = blockIdx.x * THREADS + threadIdx.x;
  if (row >= rows) return;
  u32 low = 0, high = groups;  // the first group that ends behind the row
  while (low < high) {
    const u32 middle = (low + high) / 2;
    if (gEnds[middle] > i32(row)) high = middle;
    else low = middle + 1;
  }
  const u32 start = low == 0 ? 0 : ceil_div(u32(gEnds[low - 1]), step) * step;
  gIds[row] = low < groups && row >= start ? i32(low) : -1;
}
