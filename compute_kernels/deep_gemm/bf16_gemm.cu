// out[m, n] = A . B^T in bf16 with float32 sums, which stay in registers over all of K.
//
// One warpgroup loads, one or two multiply. A stage is 64 values of K: for an operand contiguous along K one row of the
// 128-byte swizzle; for one contiguous along its other axis, boxes of 64 of those by 64 rows of K.
//
// Compile-time constants beside those of gemm.cuh: A_MN, B_MN (1: the operand is contiguous along M or N),
// OUT_FLOAT (0: bf16; 1: float32, added to what is there), BLOCKS_PER_SM
#include "gemm.cuh"

constexpr u32 kBlockK = 64, kSteps = kBlockK / 16, kBoxBytes = 64 * 128;
constexpr u32 kBytesA = kBlockM * kBlockK * 2, kBytesB = kBlockN * kBlockK * 2, kStageBytes = kBytesA + kBytesB;
constexpr u32 kLoadRegisters = 40, kMathRegisters = 232;  // with two math groups

static_assert(SPLIT_K == 1 && CLUSTER == 1, "every block makes whole tiles on its own");
static_assert(LAYOUT != kKGrouped || (A_MN && B_MN && OUT_FLOAT), "the groups' K is the outer axis of both; empty groups keep what is there");
static_assert(!B_MN || kBlockN % 64 == 0, "boxes of 64 columns");

#if A_MN && B_MN
#define MULTIPLY wgmma_bf16_at_bt
#elif A_MN
#define MULTIPLY wgmma_bf16_at
#elif B_MN
#define MULTIPLY wgmma_bf16_bt
#else
#define MULTIPLY wgmma_bf16
#endif

struct Shared {
  u8* stages;         // STAGES x (A tile, B tile), each in 128-byte swizzle
  u8* staging;        // a small transpose area for each math warp
  u64 *full, *empty;  // one barrier a stage
};

// The K blocks of a tile; for kKGrouped counted over all groups.
DEVICE u32 first_block(const Problem& p, const Tile& tile) { return LAYOUT == kKGrouped ? p.sFirstBlock[tile.group] : 0; }
DEVICE u32 block_count(const Problem& p, const Tile& tile) {
  return LAYOUT == kKGrouped ? p.sFirstBlock[tile.group + 1] - p.sFirstBlock[tile.group] : p.k_blocks;
}

// ---------------------------------------------------------------- load
// `rows` rows of an operand from `row`, K from `k`; `first_k` is where its group's K begins if K is the outer axis.
template <u32 kMajorMn, u32 kRows>
DEVICE void load_operand(const TensorMap& map, u64* full, u8* sTo, u32 row, u32 k, u32 first_k, u64 hint) {
  if constexpr (kMajorMn) {
#pragma unroll
    for (u32 box = 0; box < kRows / 64; ++box) tma_load_2d(&map, full, sTo + box * kBoxBytes, row + box * 64, first_k + k, hint);
  } else {
    tma_load_2d(&map, full, sTo, k, row, hint);
  }
}

DEVICE void load_tiles(const Problem& p, const Shared& s, const TensorMap& map_a, const TensorMap& map_b) {
  Scheduler scheduler;
  Ring ring;
  const u32 total = scheduler.count(p);
  for (u32 index = blockIdx.x; index < total; index += gridDim.x) {
    const Tile tile = scheduler.at(p, index, 0);
    if (tile.skip) continue;
    const u32 row_b = B_MN ? tile.column : tile.group * p.n + tile.column;
    const u32 first_k = LAYOUT == kKGrouped ? first_block(p, tile) * kBlockK : B_MN ? tile.group * p.k : 0;
    const u32 first_k_a = LAYOUT == kKGrouped ? first_k : 0, blocks = block_count(p, tile);
    for (u32 kb = 0; kb < blocks; ++kb, ring.next()) {
      barrier_wait(s.empty + ring.stage, ring.parity ^ 1);
      u64* full = s.full + ring.stage;
      barrier_expect_bytes(full, kStageBytes);
      u8* sA = s.stages + ring.stage * kStageBytes;
      load_operand<A_MN, kBlockM>(map_a, full, sA, tile.row, kb * kBlockK, first_k_a, kEvictNormal);
      load_operand<B_MN, kBlockN>(map_b, full, sA + kBytesA, row_b, kb * kBlockK, first_k, kEvictNormal);
    }
  }
}

// ---------------------------------------------------------------- multiply
template <u32 kGroup>
DEVICE void multiply_tile(const Shared& s, Ring& ring, Sum (&rSum)[WAVES], u32 blocks) {
  Ring before = ring;
  for (u32 kb = 0; kb < blocks; ++kb) {
    barrier_wait(s.full + ring.stage, ring.parity);
    const u32 sA = smem_address(s.stages + ring.stage * kStageBytes), sB = sA + kBytesA;
    const u64 b = B_MN ? mn_major_descriptor(sB, kBoxBytes) : k_major_descriptor(sB);
    wgmma_fence();
#pragma unroll
    for (u32 w = 0; w < WAVES; ++w) {
      const u32 wave = sA + (kGroup * WAVES + w) * kBoxBytes;  // 64 rows are 8 KiB either way
      const u64 a = A_MN ? mn_major_descriptor(wave, kBoxBytes) : k_major_descriptor(wave);
      if (kb == 0) pin_registers(rSum[w]);
#pragma unroll
      for (u32 step = 0; step < kSteps; ++step)
        MULTIPLY(rSum[w], a + step * (A_MN ? 128 : 2), b + step * (B_MN ? 128 : 2), kb + step != 0);
    }
    wgmma_commit();
    wgmma_wait<1>();  // the products of the stage before have ended
    if (kb > 0) release(s.empty + before.stage);
    before = ring;
    ring.next();
  }
  wgmma_wait<0>();
  release(s.empty + before.stage);
#pragma unroll
  for (u32 w = 0; w < WAVES; ++w) pin_registers(rSum[w]);
}

// ---------------------------------------------------------------- kernel
template <u32 kGroup>
DEVICE void multiply_tiles(const Problem& p, const Shared& s, void* gOut) {
  Scheduler scheduler;
  Ring ring;
  const u32 total = scheduler.count(p), warp = threadIdx.x / 32 % 4;
  for (u32 index = blockIdx.x; index < total; index += gridDim.x) {
    const Tile tile = scheduler.at(p, index, 0);
    const u32 blocks = block_count(p, tile);
    if (tile.skip || blocks == 0) continue;
    Sum rSum[WAVES];
    multiply_tile<kGroup>(s, ring, rSum, blocks);
#pragma unroll
    for (u32 w = 0; w < WAVES; ++w) {
      const u32 row = tile.row + (kGroup * WAVES + w) * 64 + warp * 16;
      if constexpr (OUT_FLOAT) add_wave(rSum[w], static_cast<float*>(gOut) + (LAYOUT == kKGrouped ? u64(tile.group) * p.rows * p.n : 0), p, row, tile.row_end, tile.column);
      else store_wave(rSum[w], smem_address(s.staging + (kGroup * 4 + warp) * kStagingBytes), static_cast<u16*>(gOut), p, row, tile.row_end, tile.column);
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, BLOCKS_PER_SM)
    bf16_gemm(const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b, void* gOut,
              const i32* gGroups, u32 rows, u32 n, u32 k, u32 groups, u32 raster) {
  extern __shared__ __align__(1024) u8 memory[];
  Shared s;
  s.stages = memory;
  s.staging = memory + STAGES * kStageBytes;
  s.full = reinterpret_cast<u64*>(s.staging + MATH_GROUPS * 4 * kStagingBytes);
  s.empty = s.full + STAGES;
  u32* sFirstBlock = reinterpret_cast<u32*>(s.empty + STAGES);
  const Problem p{rows, n, ceil_div(k, kBlockK), groups, raster, gGroups, sFirstBlock, k};
  const u32 warp = warp_index();
  if (warp == 0 && elect_one()) {
    prefetch_tensor_map(&map_a);
    prefetch_tensor_map(&map_b);
    for (u32 i = 0; i < STAGES; ++i) {
      barrier_init(s.full + i, 1);
      barrier_init(s.empty + i, MATH_GROUPS * 4);
    }
    barrier_init_fence();
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  if constexpr (LAYOUT == kMasked || LAYOUT == kKGrouped) {
    if (warp == 1) count_blocks(p, sFirstBlock, LAYOUT == kMasked ? kBlockM : kBlockK);
  }
  __syncthreads();
  if (threadIdx.x >= kMathThreads) {
    if constexpr (MATH_GROUPS == 2) registers_shrink<kLoadRegisters>();
    if (warp == MATH_GROUPS * 4) {
      if (elect_one()) load_tiles(p, s, map_a, map_b);
      __syncwarp();
    }
  } else {
    if constexpr (MATH_GROUPS == 2) registers_grow<kMathRegisters>();
    if (MATH_GROUPS == 1 || warp < 4) multiply_tiles<0>(p, s, gOut);
    else multiply_tiles<MATH_GROUPS - 1>(p, s, gOut);
  }
}
