// MLA decode over a paged cache of bf16 or fp16 rows (see attend.cuh): keys come by the copy engine, page by page.
// One load warp serves each half of each buffer, so that no load waits behind another.
//
// Compile-time constant beside those of attend.cuh: BOX, cache rows that a copy brings: at most a page.
#include "attend.cuh"

constexpr u32 kShare = kKeys / CLUSTER;   // key rows of a block that this block of the cluster loads
// A load warp of small boxes holds several page numbers at once.
constexpr u32 kLoadRegisters = BOX == 16 ? 56 : 40, kMathRegisters = BOX == 16 ? 224 : 232;
static_assert(kLoadRegisters + 2 * kMathRegisters <= 504, "what 384 threads get at launch: growing past it waits forever");
static_assert(kShare % BOX == 0, "a share is whole boxes");

// ---------------------------------------------------------------- load
// Warp `index` of the load group serves buffer index / 2, half index % 2.
DEVICE void load_keys(const Arguments& p, Shared& s, const TensorMap& map_q, const TensorMap& map_k, u32 index, u32 rank) {
  const u32 buffer = index / 2, half = index % 2, kv_head = blockIdx.y;
  Walk walk(p);
  Segment segment{};
  u32 parity = 1, parity_q = 1;
  while (walk.next(p, segment)) {
    if (segment.begin >= segment.end) continue;
    if (index == 0) load_query(s, map_q, segment.request, parity_q);
    const i32* gPages = p.gPages + u64(segment.request) * p.pages_max;
    for (u32 block = segment.begin + buffer; block < segment.end; block += 2, parity ^= 1) {
      const u32 first_key = block * kKeys, keys = smaller(kKeys, segment.length - first_key);
      const u32 boxes_all = ceil_div(keys, BOX);  // boxes of the whole cluster; the rest of the block stays stale
      i32 pages[kShare / BOX];
#pragma unroll
      for (u32 i = 0; i < kShare / BOX; ++i) {
        const u32 box = rank * (kShare / BOX) + i;
        const u32 page = (first_key + box * BOX) / p.page;  // may lie past the end: read, and not used
        pages[i] = page < p.pages_max ? __ldg(gPages + page) : 0;
      }
      barrier_wait(&s.empty[buffer][half], parity);
      for (u32 i = 0; i < 4 + (half == 0); ++i) {
        const u32 tile = i == 4 ? kValueTiles : half * 4 + i;
        u64* full = &s.full[buffer][tile];
        barrier_expect_bytes(full, boxes_all * BOX * 128);
#pragma unroll
        for (u32 j = 0; j < kShare / BOX; ++j) {
          const u32 box = rank * (kShare / BOX) + j;
          if (box >= boxes_all) break;
          u8* destination = s.sK[buffer][tile] + box * BOX * 128;
          const i32 offset = (first_key + box * BOX) % p.page;
          if constexpr (CLUSTER > 1) tma_multicast_4d(&map_k, full, destination, tile * 64, kv_head, offset, pages[j], (1 << CLUSTER) - 1, kEvictFirst);
          else tma_load_4d(&map_k, full, destination, tile * 64, kv_head, offset, pages[j], kEvictFirst);
        }
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    mla_dense_decode(const __grid_constant__ TensorMap map_q, const __grid_constant__ TensorMap map_k, const __grid_constant__ Arguments p) {
  extern __shared__ __align__(1024) u8 memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  const u32 warp = warp_index();
  const u32 rank = CLUSTER > 1 ? cluster_rank() : 0;
  if (warp == 0 && elect_one()) {
    prefetch_tensor_map(&map_q);
    prefetch_tensor_map(&map_k);
    init_barriers(s);
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  __syncthreads();
  if constexpr (CLUSTER > 1) cluster_sync_relaxed();
  if (warp >= 8) {
    registers_shrink<kLoadRegisters>();
    if (elect_one()) load_keys(p, s, map_q, map_k, warp - 8, rank);
    __syncwarp();
  } else {
    registers_grow<kMathRegisters>();
    if (warp < 4) attend<0>(p, s);
    else attend<1>(p, s);
  }
  if constexpr (CLUSTER > 1) cluster_sync_relaxed();
}
