// Thin wrappers of the PTX instructions that the Hopper kernels use: barriers, the bulk copy engine,
// tensor cores, register hand-over. One function an instruction, no policy and no classes.
// Everything here is valid for sm_90a only. No standard header is included, so that NVRTC needs no path.
#pragma once

#define DEVICE __device__ __forceinline__

#include "plain.cuh"

// The 128 bytes that cuTensorMapEncodeTiled fills on the host; kernels take it as a __grid_constant__.
struct alignas(64) TensorMap {
  u64 opaque[16];
};

// ---------------------------------------------------------------- identity
DEVICE u32 smem_address(const void* pointer) { return static_cast<u32>(__cvta_generic_to_shared(pointer)); }

DEVICE u32 lane_index() { return threadIdx.x & 31; }

// The same value in all lanes, which the compiler can then keep in a uniform register.
DEVICE u32 warp_index() { return __shfl_sync(0xffffffffu, threadIdx.x / 32, 0); }

DEVICE u32 cluster_rank() {
  u32 rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

DEVICE bool elect_one() {
  u32 elected;
  asm volatile(
      "{\n .reg .pred p;\n elect.sync _|p, 0xffffffff;\n selp.u32 %0, 1, 0, p;\n}\n" : "=r"(elected));
  return elected != 0;
}

// ---------------------------------------------------------------- tensor cores
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving reads or writes of an accumulator across a wgmma in flight.
template <int kCount>
DEVICE void pin_registers(float (&r)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(r[i])::"memory");
}

// The compiler forgets what it knows of x: what is computed from it is computed here, not kept from before a loop.
DEVICE void forget(u32& x) { asm volatile("" : "+r"(x)); }

// base + index * kBytes in one instruction.
template <u32 kBytes>
DEVICE const u8* row_address(const u8* base, u32 index) {
  u64 address;
  asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(address) : "r"(index), "n"(kBytes), "l"(base));
  return reinterpret_cast<const u8*>(address);
}

template <u32 kRegisters>
DEVICE void registers_grow() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <u32 kRegisters>
DEVICE void registers_shrink() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---------------------------------------------------------------- programmatic dependent launch
DEVICE void wait_for_previous_kernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
DEVICE void let_next_kernel_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

#include "barriers.cuh"
#include "copies.cuh"
#include "memory.cuh"
#include "numbers.cuh"
