// out[g][m, n] += sum over K blocks b of group g of  scale_a[b, m] * scale_b[b, n] * (A_g[m, b] . B_g[n, b])
//
// The weight gradient: both sides have one scale for each row and 128 values of K, and the float32 output is added to.
// The structure is that of fp8_gemm.cu (one warpgroup loads, two multiply by turns, a K block's sum is short and is
// promoted); here each column has its own scale too, so promotion costs twice as much. Groups share m and n and differ
// in K, so each has its own tensor maps: all of them travel as kernel arguments, and one launch serves all groups.
//
// Compile-time constants beside those of gemm.cuh and fp8_steps.cuh: GROUPS, the most groups the arguments hold.
#include "fp8_steps.cuh"

constexpr u32 kBytesA = kBlockM * kBlockK, kBytesB = kBlockN * kBlockK, kTileBytes = kBytesA + kBytesB;
constexpr u32 kScales = kBlockM + kBlockN, kStageBytes = kTileBytes + kScales * 4;
constexpr u32 kLoadRegisters = 24, kMathRegisters = 240;
static_assert(SPLIT_K == 1 && CLUSTER == 1 && MATH_GROUPS == 2, "");

struct Arguments {
  TensorMap scale_a, scale_b;           // [all K blocks, m] and [all K blocks, n]
  TensorMap a[GROUPS], b[GROUPS];       // [m, k of the group], [n, k of the group]
  u32 first_block[GROUPS + 1];          // running sum of K blocks
  u32 m, n, groups, raster;
  float* gOut;                          // [groups, m, n]
};

struct Shared {
  u8* tiles;        // STAGES x (A tile, B tile)
  float* sScales;   // STAGES x (scales of A's rows, of B's rows)
  u64 *full, *empty;
};

struct Work {
  Tile tile;
  u32 begin, end;  // K blocks, counted over all groups
};

DEVICE Work work_at(const Arguments& p, const Problem& one, u32 tiles, u32 index) {
  const u32 group = index / tiles;
  Scheduler scheduler;
  Work work{scheduler.at(one, index - group * tiles, 0), p.first_block[group], p.first_block[group + 1]};
  work.tile.group = group;
  return work;
}

DEVICE void load_tiles(const Arguments& p, const Problem& one, const Shared& s) {
  Ring ring;
  const u32 tiles = Scheduler().count(one), total = tiles * p.groups;
  for (u32 index = blockIdx.x; index < total; index += gridDim.x) {
    const Work work = work_at(p, one, tiles, index);
    for (u32 kb = work.begin; kb < work.end; ++kb, ring.next()) {
      barrier_wait(s.empty + ring.stage, ring.parity ^ 1);
      u64* full = s.full + ring.stage;
      barrier_expect_bytes(full, kStageBytes);
      u8* sA = s.tiles + ring.stage * kTileBytes;
      float* sScale = s.sScales + ring.stage * kScales;
      const i32 x = (kb - work.begin) * kBlockK;
      tma_load_2d(&p.a[work.tile.group], full, sA, x, work.tile.row);
      tma_load_2d(&p.b[work.tile.group], full, sA + kBytesA, x, work.tile.column);
      tma_load_2d(&p.scale_a, full, sScale, work.tile.row, kb);
      tma_load_2d(&p.scale_b, full, sScale + kBlockM, work.tile.column, kb);
    }
  }
}

// rSum += row scale x column scale x rPartial. `sColumns` are the scales of this thread's first two columns.
DEVICE void promote(Sum& rSum, const Sum& rPartial, float low, float high, u32 sColumns) {
#pragma unroll
  for (u32 j = 0; j < kBlockN / 8; ++j) {
    const float2 column = load_shared_float2(sColumns + j * 32);
    rSum[4 * j + 0] += low * column.x * rPartial[4 * j + 0];
    rSum[4 * j + 1] += low * column.y * rPartial[4 * j + 1];
    rSum[4 * j + 2] += high * column.x * rPartial[4 * j + 2];
    rSum[4 * j + 3] += high * column.y * rPartial[4 * j + 3];
  }
}

template <u32 kGroup>
DEVICE void multiply_tile(const Shared& s, Ring& ring, Sum (&rSum)[WAVES], u32 blocks) {
  const u32 row = kGroup * WAVES * 64 + (threadIdx.x / 32 % 4) * 16 + lane_index() / 4;
  Sum rPartial;
#pragma unroll
  for (u32 w = 0; w < WAVES; ++w)
#pragma unroll
    for (u32 i = 0; i < kBlockN / 2; ++i) rSum[w][i] = 0.f;
  for (u32 kb = 0; kb < blocks; ++kb, ring.next()) {
    barrier_wait(s.full + ring.stage, ring.parity);
    const u32 a = smem_address(s.tiles + ring.stage * kTileBytes), b = a + kBytesA;
    const u32 sScale = smem_address(s.sScales + ring.stage * kScales);
#pragma unroll
    for (u32 w = 0; w < WAVES; ++w) {
      multiply_wave<kGroup>(rPartial, k_major_descriptor(a + (kGroup * WAVES + w) * 64 * kBlockK), k_major_descriptor(b));
      const float low = load_shared_float(sScale + (row + w * 64) * 4), high = load_shared_float(sScale + (row + w * 64 + 8) * 4);
      finish_wave<kGroup>(rPartial);
      promote(rSum[w], rPartial, low, high, sScale + (kBlockM + lane_index() % 4 * 2) * 4);
    }
    release(s.empty + ring.stage);
  }
}

template <u32 kGroup>
DEVICE void multiply_tiles(const Arguments& p, const Problem& one, const Shared& s) {
  Ring ring;
  const u32 tiles = Scheduler().count(one), total = tiles * p.groups;
  if (TURNS > 0 && kGroup == 1) named_barrier_arrive(2, kMathThreads);  // the first warpgroup begins
  for (u32 index = blockIdx.x; index < total; index += gridDim.x) {
    const Work work = work_at(p, one, tiles, index);
    if (work.begin == work.end) continue;
    Sum rSum[WAVES];
    multiply_tile<kGroup>(s, ring, rSum, work.end - work.begin);
    float* gOut = p.gOut + u64(work.tile.group) * p.m * p.n;
#pragma unroll
    for (u32 w = 0; w < WAVES; ++w)
      add_wave(rSum[w], gOut, one, work.tile.row + (kGroup * WAVES + w) * 64 + (threadIdx.x / 32 % 4) * 16, p.m, work.tile.column);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1) fp8_wgrad(const __grid_constant__ Arguments p) {
  extern __shared__ __align__(1024) u8 memory[];
  Shared s;
  s.tiles = memory;
  s.sScales = reinterpret_cast<float*>(memory + STAGES * kTileBytes);
  s.full = reinterpret_cast<u64*>(s.sScales + STAGES * kScales);
  s.empty = s.full + STAGES;
  const Problem one{p.m, p.n, 0, 1, p.raster, nullptr, nullptr};
  const u32 warp = warp_index();
  if (warp == 0 && elect_one()) {
    prefetch_tensor_map(&p.scale_a);
    prefetch_tensor_map(&p.scale_b);
    for (u32 i = 0; i < STAGES; ++i) {
      barrier_init(s.full + i, 1);
      barrier_init(s.empty + i, MATH_GROUPS * 4);
    }
    barrier_init_fence();
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  __syncthreads();
  if (threadIdx.x >= kMathThreads) {
    registers_shrink<kLoadRegisters>();
    if (warp == MATH_GROUPS * 4) {
      if (elect_one()) load_tiles(p, one, s);
      __syncwarp();
    }
  } else {
    registers_grow<kMathRegisters>();
    if (warp < 4) multiply_tiles<0>(p, one, s);
    else multiply_tiles<1>(p, one, s);
  }
}
