// MLA decode over a paged cache of bf16 or fp16 rows (see attend.cuh): keys come by the copy engine, page by page.
// One load warp serves each half of each buffer, so that no load waits behind another.
//
// Compile-time constants beside those of tile.cuh:
//   BOX    cache rows that a copy brings: at most a page
//   FUSED  1: requests in pieces are put together here (see fused.cuh); 0: by the kernel that follows
#include "attend.cuh"
#if FUSED
#include "fused.cuh"
#define FUSED_ARGUMENT , const __grid_constant__ Fused fused
#else
#define FUSED_ARGUMENT
#endif

constexpr u32 kBoxes = kKeys / BOX;  // that a block of keys may take
// A load warp of small boxes holds several page numbers at once.
constexpr u32 kLoadRegisters = BOX == 16 ? 56 : 40, kMathRegisters = BOX == 16 ? 224 : 232;
static_assert(kLoadRegisters + 2 * kMathRegisters <= 504, "what 384 threads get at launch: growing past it waits forever");
static_assert(kKeys % BOX == 0, "a block of keys is whole boxes");

// ---------------------------------------------------------------- load
// Warp `index` of the load group serves buffer index / 2, half index % 2.
DEVICE void load_keys(const Arguments& p, Shared& s, const TensorMap& map_q, const TensorMap& map_k, u32 index) {
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
      const u32 boxes = ceil_div(keys, BOX);  // the rest of the block stays stale
      i32 pages[kBoxes];
#pragma unroll
      for (u32 j = 0; j < kBoxes; ++j) {
        const u32 page = (first_key + j * BOX) / p.page;  // may lie past the end: read, and not used
        pages[j] = page < p.pages_max ? __ldg(gPages + page) : 0;
      }
      barrier_wait(&s.empty[buffer][half], parity);
      for (u32 i = 0; i < 4 + (half == 0); ++i) {
        const u32 tile = i == 4 ? kValueTiles : half * 4 + i;
        u64* full = &s.full[buffer][tile];
        barrier_expect_bytes(full, boxes * BOX * 128);
#pragma unroll
        for (u32 j = 0; j < kBoxes; ++j) {
          if (j >= boxes) break;
          const i32 offset = (first_key + j * BOX) % p.page;
          tma_load_4d(&map_k, full, s.sK[buffer][tile] + j * BOX * 128, tile * 64, kv_head, offset, pages[j], kEvictFirst);
        }
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    mla_dense_decode(const __grid_constant__ TensorMap map_q, const __grid_constant__ TensorMap map_k, const __grid_constant__ Arguments p FUSED_ARGUMENT) {
  extern __shared__ __align__(1024) u8 memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  const u32 warp = warp_index();
  if (warp == 0 && elect_one()) {
    prefetch_tensor_map(&map_q);
    prefetch_tensor_map(&map_k);
    init_barriers(s);
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  __syncthreads();
  if (warp >= 8) {
    registers_shrink<kLoadRegisters>();
    if (elect_one()) load_keys(p, s, map_q, map_k, warp - 8);
    __syncwarp();
  } else {
    registers_grow<kMathRegisters>();
    if (warp < 4) attend<0>(p, s);
    else attend<1>(p, s);
#if FUSED
    combine(p, fused, s);
#endif
  }
}
