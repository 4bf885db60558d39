// The tensor-core part of the FP8 products: one K block of 128 values into a fresh accumulator.
//
// Compile-time constant beside those of gemm.cuh: TURNS, steps of four after which a math warpgroup hands over; 0: no turns.
#pragma once
#include "gemm.cuh"

constexpr u32 kBlockK = 128;
static_assert(TURNS < 4, "0: no turns");

// With TURNS the two warpgroups use the tensor cores strictly by turns: else they interleave, end together, and then
// both add at once while the tensor cores rest. The turn passes when TURNS of the four steps are done, so that the
// other's first step is queued before the last one ends.
template <u32 kGroup>
DEVICE void multiply_wave(Sum& rPartial, u64 a, u64 b) {
  constexpr u32 kSteps = kBlockK / 32;
  if constexpr (TURNS > 0) named_barrier_sync(2 + kGroup, kMathThreads);
  pin_registers(rPartial);
  wgmma_fence();
#pragma unroll
  for (u32 step = 0; step < kSteps; ++step) {
    wgmma_e4m3(rPartial, a + step * 2, b + step * 2, step != 0);
    if (step + 1 == TURNS || step + 1 == kSteps) wgmma_commit();
  }
}

template <u32 kGroup>
DEVICE void finish_wave(Sum& rPartial) {
  if constexpr (TURNS > 0) {
    wgmma_wait<1>();
    named_barrier_arrive(3 - kGroup, kMathThreads);
  }
  wgmma_wait<0>();
  pin_registers(rPartial);
}
