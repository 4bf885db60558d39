// out[g][m, n] += sum over K blocks b of group g of  scale_a[b, m] * scale_b[b, n] * (A_g[m, b] . B_g[n, b])
//
// The weight gradient: both sides have one scale for each row and 128 values of K, and the float32 output is added to.
// The structure is that of fp8_gemm.cu (one warpgroup loads, two multiply by turns, a K block's sum is short and is
// promoted); here each column has its own scale too, so promotion costs twice as much. Groups share m and n and differ
// in K, so each has its own tensor maps: all of them travel as kernel arguments, and one launch serves all groups.
//
// Compile-time constants beside those of gemm.cuh and fp8_steps.cuh: GROUPS, the most groups the arguments hold;
// SPLIT_TAIL, 1: blocks come in clusters of two, which share the tiles of the last round (at most one a cluster).
#include "fp8_steps.cuh"

constexpr u32 kBytesA = kBlockM * kBlockK, kBytesB = kBlockN * kBlockK, kTileBytes = kBytesA + kBytesB;
constexpr u32 kScales = kBlockM + kBlockN, kStageBytes = kTileBytes + kScales * 4;
constexpr u32 kLoadRegisters = 24, kMathRegisters = 240;
constexpr u32 kStripRows = 8;  // of the output, asked for with each K block, so that the L2 has the old values at the end
constexpr u32 kPieceBytes = 8 * 128, kPieces = 3;  // a piece: 8 rows x 32 columns on their way out; pieces of a warp
static_assert(SPLIT_K == 1 && CLUSTER == 1 && MATH_GROUPS == 2, "");
static_assert(kBlockN % 32 == 0, "whole pieces");

struct Arguments {
  TensorMap scale_a, scale_b;           // [all K blocks, m] and [all K blocks, n]
  TensorMap out, ahead;                 // [groups, m, n] float32, in pieces and in strips
  TensorMap a[GROUPS], b[GROUPS];       // [m, k of the group], [n, k of the group]
  u32 first_block[GROUPS + 1];          // running sum of K blocks
  u32 m, n, groups, raster;
};

struct Shared {
  u8* tiles;        // STAGES x (A tile, B tile)
  u8* pieces;       // kPieces for each math warp
  float* sScales;   // STAGES x (scales of A's rows, of B's rows)
  u64 *full, *empty;
};

struct Work {
  Tile tile;
  u32 group_begin, begin, end;  // K blocks, counted over all groups
  bool half;                    // of K: the other block of the cluster has the rest
};

// The tiles of a block. With SPLIT_TAIL the tiles that do not make a whole round of the grid get two blocks each.
struct Walk {
  u32 index = blockIdx.x;

  DEVICE bool next(const Arguments& p, Work& work) {
    const Problem one{p.m, p.n, 0, 1, p.raster, nullptr, nullptr};
    const u32 tiles = Scheduler().count(one), total = tiles * p.groups;
    u32 at = index;
    bool half = false;
    if constexpr (SPLIT_TAIL) {
      const u32 whole = total / gridDim.x * gridDim.x;
      half = index >= whole && index < whole + gridDim.x;
      if (half) at = whole + (index - whole) / 2;
    }
    if (at >= total) return false;
    const u32 group = at / tiles;
    Scheduler scheduler;
    work = Work{scheduler.at(one, at - group * tiles, 0), p.first_block[group], p.first_block[group], p.first_block[group + 1], half};
    work.tile.group = group;
    if (half) (index % 2 ? work.begin : work.end) = (work.begin + work.end) / 2;
    index += gridDim.x;
    return true;
  }
};

DEVICE void load_tiles(const Arguments& p, const Shared& s) {
  Ring ring;
  Walk walk;
  for (Work work; walk.next(p, work);) {
    for (u32 kb = work.begin; kb < work.end; ++kb, ring.next()) {
      barrier_wait(s.empty + ring.stage, ring.parity ^ 1);
      u64* full = s.full + ring.stage;
      barrier_expect_bytes(full, kStageBytes);
      u8* sA = s.tiles + ring.stage * kTileBytes;
      float* sScale = s.sScales + ring.stage * kScales;
      const u32 strip = (kb - work.begin) * kStripRows;
      if (strip < kBlockM) prefetch_tile_3d(&p.ahead, work.tile.column, work.tile.row + strip, work.tile.group);
      const i32 x = (kb - work.group_begin) * kBlockK;
      tma_load_2d(&p.a[work.tile.group], full, sA, x, work.tile.row);
      tma_load_2d(&p.b[work.tile.group], full, sA + kBytesA, x, work.tile.column);
      tma_load_2d(&p.scale_a, full, sScale, work.tile.row, kb);
      tma_load_2d(&p.scale_b, full, sScale + kBlockM, work.tile.column, kb);
    }
  }
}

// rSum += row scale x column scale x rPartial.
DEVICE void promote(Sum& rSum, const Sum& rPartial, float low, float high, const float2 (&columns)[kBlockN / 8]) {
#pragma unroll
  for (u32 j = 0; j < kBlockN / 8; ++j) {
    const float2 column = columns[j];
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
    ring.await(s.full);
    const u32 a = smem_address(s.tiles + ring.stage * kTileBytes), b = a + kBytesA;
    const u32 sScale = smem_address(s.sScales + ring.stage * kScales);
    float2 columns[kBlockN / 8];  // read while the products run: between two products there is no time for it
#pragma unroll
    for (u32 w = 0; w < WAVES; ++w) {
      multiply_wave<kGroup>(rPartial, k_major_descriptor(a + (kGroup * WAVES + w) * 64 * kBlockK), k_major_descriptor(b));
      wgmma_wait<2>();  // waits for nothing: keeps the assembler from moving the loads between the products
      const float low = load_shared_float(sScale + (row + w * 64) * 4), high = load_shared_float(sScale + (row + w * 64 + 8) * 4);
      if (w == 0) {
#pragma unroll
        for (u32 j = 0; j < kBlockN / 8; ++j) columns[j] = load_shared_float2(sScale + (kBlockM + j * 8 + lane_index() % 4 * 2) * 4);
      }
      if (w == WAVES - 1) ring.look_ahead(s.full);
      finish_wave<kGroup>(rPartial);
      if (w == WAVES - 1) release(s.empty + ring.stage);
      promote(rSum[w], rPartial, low, high, columns);
    }
  }
}

// Adds one warp's 16 rows to what is there, piece by piece through shared memory: the copy engine adds, nobody waits for
// the old values. Lane 0 starts every piece, so that it can wait until the copy engine has read the one before last.
DEVICE void add_pieces(const Arguments& p, const Sum& rSum, u32 pieces, u32& next, u32 row, u32 column, u32 group) {
  const u32 lane = lane_index(), r = lane / 4;
#pragma unroll
  for (u32 half = 0; half < 2; ++half) {
#pragma unroll
    for (u32 chunk = 0; chunk < kBlockN / 32; ++chunk) {
      const u32 piece = pieces + next * kPieceBytes;
      next = next + 1 == kPieces ? 0 : next + 1;
      if (lane == 0) bulk_wait_read<kPieces - 1>();
      __syncwarp();
#pragma unroll
      for (u32 j = 0; j < 4; ++j) {
        const u32 i = 4 * (chunk * 4 + j) + 2 * half;
        const u32 at = piece + r * 128 + (((j * 2 + lane % 4 / 2) ^ r) * 16) + lane % 2 * 8;
        store_shared_float2(at, rSum[i], rSum[i + 1]);
      }
      fence_proxy_async();
      __syncwarp();
      if (lane == 0) {
        add_tile_3d(&p.out, piece, column + chunk * 32, row + half * 8, group);
        bulk_commit();
      }
    }
  }
}

// Half of K each: a block keeps one wave of every warpgroup and gets the other block's sums for it, in exchange for its own
// for the rest. What is kept becomes the first. Two terms have one sum in either order, so repeats are bit for bit the same.
template <u32 kGroup>
DEVICE void exchange_halves(const Shared& s, Sum (&rSum)[WAVES], u32 rank) {
  const u32 here = smem_address(s.tiles) + threadIdx.x * 16;
  cluster_sync_relaxed();  // the other's products have read its stages
#pragma unroll
  for (u32 i = 0; i < kBlockN / 8; ++i) {
    float give[4];
#pragma unroll
    for (u32 j = 0; j < 4; ++j) {
      const float first = rSum[0][4 * i + j], second = rSum[1][4 * i + j];
      give[j] = rank == 0 ? second : first;
      rSum[0][4 * i + j] = rank == 0 ? first : second;
    }
    store_cluster_float4(here + i * kMathThreads * 16, rank ^ 1, give[0], give[1], give[2], give[3]);
  }
  cluster_sync();
#pragma unroll
  for (u32 i = 0; i < kBlockN / 8; ++i) {
    const float4 other = load_shared_float4(here + i * kMathThreads * 16);
    rSum[0][4 * i + 0] += other.x;
    rSum[0][4 * i + 1] += other.y;
    rSum[0][4 * i + 2] += other.z;
    rSum[0][4 * i + 3] += other.w;
  }
}

template <u32 kGroup>
DEVICE void multiply_tiles(const Arguments& p, const Shared& s) {
  Ring ring;
  Walk walk;
  const u32 warp = threadIdx.x / 32 % 4, pieces = smem_address(s.pieces) + (kGroup * 4 + warp) * kPieces * kPieceBytes;
  u32 next_piece = 0;
  if (TURNS > 0 && kGroup == 1) named_barrier_arrive(2, kMathThreads);  // the first warpgroup begins
  for (Work work; walk.next(p, work);) {
    if (work.group_begin == p.first_block[work.tile.group + 1]) continue;
    Sum rSum[WAVES];
    multiply_tile<kGroup>(s, ring, rSum, work.end - work.begin);
    u32 row = work.tile.row + kGroup * WAVES * 64 + warp * 16;
    if (SPLIT_TAIL && work.half) {
      const u32 rank = cluster_rank();
      exchange_halves<kGroup>(s, rSum, rank);
      row += rank * 64;
    }
#pragma unroll
    for (u32 w = 0; w < WAVES; ++w) {
      if (w == 0 || !(SPLIT_TAIL && work.half)) add_pieces(p, rSum[w], pieces, next_piece, row + w * 64, work.tile.column, work.tile.group);
    }
  }
  if (lane_index() == 0) bulk_wait_all();  // the pieces' memory is the block's
}

extern "C" __global__ void __launch_bounds__(kThreads, 1) fp8_wgrad(const __grid_constant__ Arguments p) {
  extern __shared__ __align__(1024) u8 memory[];
  Shared s;
  s.tiles = memory;
  s.pieces = memory + STAGES * kTileBytes;
  s.sScales = reinterpret_cast<float*>(s.pieces + MATH_GROUPS * 4 * kPieces * kPieceBytes);
  s.full = reinterpret_cast<u64*>(s.sScales + STAGES * kScales);
  s.empty = s.full + STAGES;
  const u32 warp = warp_index();
  if (warp == 0 && elect_one()) {
    prefetch_tensor_map(&p.scale_a);
    prefetch_tensor_map(&p.scale_b);
    prefetch_tensor_map(&p.out);
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
      if (elect_one()) load_tiles(p, s);
      __syncwarp();
    }
  } else {
    registers_grow<kMathRegisters>();
    if (warp < 4) multiply_tiles<0>(p, s);
    else multiply_tiles<1>(p, s);
  }
}
