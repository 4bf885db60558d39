// Thin wrappers of the PTX instructions that the Hopper kernels use: barriers, the bulk copy engine,
// tensor-core descriptors, register hand-over. One function an instruction, no policy and no classes.
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

// ---------------------------------------------------------------- mbarrier
DEVICE void barrier_init(u64* barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_address(barrier)), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine and to the other blocks of the cluster.
DEVICE void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

DEVICE void barrier_expect_bytes(u64* barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_address(barrier)), "r"(bytes)
               : "memory");
}

DEVICE void barrier_arrive(u64* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_address(barrier)) : "memory");
}

// Arrives at the barrier that lies at the same offset in block `rank` of the cluster. No cluster-scope release:
// it would flush (measured: a third of the speed), and what these barriers guard is read by wgmma, which has ended.
DEVICE void barrier_arrive_at(u64* barrier, u32 rank) {
  asm volatile(
      "{\n .reg .b32 remote;\n mapa.shared::cluster.u32 remote, %0, %1;\n"
      " mbarrier.arrive.shared::cluster.b64 _, [remote];\n}\n" ::"r"(smem_address(barrier)),
      "r"(rank)
      : "memory");
}

DEVICE bool barrier_try_wait(u64* barrier, u32 parity) {
  u32 done;
  asm volatile(
      "{\n .reg .pred p;\n mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}\n"
      : "=r"(done)
      : "r"(smem_address(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}

// Whether a wait would return at once.
DEVICE bool barrier_test(u64* barrier, u32 parity) {
  u32 done;
  asm volatile(
      "{\n .reg .pred p;\n mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}\n"
      : "=r"(done)
      : "r"(smem_address(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}

DEVICE void barrier_wait(u64* barrier, u32 parity) {
  while (!barrier_try_wait(barrier, parity)) {
  }
}

// ---------------------------------------------------------------- other barriers
DEVICE void named_barrier_sync(u32 id, u32 threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// For warps that wait in different branches: `bar.sync` promises that all who wait execute the same instruction, and
// compute-sanitizer reports those who do not as divergent. One waiting side and one that arrives needs no such promise.
DEVICE void named_barrier_sync_apart(u32 id, u32 threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Whether `mine` holds in any of the threads.
DEVICE bool named_barrier_any(u32 id, u32 threads, bool mine) {
  u32 found;
  asm volatile("{\n .reg .pred p, q;\n setp.ne.u32 p, %1, 0;\n bar.red.or.pred q, %2, %3, p;\n selp.u32 %0, 1, 0, q;\n}\n"
               : "=r"(found)
               : "r"(u32(mine)), "r"(id), "r"(threads)
               : "memory");
  return found != 0;
}

// With ARRIVALS_WAIT, a constant for compute-sanitizer alone, a wait: racecheck does not see what an arrival orders.
DEVICE void named_barrier_arrive(u32 id, u32 threads) {
#ifdef ARRIVALS_WAIT
  named_barrier_sync_apart(id, threads);
  return;
#endif
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
DEVICE void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

// Only "everybody came here", no order of memory: spares the flush that the release form costs.
DEVICE void cluster_sync_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}

// Ordinary shared-memory writes before it are seen by tensor cores and copy engine after it.
DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---------------------------------------------------------------- the copy engine
// Cache hints are the encoded policies of createpolicy.fractional.L2 with fraction 1.
constexpr u64 kEvictNormal = 0x1000000000000000ull;
constexpr u64 kEvictFirst = 0x12F0000000000000ull;
constexpr u64 kEvictLast = 0x14F0000000000000ull;

DEVICE void prefetch_tensor_map(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<u64>(map)) : "memory");
}

DEVICE void tma_load_2d(const TensorMap* map, u64* barrier, void* destination, i32 x, i32 y, u64 hint = kEvictNormal) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(smem_address(destination)),
      "l"(reinterpret_cast<u64>(map)), "r"(smem_address(barrier)), "r"(x), "r"(y), "l"(hint)
      : "memory");
}

DEVICE void tma_load_3d(const TensorMap* map, u64* barrier, void* destination, i32 x, i32 y, i32 z,
                        u64 hint = kEvictNormal) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(smem_address(destination)),
      "l"(reinterpret_cast<u64>(map)), "r"(smem_address(barrier)), "r"(x), "r"(y), "r"(z), "l"(hint)
      : "memory");
}

DEVICE void tma_load_4d(const TensorMap* map, u64* barrier, void* destination, i32 x, i32 y, i32 z, i32 w,
                        u64 hint = kEvictNormal) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(smem_address(destination)),
      "l"(reinterpret_cast<u64>(map)), "r"(smem_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(w), "l"(hint)
      : "memory");
}

// The same box lands at the same offset of every block in `blocks` (a bit mask of cluster ranks), and
// each block's barrier at that offset counts its bytes.
DEVICE void tma_multicast_2d(const TensorMap* map, u64* barrier, void* destination, i32 x, i32 y, u16 blocks,
                             u64 hint = kEvictNormal) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint"
      " [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(smem_address(destination)),
      "l"(reinterpret_cast<u64>(map)), "r"(smem_address(barrier)), "r"(x), "r"(y), "h"(blocks), "l"(hint)
      : "memory");
}

// `bytes` (a multiple of 16) as they lie in global memory.
DEVICE void bulk_load(void* destination, const void* source, u32 bytes, u64* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(smem_address(destination)),
               "l"(source), "r"(bytes), "r"(smem_address(barrier))
               : "memory");
}

// Writes a box in shared memory to global memory, what lies inside the tensor; belongs to the thread's next bulk group.
// Only where `mine`: a branch of one lane would take all that follows out of uniform registers.
DEVICE void tma_store_2d(const TensorMap* map, u32 source, i32 x, i32 y, bool mine) {
  asm volatile(
      "{\n .reg .pred p;\n setp.ne.u32 p, %4, 0;\n"
      " @p cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];\n}\n" ::"l"(reinterpret_cast<u64>(map)),
      "r"(source), "r"(x), "r"(y), "r"(u32(mine))
      : "memory");
}

// Adds a box of floats in shared memory to global memory; belongs to the thread's next bulk group.
DEVICE void add_tile_3d(const TensorMap* map, u32 source, i32 x, i32 y, i32 z) {
  asm volatile("cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(
                   reinterpret_cast<u64>(map)),
               "r"(source), "r"(x), "r"(y), "r"(z)
               : "memory");
}

// Brings a box into the L2.
DEVICE void prefetch_tile_3d(const TensorMap* map, i32 x, i32 y, i32 z) {
  asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global.tile [%0, {%1, %2, %3}];" ::"l"(reinterpret_cast<u64>(map)),
               "r"(x), "r"(y), "r"(z)
               : "memory");
}

DEVICE void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until all but the newest `kPending` groups of this thread have read their shared memory.
template <u32 kPending>
DEVICE void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

DEVICE void bulk_wait_all() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// ---------------------------------------------------------------- copies by threads
// 16 bytes from global to shared memory without a register; `bytes` 0 writes zeros. Asynchronous.
DEVICE void copy_16(u32 destination, const void* source, u32 bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(bytes)
               : "memory");
}

// Arrives once when all earlier copies of this thread have landed.
DEVICE void copies_arrive(u64* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(smem_address(barrier)) : "memory");
}

DEVICE void copies_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Brings `bytes` (a multiple of 16) into the L2.
DEVICE void prefetch_l2(const void* source, u32 bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(source), "r"(bytes) : "memory");
}

// Brings the line of 128 bytes that holds `source` into the L2.
DEVICE void prefetch_line_l2(const void* source) { asm volatile("prefetch.global.L2 [%0];" ::"l"(source) : "memory"); }

// Volatile to the assembler too: else it moves loads that are issued early down to their use, behind other volatile work.
DEVICE uint4 load_early(const void* source) {
  uint4 v;
  asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(source)
               : "memory");
  return v;
}

// ---------------------------------------------------------------- shared memory
// Stores four 8x8 tiles of 16-bit values; lane i gives the address of row i % 8 of tile i / 8.
DEVICE void stmatrix_x4(u32 address, u32 a, u32 b, u32 c, u32 d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b),
               "r"(c), "r"(d)
               : "memory");
}

DEVICE void stmatrix_x2(u32 address, u32 a, u32 b) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(a), "r"(b) : "memory");
}

DEVICE void ldmatrix_x4(u32 address, u32& a, u32& b, u32& c, u32& d) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"(address)
               : "memory");
}

DEVICE void stmatrix_x4_transposed(u32 address, u32 a, u32 b, u32 c, u32 d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}

DEVICE void ldmatrix_x4_transposed(u32 address, u32 (&m)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address)
               : "memory");
}

// Volatile, so that it stays where it is written between tensor-core instructions.
DEVICE float load_shared_float(u32 address) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(address) : "memory");
  return v;
}

DEVICE float2 load_shared_float2(u32 address) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address) : "memory");
  return v;
}

DEVICE float4 load_shared_float4(u32 address) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

DEVICE void store_shared_float2(u32 address, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(x), "f"(y) : "memory");
}

// Keeps its place among other volatile accesses.
DEVICE void store_in_order(u32 address, uint4 v) {
  asm volatile("st.volatile.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// Adds to two neighbouring floats in global memory, 8-byte aligned.
DEVICE void add_global_pair(float* address, float x, float y) {
  asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(address), "f"(x), "f"(y) : "memory");
}

// Writes to block `rank` of the cluster at the offset that `address` has here.
DEVICE void store_cluster_float4(u32 address, u32 rank, float x, float y, float z, float w) {
  asm volatile(
      "{\n .reg .b32 remote;\n mapa.shared::cluster.u32 remote, %0, %1;\n"
      " st.shared::cluster.v4.f32 [remote], {%2, %3, %4, %5};\n}\n" ::"r"(address),
      "r"(rank), "f"(x), "f"(y), "f"(z), "f"(w)
      : "memory");
}

// Reads from block `rank` of the cluster at the offset that `address` has here.
DEVICE float4 load_cluster_float4(u32 address, u32 rank) {
  float4 v;
  asm volatile(
      "{\n .reg .b32 remote;\n mapa.shared::cluster.u32 remote, %4, %5;\n"
      " ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [remote];\n}\n"
      : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
      : "r"(address), "r"(rank)
      : "memory");
  return v;
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

// ---------------------------------------------------------------- flags between blocks of the grid
// What this block has written before, by any thread that has met the caller at a barrier, is seen by who awaits the flag.
DEVICE void set_flag(u64* flag, u64 value) {
  asm volatile("fence.acq_rel.gpu;\n st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(flag), "l"(value) : "memory");
}

// Waits until the flag is set to `value`, and clears it.
DEVICE void await_flag(u64* flag, u64 value) {
  u64 found;
  do asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(found) : "l"(flag) : "memory");
  while (found != value);
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(flag), "l"(0ull) : "memory");
}

// ---------------------------------------------------------------- programmatic dependent launch
DEVICE void wait_for_previous_kernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
DEVICE void let_next_kernel_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// ---------------------------------------------------------------- numbers
// Two floats as packed bf16, the first in the low half.
DEVICE u32 pack_bf16(float low, float high) {
  u32 packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

DEVICE u32 pack_fp16(float low, float high) {
  u32 packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// Two pairs of fp16 as four floats.
DEVICE float4 floats_of_fp16(u32 pair0, u32 pair1) {
  float4 v;
  asm("{\n .reg .b16 a, b, c, d;\n mov.b32 {a, b}, %4;\n mov.b32 {c, d}, %5;\n cvt.f32.f16 %0, a;\n cvt.f32.f16 %1, b;\n cvt.f32.f16 %2, c;\n"
      " cvt.f32.f16 %3, d;\n}\n"
      : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
      : "r"(pair0), "r"(pair1));
  return v;
}

// Eight bf16 as eight fp16.
DEVICE uint4 fp16_of_bf16(uint4 v) {
  u32 x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (u32 i = 0; i < 4; ++i) x[i] = pack_fp16(__uint_as_float(x[i] << 16), __uint_as_float(x[i] & 0xffff0000u));
  return make_uint4(x[0], x[1], x[2], x[3]);
}

// Two floats as e4m3, the first in the low byte; and back, as two fp16.
DEVICE u16 pack_e4m3(float low, float high) {
  u16 packed;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  return packed;
}
DEVICE u32 fp16_of_e4m3(u16 packed) {
  u32 wide;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(wide) : "h"(packed));
  return wide;
}
DEVICE u16 e4m3_of_fp16(u32 wide) {
  u16 packed;
  asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;" : "=h"(packed) : "r"(wide));
  return packed;
}
DEVICE u32 subtract_fp16(u32 a, u32 b) {
  u32 difference;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(difference) : "r"(a), "r"(b));
  return difference;
}
DEVICE u32 multiply_fp16(u32 a, u32 b) {
  u32 product;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
  return product;
}

// Four e4m3 values as two packed fp16 pairs, scaled.
DEVICE void widen(u32 four, u32 scale, u32& pair0, u32& pair1) {
  asm("{\n .reg .b16 low, high;\n .reg .b32 x, y;\n mov.b32 {low, high}, %2;\n cvt.rn.f16x2.e4m3x2 x, low;\n"
      " cvt.rn.f16x2.e4m3x2 y, high;\n mul.rn.f16x2 %0, x, %3;\n mul.rn.f16x2 %1, y, %3;\n}\n"
      : "=r"(pair0), "=r"(pair1)
      : "r"(four), "r"(scale));
}

DEVICE float infinity() { return __int_as_float(0x7f800000); }

DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

DEVICE float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
