// out[m, n] = sum over K blocks b of  scale_a[m, b] * scale_b[n / 128, b] * (A[m, b] . B[n, b])
//
// One warpgroup loads, one or two multiply. A K block is 128 values = one row of the 128-byte swizzle. The
// tensor cores' FP8 sum is short (about 14 bits), so it lives for one K block only (rPartial); then it is scaled
// and added in float32 on the CUDA cores (rSum). While one warpgroup does that, the other's products run.
//
// Compile-time constants, set by fp8_gemm.py and explained there:
//   BLOCK_N, MATH_GROUPS, WAVES, STAGES, STAGE_K, CLUSTER, SHARE_A, SPLIT_K, BLOCKS_PER_SM, TURNS, STREAM_B, OUT_BOXES, LAYOUT
#include "fp8_steps.cuh"


constexpr u32 kBytesA = kBlockM * kBlockK, kBytesB = kBlockN * kBlockK, kBytesScaleA = kBlockM * 4;
constexpr u32 kBlockBytes = kBytesA + kBytesB;       // one K block
constexpr u32 kStageBytes = STAGE_K * kBlockBytes;   // STAGE_K neighbours: 128 x STAGE_K bytes of each row
constexpr u32 kPartialPitch = kBlockN + 4;    // float32 tile of a split, in the stages' memory

constexpr u32 gcd(u32 a, u32 b) { return b == 0 ? a : gcd(b, a % b); }
constexpr u32 kGranule = gcd(kBlockN, 128);   // columns that surely have one weight scale
constexpr u32 kScalesB = (kBlockN + 128 - kGranule + 127) / 128;  // weight scales that one tile may touch

constexpr u32 kBoxBytes = 16 * 128;            // 16 rows of 64 bf16, in 128-byte swizzle
constexpr u32 kWarpStaging = OUT_BOXES > 0 ? OUT_BOXES * kBoxBytes : kStagingBytes;
static_assert(OUT_BOXES == 0 || kBlockN % 64 == 0, "whole boxes");

constexpr u64 kHintB = STREAM_B ? kEvictFirst : kEvictNormal;  // weights that are read once leave the L2 first

// With two math groups. The sum of the splits at the end is compiled for the smaller of the two budgets.
constexpr u32 kLoadRegisters = SPLIT_K > 1 ? 40 : 24, kMathRegisters = SPLIT_K > 1 ? 232 : 240;
static_assert(SPLIT_K == 1 || kBlockM * kPartialPitch * 4 <= STAGES * kStageBytes, "the partial tile reuses the stages");

struct Shared {
  u8* stages;         // STAGES x (A tile, B tile), each in 128-byte swizzle
  u8* staging;        // for each math warp, where its output becomes rows
  float* sScaleA;     // STAGES x STAGE_K x kBlockM
  u64 *full, *empty;  // one barrier a stage
};

DEVICE void advance(const Tile& done, u32& index, u32& pass, u32 step) {
  pass = kPasses > 1 && done.again;
  if (pass == 0) index += step;
}

// ---------------------------------------------------------------- load
DEVICE void load_tiles(const Problem& p, const Shared& s, const TensorMap& map_a, const TensorMap& map_b,
                       const TensorMap& map_scale_a, u32 k_begin, u32 k_end, u32 rank) {
  Scheduler scheduler;
  Ring ring;
  const u32 total = scheduler.count(p), step = gridDim.x / kCluster;
  u32 pass = 0;
  Tile tile;
  for (u32 index = blockIdx.x / kCluster; index < total; advance(tile, index, pass, step)) {
    tile = scheduler.at(p, index, rank, pass);
    if (tile.skip) continue;
    const u32 row_b = tile.group * p.n + tile.column;
    const u32 row_scale = LAYOUT == kMasked ? tile.row - tile.group * p.rows : tile.row;
    const u32 scale_first = LAYOUT == kMasked ? tile.group * p.k_blocks : 0;
    for (u32 kb = k_begin; kb < k_end; kb += STAGE_K, ring.next()) {
      const u32 blocks = smaller(u32(STAGE_K), k_end - kb);
      barrier_wait(s.empty + ring.stage, ring.parity ^ 1);
      u64* full = s.full + ring.stage;
      barrier_expect_bytes(full, blocks * (kBlockBytes + kBytesScaleA));
      for (u32 i = 0; i < blocks; ++i) {
        u8* sA = s.stages + ring.stage * kStageBytes + i * kBlockBytes;
        u8* sB = sA + kBytesA;
        const i32 x = (kb + i) * kBlockK;
        if constexpr (kPair > 1 && SHARE_A) tma_multicast_2d(&map_a, full, sA + rank * kRowsA * kBlockK, x, tile.row + rank * kRowsA, (1 << kPair) - 1);
        else tma_load_2d(&map_a, full, sA, x, tile.row);
        if constexpr (kPair > 1 && !SHARE_A) tma_multicast_2d(&map_b, full, sB + rank * kRowsB * kBlockK, x, row_b + rank * kRowsB, (1 << kPair) - 1, kHintB);
        else tma_load_2d(&map_b, full, sB, x, row_b, kHintB);
        tma_load_2d(&map_scale_a, full, s.sScaleA + (ring.stage * STAGE_K + i) * kBlockM, row_scale, scale_first + kb + i);
      }
    }
  }
}

// ---------------------------------------------------------------- weight scales
// Lane i holds the scale of K block first + i, so that one load a warp serves 32 K blocks. With turns the next ones, of this
// tile or the next, are fetched two K blocks before they are needed: nobody waits for them, nor do the fences of the output.
// Few rows have more from shorter code.
constexpr bool kFetchAhead = TURNS > 0;

struct ScalesB {
  float held[kScalesB];
  DEVICE void fetch(const Problem& p, const float* gScaleB, const Tile& tile, u32 first, u32 k_end) {
    const u32 kb = first + lane_index(), blocks_n = ceil_div(p.n, 128);
#pragma unroll
    for (u32 i = 0; i < kScalesB; ++i) {
      const u32 n_block = tile.column / 128 + i;
      const bool inside = kb < k_end && n_block < blocks_n && !tile.skip;
      held[i] = inside ? __ldg(gScaleB + (u64(tile.group) * blocks_n + n_block) * p.k_blocks + kb) : 0.f;
    }
  }
};

// ---------------------------------------------------------------- multiply
// rSum += (row scale x column scale) * rPartial. A thread holds rows r and r + 8, two columns of each eight.
DEVICE void promote(Sum& rSum, const Sum& rPartial, float scale_low, float scale_high, const float (&scale_b)[kScalesB], u32 first) {
  constexpr bool kOneScale = 128 % kBlockN == 0;
#pragma unroll
  for (u32 granule = 0; granule < kBlockN / kGranule; ++granule) {
    float b = scale_b[kOneScale ? 0 : smaller(granule * kGranule / 128, kScalesB - 1)];
    if constexpr (!kOneScale && kBlockN % 128 != 0) {
      // The tile starts `first` columns into a block of 128: which block this granule lies in is known now only.
      const u32 at = first + granule * kGranule;
      b = scale_b[0];
      if constexpr (kScalesB > 1) b = at >= 128 ? scale_b[1] : b;
      if constexpr (kScalesB > 2) b = at >= 256 ? scale_b[2] : b;
    }
    const float low = scale_low * b, high = scale_high * b;
#pragma unroll
    for (u32 j = granule * kGranule / 8; j < (granule + 1) * kGranule / 8; ++j) {
      rSum[4 * j + 0] += low * rPartial[4 * j + 0];
      rSum[4 * j + 1] += low * rPartial[4 * j + 1];
      rSum[4 * j + 2] += high * rPartial[4 * j + 2];
      rSum[4 * j + 3] += high * rPartial[4 * j + 3];
    }
  }
}

// kGroup is a constant, so that descriptors are computed in uniform registers. `fetch_next_tile` fills `later`.
template <u32 kGroup, typename Fetch>
DEVICE void multiply_tile(const Shared& s, const Problem& p, const float* gScaleB, const Tile& tile, ScalesB& scales, ScalesB& later,
                          Fetch fetch_next_tile, Ring& ring, Sum (&rSum)[WAVES], u32 k_begin, u32 k_end) {
  const u32 row = kGroup * WAVES * 64 + (threadIdx.x / 32 % 4) * 16 + lane_index() / 4;
  Sum rPartial;
#pragma unroll
  for (u32 w = 0; w < WAVES; ++w)
#pragma unroll
    for (u32 i = 0; i < kBlockN / 2; ++i) rSum[w][i] = 0.f;

  u32 first = k_begin;  // the K block whose scale lane 0 holds
  for (u32 kb = k_begin; kb < k_end; kb += STAGE_K, ring.next()) {
    if (!kFetchAhead && kb != k_begin && (kb - k_begin) % 32 == 0) scales.fetch(p, gScaleB, tile, kb, k_end), first = kb;
    ring.await(s.full);
#pragma unroll
    for (u32 i = 0; i < STAGE_K; ++i) {
      if (i > 0 && kb + i >= k_end) break;
      const u32 a = smem_address(s.stages + ring.stage * kStageBytes + i * kBlockBytes), b = a + kBytesA;
      const u32 sScale = smem_address(s.sScaleA + (ring.stage * STAGE_K + i) * kBlockM + row);
      float scale_low[WAVES], scale_high[WAVES], scale_b[kScalesB];
#pragma unroll
      for (u32 w = 0; w < WAVES; ++w) {
        const u32 wave_row = (kGroup * WAVES + w) * 64;
        multiply_wave<kGroup>(rPartial, k_major_descriptor(a + wave_row * kBlockK), k_major_descriptor(b));
        if (w == 0) {
#pragma unroll
          for (u32 v = 0; v < WAVES; ++v) {
            scale_low[v] = load_shared_float(sScale + v * 256);
            scale_high[v] = load_shared_float(sScale + v * 256 + 32);
          }
#pragma unroll
          for (u32 j = 0; j < kScalesB; ++j) scale_b[j] = __shfl_sync(0xffffffffu, scales.held[j], kb + i - first);
          if constexpr (kFetchAhead) {
            const u32 end = smaller(first + 32, k_end);
            if (kb + i == larger(end, first + 2) - 2) {
              if (end < k_end) later.fetch(p, gScaleB, tile, end, k_end);
              else fetch_next_tile();
            }
            if (kb + i + 1 == end && end < k_end) scales = later, first = end;
          }
        }
        const bool last = w == WAVES - 1 && (i == STAGE_K - 1 || kb + i + 1 >= k_end);
        if (TURNS > 0 && last) ring.look_ahead(s.full);
        finish_wave<kGroup>(rPartial);
        if (last) release(s.empty + ring.stage);
        promote(rSum[w], rPartial, scale_low[w], scale_high[w], scale_b, tile.column % 128);
      }
    }
  }
}

// ---------------------------------------------------------------- store
#if OUT_BOXES > 0
// One warp's 16 rows by the copy engine, box by box: nobody waits for the memory, and the next tile begins at once.
DEVICE void send_wave(const Sum& rSum, u32 staging, const TensorMap& map_out, u32 row, u32 column, u32& box) {
  const u32 lane = lane_index(), matrix_row = (lane & 7) + (lane & 8);
#pragma unroll
  for (u32 chunk = 0; chunk < kBlockN / 64; ++chunk) {
    const u32 at = staging + box * kBoxBytes;
    box = box + 1 == OUT_BOXES ? 0 : box + 1;
    bulk_wait_read<OUT_BOXES - 1>();  // of lane 0; the others have none on their way
    __syncwarp();
#pragma unroll
    for (u32 j = 0; j < 8; j += 2) {
      const float* r = rSum + (chunk * 8 + j) * 4;
      const u32 address = at + matrix_row * 128 + (((j + lane / 16) ^ (matrix_row & 7)) * 16);
      stmatrix_x4(address, pack_bf16(r[0], r[1]), pack_bf16(r[2], r[3]), pack_bf16(r[4], r[5]), pack_bf16(r[6], r[7]));
    }
    fence_proxy_async();
    __syncwarp();
    tma_store_2d(&map_out, at, column + chunk * 64, row, lane == 0);
    bulk_commit();
  }
}

#endif

DEVICE void store_tile(const Shared& s, const Problem& p, u16* gOut, const TensorMap& map_out, const Tile& tile, const Sum (&rSum)[WAVES], u32& box) {
  const u32 warp = threadIdx.x / 32, group = threadIdx.x / 128;
  const u32 staging = smem_address(s.staging + warp * kWarpStaging);
#pragma unroll
  for (u32 w = 0; w < WAVES; ++w) {
    const u32 row = tile.row + (group * WAVES + w) * 64 + (warp % 4) * 16;
    if (row < tile.row_first || row >= tile.row_end) continue;
#if OUT_BOXES > 0
    // A masked group's rows may end inside a box, behind which rows of nobody lie.
    if (LAYOUT != kMasked || row + 16 <= tile.row_end) {
      send_wave(rSum[w], staging, map_out, row, tile.column, box);
      continue;
    }
    bulk_wait_read<0>();
    __syncwarp();
#endif
    if (OUT_BOXES == 0 || LAYOUT == kMasked) store_wave(rSum[w], staging, gOut, p, row, tile.row_end, tile.column);
  }
}

// Split K: every block leaves its float32 tile in its shared memory ...
DEVICE void publish_partial(const Shared& s, const Sum (&rSum)[WAVES]) {
  float* sTile = reinterpret_cast<float*>(s.stages);
  const u32 group = threadIdx.x / 128, lane = lane_index();
#pragma unroll
  for (u32 w = 0; w < WAVES; ++w) {
    const u32 row = (group * WAVES + w) * 64 + (threadIdx.x / 32 % 4) * 16 + lane / 4;
#pragma unroll
    for (u32 j = 0; j < kBlockN / 8; ++j) {
      float* at = sTile + row * kPartialPitch + j * 8 + (lane % 4) * 2;
      *reinterpret_cast<float2*>(at) = make_float2(rSum[w][4 * j], rSum[w][4 * j + 1]);
      *reinterpret_cast<float2*>(at + 8 * kPartialPitch) = make_float2(rSum[w][4 * j + 2], rSum[w][4 * j + 3]);
    }
  }
}

// ... and sums a share of all, always in rank order, so that the result does not depend on timing.
DEVICE void reduce_partials(const Shared& s, const Problem& p, u16* gOut, const Tile& tile, u32 rank) {
  const u32 sTile = smem_address(s.stages);
  for (u32 i = rank * kMathThreads + threadIdx.x; i < kBlockM * kBlockN / 4; i += SPLIT_K * kMathThreads) {
    const u32 row = i / (kBlockN / 4), column = i % (kBlockN / 4) * 4;
    float4 part[SPLIT_K];
#pragma unroll
    for (u32 r = 0; r < SPLIT_K; ++r) part[r] = load_cluster_float4(sTile + (row * kPartialPitch + column) * 4, r);
    float4 sum = part[0];
#pragma unroll
    for (u32 r = 1; r < SPLIT_K; ++r) {
      sum.x += part[r].x;
      sum.y += part[r].y;
      sum.z += part[r].z;
      sum.w += part[r].w;
    }
    if (tile.row + row < tile.row_end && tile.column + column < p.n)
      *reinterpret_cast<uint2*>(gOut + u64(tile.row + row) * p.n + tile.column + column) =
          make_uint2(pack_bf16(sum.x, sum.y), pack_bf16(sum.z, sum.w));
  }
}

template <u32 kGroup>
DEVICE void multiply_tiles(const Problem& p, const Shared& s, const float* gScaleB, u16* gOut, const TensorMap& map_out, u32 k_begin, u32 k_end, u32 rank) {
  Scheduler scheduler;
  Ring ring;
  ScalesB scales, later{};
  const u32 total = scheduler.count(p), step = gridDim.x / kCluster;
  u32 index = blockIdx.x / kCluster, pass = 0, box = 0;
  if (TURNS > 0 && kGroup == 1) named_barrier_arrive(2, kMathThreads);  // the first warpgroup begins
  Tile tile{};
  if (index < total) {
    tile = scheduler.at(p, index, rank, pass);
    scales.fetch(p, gScaleB, tile, k_begin, k_end);
  }
  while (index < total) {
    Sum rSum[WAVES];
    const Tile now = tile;
    const auto fetch_next_tile = [&] {
      advance(now, index, pass, step);
      if (index >= total) return;
      tile = scheduler.at(p, index, rank, pass);
      later.fetch(p, gScaleB, tile, k_begin, k_end);
    };
    if (now.skip) fetch_next_tile();
    else multiply_tile<kGroup>(s, p, gScaleB, now, scales, later, fetch_next_tile, ring, rSum, k_begin, k_end);
    if (!kFetchAhead && !now.skip) fetch_next_tile();
    scales = later;
    if constexpr (SPLIT_K > 1) {
      named_barrier_sync(1, kMathThreads);  // all products read from the stages before they become the partial tile
      publish_partial(s, rSum);
    } else if (!now.skip) {
      store_tile(s, p, gOut, map_out, now, rSum, box);
    }
  }
  if (OUT_BOXES > 0) bulk_wait_all();  // the staging's memory is the block's
}

// ---------------------------------------------------------------- kernel
extern "C" __global__ void __launch_bounds__(kThreads, BLOCKS_PER_SM)
    fp8_gemm(const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,
             const __grid_constant__ TensorMap map_scale_a, const __grid_constant__ TensorMap map_out, const float* gScaleB, u16* gOut, const i32* gGroups,
             u32 rows, u32 n, u32 k_blocks, u32 groups, u32 raster) {
  extern __shared__ __align__(1024) u8 memory[];
  Shared s;
  s.stages = memory;
  s.staging = memory + STAGES * kStageBytes;
  s.sScaleA = reinterpret_cast<float*>(s.staging + MATH_GROUPS * 4 * kWarpStaging);
  s.full = reinterpret_cast<u64*>(s.sScaleA + STAGES * STAGE_K * kBlockM);
  s.empty = s.full + STAGES;
  u32* sFirstBlock = reinterpret_cast<u32*>(s.empty + STAGES);
  const Problem p{rows, n, k_blocks, groups, raster, gGroups, sFirstBlock};
  const u32 warp = warp_index();
  const u32 rank = kCluster > 1 ? cluster_rank() : 0;

  if (warp == 0 && elect_one()) {
    prefetch_tensor_map(&map_a);
    prefetch_tensor_map(&map_b);
    prefetch_tensor_map(&map_scale_a);
    prefetch_tensor_map(&map_out);
    for (u32 i = 0; i < STAGES; ++i) {
      barrier_init(s.full + i, 1);
      barrier_init(s.empty + i, MATH_GROUPS * 4 * kPair);
    }
    barrier_init_fence();
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  if constexpr (LAYOUT == kMasked) {
    if (warp == 1) count_blocks(p, sFirstBlock, kBlockM);
  }
  __syncthreads();
  if constexpr (kCluster > 1) cluster_sync_relaxed();

  const u32 k_begin = SPLIT_K > 1 ? k_blocks * rank / SPLIT_K : 0;
  const u32 k_end = SPLIT_K > 1 ? k_blocks * (rank + 1) / SPLIT_K : k_blocks;
  if (threadIdx.x >= kMathThreads) {
    if constexpr (MATH_GROUPS == 2) registers_shrink<kLoadRegisters>();
    else if constexpr (BLOCKS_PER_SM == 2) registers_shrink<40>();
    if (warp == MATH_GROUPS * 4) {
      if (elect_one()) load_tiles(p, s, map_a, map_b, map_scale_a, k_begin, k_end, rank);
      __syncwarp();
    }
  } else {
    if constexpr (MATH_GROUPS == 2) registers_grow<kMathRegisters>();
    else if constexpr (BLOCKS_PER_SM == 2) registers_grow<216>();
    if (MATH_GROUPS == 1 || warp < 4) multiply_tiles<0>(p, s, gScaleB, gOut, map_out, k_begin, k_end, rank);
    else multiply_tiles<MATH_GROUPS - 1>(p, s, gScaleB, gOut, map_out, k_begin, k_end, rank);
  }
  if constexpr (SPLIT_K > 1) {
    cluster_sync();
    Scheduler scheduler;
    if (threadIdx.x < kMathThreads) reduce_partials(s, p, gOut, scheduler.at(p, blockIdx.x / kCluster, 0), rank);
  }
  // No block leaves while another may still arrive at its barriers or read its memory.
  if constexpr (kCluster > 1) cluster_sync_relaxed();
}
