// Two warpgroups that exchange values in the ways of the attention kernels, for compute-sanitizer to look at.
//   FORM 0  both wait at one barrier, in two branches, with the aligned instruction
//   FORM 1  the same with the instruction that need not be the same one
//   FORM 2  each arrives at the other's barrier and waits at its own
//   FORM 3  by turns, as in a pair of key blocks: the first's values, then the second's; one waits while the other arrives
// A launch may have a third warpgroup, which leaves at once, as loaders do before the end.
#include "ptx.cuh"

constexpr u32 kAll = 256, kRounds = 4;

struct Shared {
  float sValues[2][2][128];  // [parity][warpgroup]: one may still be read while the next is written
};

template <u32 kGroup>
DEVICE float exchange(Shared& s, u32 parity, float own) {
  const u32 thread = threadIdx.x % 128;
  if (FORM == 3 && kGroup == 1) named_barrier_sync(1, kAll);
  s.sValues[parity][kGroup][thread] = own;
  __syncwarp();
  if constexpr (FORM == 0) {
    named_barrier_sync(1, kAll);
  } else if constexpr (FORM == 1) {
    named_barrier_sync_apart(1, kAll);
  } else if constexpr (FORM == 2) {
    named_barrier_arrive(2 - kGroup, kAll);
    named_barrier_sync(1 + kGroup, kAll);
  } else if constexpr (kGroup == 0) {
    named_barrier_arrive(1, kAll);
    named_barrier_sync(2, kAll);
  } else {
    named_barrier_arrive(2, kAll);
  }
  return s.sValues[parity][1 - kGroup][127 - thread];
}

template <u32 kGroup>
DEVICE void rounds(Shared& s, float* gOut) {
  float x = float(threadIdx.x);
#pragma unroll 1
  for (u32 i = 0; i < kRounds; ++i) x = x * 0.5f + exchange<kGroup>(s, i % 2, x);
  gOut[threadIdx.x] = x;
}

extern "C" __global__ void __launch_bounds__(kAll + 128) barriers(float* gOut) {
  __shared__ Shared s;
  if (warp_index() >= 8) return;
  if (warp_index() < 4) rounds<0>(s, gOut);
  else rounds<1>(s, gOut);
}
