// What the products share: which tile comes next, the ring of stages, and how a bf16 tile leaves.
//
// Compile-time constants, set by the Python beside each kernel: BLOCK_N, MATH_GROUPS, WAVES, STAGES, CLUSTER, SHARE_A,
// SPLIT_K, LAYOUT. A tile is 64 x MATH_GROUPS x WAVES rows by BLOCK_N columns.
#pragma once
#include "wgmma.cuh"

enum Layout : u32 { kDense = 0, kContiguous = 1, kMasked = 2, kKGrouped = 3 };  // kKGrouped: groups share m and n, each has its own K

constexpr u32 kBlockM = 64 * MATH_GROUPS * WAVES, kBlockN = BLOCK_N;
constexpr u32 kMathThreads = 128 * MATH_GROUPS, kThreads = kMathThreads + 128;
constexpr u32 kPair = CLUSTER;                // blocks that share an operand by multicast
constexpr u32 kCluster = CLUSTER * SPLIT_K;   // one of the two is 1
constexpr u32 kRowsA = kBlockM / (SHARE_A ? kPair : 1), kRowsB = kBlockN / (SHARE_A ? 1 : kPair);
// Groups begin at multiples of 128 rows at most: a tile of 256 may hold the end of one and the beginning of the next. It is
// then worked on once for each of its halves, and each pass writes its own half.
constexpr u32 kPasses = LAYOUT == kContiguous && kBlockM > 128 ? 2 : 1;
constexpr u32 kStagingPitch = 144;            // 64 bf16 + 16 bytes: eight rows fall into different banks
constexpr u32 kStagingBytes = 16 * kStagingPitch;  // of one warp

static_assert(kPasses == 1 || kBlockM == 256, "halves of 128 rows");
static_assert(kBlockN % 8 == 0 && kBlockN <= 256, "shape of wgmma");
static_assert(CLUSTER == 1 || SPLIT_K == 1, "a cluster either shares or splits");
static_assert(SHARE_A || kPair == 1 || kBlockN % 16 == 0, "half of B must be whole swizzle atoms");

using Sum = float[kBlockN / 2];

struct Problem {
  u32 rows, n, k_blocks;    // rows of one group for kMasked, of all for the others
  u32 groups, raster;       // raster: row blocks that are walked before the next column block
  const i32* gGroups;       // kContiguous: group of each row; kMasked: rows in use of each group; kKGrouped: its K
  const u32* sFirstBlock;   // row blocks (kMasked) or K blocks (kKGrouped) before each group, groups + 1 values
  u32 k = 0;                // for operands whose outer axis is K
};

struct Tile {
  u32 row, column, group;   // row counts over all groups
  u32 row_end;              // rows from here on are not written
  bool skip;
  u32 row_first = 0;        // nor are rows before this one
  bool again = false;       // its other half belongs to another group: it comes once more
};

// Tiles of a cluster in order: `index` counts pairs of tiles when an operand is shared.
struct Scheduler {
  u32 group = 0;
  DEVICE u32 count(const Problem& p) const {
    const u32 row_units = ceil_div(LAYOUT == kMasked ? p.sFirstBlock[p.groups] : ceil_div(p.rows, kBlockM), SHARE_A ? 1 : kPair);
    return row_units * ceil_div(ceil_div(p.n, kBlockN), SHARE_A ? kPair : 1) * (LAYOUT == kKGrouped ? p.groups : 1);
  }

  DEVICE Tile at(const Problem& p, u32 index, u32 rank, u32 pass = 0) {
    const u32 n_units = ceil_div(ceil_div(p.n, kBlockN), SHARE_A ? kPair : 1);
    u32 m_units, first_unit = 0;
    if constexpr (LAYOUT == kMasked) {
      while (index >= p.sFirstBlock[group + 1] * n_units) ++group;
      first_unit = p.sFirstBlock[group];
      index -= first_unit * n_units;
      m_units = p.sFirstBlock[group + 1] - first_unit;
    } else {
      m_units = ceil_div(ceil_div(p.rows, kBlockM), SHARE_A ? 1 : kPair);
    }
    if constexpr (LAYOUT == kKGrouped) {
      group = index / (m_units * n_units);
      index -= group * m_units * n_units;
    }
    const u32 band = index / (p.raster * n_units), inside = index - band * p.raster * n_units;
    const u32 band_first = band * p.raster, band_rows = smaller(p.raster, m_units - band_first);
    u32 m_block = band_first + inside % band_rows, n_block = inside / band_rows;
    if constexpr (kPair > 1) {
      if constexpr (SHARE_A) n_block = n_block * kPair + rank;
      else m_block = m_block * kPair + rank;
    }
    Tile tile{m_block * kBlockM, n_block * kBlockN, 0, p.rows, false};
    if constexpr (LAYOUT == kContiguous) {
      i32 id = __ldg(p.gGroups + tile.row);
      if constexpr (kPasses == 2) {
        const u32 middle = tile.row + kBlockM / 2;
        const i32 later = middle < p.rows ? __ldg(p.gGroups + middle) : id;
        if (id != later && pass == 0) tile.row_end = middle, tile.again = true;
        if (pass > 0) tile.row_first = middle, id = later;
      }
      tile.skip = id < 0;
      tile.group = id < 0 ? 0 : id;
    }
    if constexpr (LAYOUT == kKGrouped) tile.group = group;
    if constexpr (LAYOUT == kMasked) {
      tile.group = group;
      tile.row_end = group * p.rows + __ldg(p.gGroups + group);
      tile.row += group * p.rows;
    }
    return tile;
  }
};

struct Ring {
  u32 stage = 0, parity = 0;
  bool ready = false;  // it was seen full already
  DEVICE void next() {
    if (++stage == STAGES) {
      stage = 0;
      parity ^= 1;
    }
  }

  DEVICE void await(u64* full) const {
    if (!ready) barrier_wait(full + stage, parity);
  }

  // Looks whether the next stage is full, beside products that run: before the next ones there is no time for it. The
  // compiler must not see that this is what `next` computes: it would keep descriptors in registers of each thread.
  DEVICE void look_ahead(u64* full) {
    Ring ahead = *this;
    forget(ahead.stage);
    forget(ahead.parity);
    ahead.next();
    ready = barrier_test(full + ahead.stage, ahead.parity);
  }
};

// One warp: the running sum of blocks of so many rows, or of K; empty groups add nothing and cost nothing later.
DEVICE void count_blocks(const Problem& p, u32* sFirstBlock, u32 block) {
  u32 before = 0;
  for (u32 first = 0; first < p.groups; first += 32) {
    const u32 g = first + lane_index();
    u32 sum = g < p.groups ? ceil_div(u32(__ldg(p.gGroups + g)), block) : 0;
#pragma unroll
    for (u32 d = 1; d < 32; d *= 2) {
      const u32 left = __shfl_up_sync(0xffffffffu, sum, d);
      if (lane_index() >= d) sum += left;
    }
    if (g < p.groups) sFirstBlock[g + 1] = before + sum;
    before += __shfl_sync(0xffffffffu, sum, 31);
  }
  if (lane_index() == 0) sFirstBlock[0] = 0;
}

// The warp is done with a stage: tell the producers of all blocks that write into it.
DEVICE void release(u64* empty) {
  __syncwarp();
  if constexpr (kPair > 1) {
    if (lane_index() < kPair) barrier_arrive_at(empty, lane_index());
  } else {
    if (lane_index() == 0) barrier_arrive(empty);
  }
}

// One warp's 16 rows: through its own staging area, so that global stores are rows of 128 bytes.
DEVICE void store_wave(const Sum& rSum, u32 staging, u16* gOut, const Problem& p, u32 row, u32 row_end, u32 column) {
  const u32 lane = lane_index();
  const u32 matrix_row = (lane & 7) + (lane & 8), matrix_column = (lane >> 4) * 8;
#pragma unroll
  for (u32 chunk = 0; chunk < ceil_div(kBlockN, 64); ++chunk) {
    const u32 eights = smaller(8u, kBlockN / 8 - chunk * 8);
#pragma unroll
    for (u32 j = 0; j < eights; j += 2) {
      const float* r = rSum + (chunk * 8 + j) * 4;
      const u32 address = staging + matrix_row * kStagingPitch + (j * 8 + matrix_column) * 2;
      if (j + 1 < eights) stmatrix_x4(address, pack_bf16(r[0], r[1]), pack_bf16(r[2], r[3]), pack_bf16(r[4], r[5]), pack_bf16(r[6], r[7]));
      else stmatrix_x2(address, pack_bf16(r[0], r[1]), pack_bf16(r[2], r[3]));
    }
    __syncwarp();
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
      const u32 vector = lane + 32 * i, r = vector / 8, c = vector % 8;
      const u32 at = column + chunk * 64 + c * 8;
      if (c < eights && row + r < row_end && at < p.n) {
        const float4 v = load_shared_float4(staging + r * kStagingPitch + c * 16);
        *reinterpret_cast<float4*>(gOut + u64(row + r) * p.n + at) = v;
      }
    }
    __syncwarp();
  }
}


// float32 output: one warp's 16 rows are added to what is there. Every element has one adder, so no order matters; the
// instruction returns nothing, so nobody waits for the old values (loads and stores were 5 to 15 % slower).
DEVICE void add_wave(const Sum& rSum, float* gOut, const Problem& p, u32 row, u32 row_end, u32 column) {
  const u32 low = row + lane_index() / 4, first = column + lane_index() % 4 * 2;
#pragma unroll
  for (u32 j = 0; j < kBlockN / 8; ++j) {
    const u32 at = first + j * 8;
    if (at >= p.n) break;
    if (low < row_end) add_global_pair(gOut + u64(low) * p.n + at, rSum[4 * j], rSum[4 * j + 1]);
    if (low + 8 < row_end) add_global_pair(gOut + u64(low + 8) * p.n + at, rSum[4 * j + 2], rSum[4 * j + 3]);
  }
}
