// Part of ptx.cuh: who waits for whom, from a warp to the grid.
#pragma once

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
