// Part of ptx.cuh: memory to shared memory and back, by the copy engine or by threads.
#pragma once

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
