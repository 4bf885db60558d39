// MLA attention over keys that threads fetch row by row (see attend.cuh for the mathematics), in three forms:
//   kPaged    FP8 rows of a paged cache, all keys of a request in order
//   kSparse   FP8 rows of a cache, the keys that a list of indices names for each query position
//   kPrefill  bf16 rows of one request's keys, likewise by indices
//
// An FP8 row is 656 bytes: 512 e4m3 values | four float32 scales, one for each 128 values | 64 bf16 rotary values.
// Four load warps own 16 keys of each block and bring them by halves, left columns first, as the halves of a buffer
// become free; while one half is waited for, the next one comes to registers and what follows to the L2. FP8 rows are
// widened to fp16, not bf16: that takes a third of the instructions and is more exact; so the query becomes fp16 too.
// Rows that do not count (index -1, past the length) become zeros and a zero in the bit mask.
//
// Compile-time constants beside those of tile.cuh: SOURCE, one of the three.
#include "attend.cuh"

enum Source : u32 { kPaged = 0, kSparse = 1, kPrefill = 2 };

constexpr u32 kFp8Row = 656, kScaleOffset = 512, kRotaryOffset = 528;
constexpr u32 kWarpRows = 16, kLoaders = 128;
constexpr u32 kLoadRegisters = SOURCE == kPrefill ? 72 : 88, kMathRegisters = SOURCE == kPrefill ? 216 : 208;
static_assert(kLoadRegisters + 2 * kMathRegisters <= 504, "what 384 threads get at launch: growing past it waits forever");

// ---------------------------------------------------------------- which rows
// A block to fetch, in one register: its request, whether it is the first of a segment (its query is due), its buffer.
struct Step {
  u32 code;

  DEVICE bool valid() const { return code != ~0u; }
  DEVICE u32 request() const { return code / 4; }
  DEVICE bool first() const { return code & 2; }
  DEVICE u32 buffer() const { return code & 1; }
};

// What names a key's row, on its way: nothing may be computed from it before `row`, or its latency is waited for.
struct Pick {
  static constexpr u32 kAhead = 4 * kKeys;  // indices come from memory this early, then from the L2

  i32 value;   // page or index
  u32 offset;  // of the row in the page

  DEVICE void fetch(const Arguments& p, u32 request, u32 length, u32 key) {
    if constexpr (SOURCE == kPaged) {
      value = __ldg(p.gPages + u64(request) * p.pages_max + key / p.page);
      offset = key % p.page;
    } else {
      const i32* gKey = p.gIndices + u64(request) * p.indices_stride + key;
      value = __ldg(gKey);
      if (SOURCE == kSparse && key + kAhead < length) prefetch_line_l2(gKey + kAhead);
    }
  }

  // -1: the key does not count.
  DEVICE i32 row(const Arguments& p) const {
    if constexpr (SOURCE == kPaged) return value < 0 ? -1 : value * i32(p.page) + i32(offset);
    return u32(value) < p.cache_rows ? value : -1;
  }
};

struct Cursor {
  Walk walk;
  Segment segment{};
  u32 block = 0;  // ~0: there are no more

  DEVICE explicit Cursor(const Arguments& p) : walk(p) { find(p); }

  DEVICE void find(const Arguments& p) {
    do {
      if (!walk.next(p, segment)) {
        block = ~0u;
        return;
      }
      walk.look_ahead(p);
    } while (segment.begin >= segment.end);
    block = segment.begin;
  }

  // The block at hand, and in lane i < 16 what names the row of the warp's key i; then moves on.
  DEVICE Step take(const Arguments& p, Pick& pick) {
    pick.value = -1;
    if (block == ~0u) return Step{~0u};
    const Step step{segment.request * 4 + (block == segment.begin ? 2 : 0) + (block - segment.begin) % 2};
    const u32 request = segment.request, length = segment.length;
    const u32 key = block * kKeys + (threadIdx.x / 32 - 8) * kWarpRows + lane_index() % kWarpRows;
    if (++block >= segment.end) find(p);  // first: what it waits for would else wait for the load below too
    if (key < length) pick.fetch(p, request, length, key);
    return step;
  }
};

DEVICE void mark_valid(Shared& s, u32 buffer, i32 row) {
  const u32 valid = __ballot_sync(0xffffffffu, row >= 0 && lane_index() < kWarpRows);
  if (lane_index() == 0) s.sValid[buffer][threadIdx.x / 32 - 8] = u16(valid);
}

DEVICE u32 swizzled(u32 tile, u32 row, u32 chunk) { return tile * kTileBytes + row * 128 + ((chunk ^ (row & 7)) * 16); }

// ---------------------------------------------------------------- FP8 rows
// A lane's share of a load: 16 values of one of two rows. Four lanes of each row make an octet, whose 16-byte stores
// then reach all banks: the swizzle puts rows of different parity at chunks of different parity.
constexpr u32 kPairs = kWarpRows / 2;  // loads of half a block, two rows each

DEVICE u32 row_of_lane() { return lane_index() / 4 % 2; }

// What remains is the row: bytes 0-255 of its values.
DEVICE const u8* source_of_lane(const Arguments& p) { return p.gCache + lane_index() / 8 * 64 + lane_index() % 4 * 16; }

DEVICE u32 place_of_lane(Shared& s, u32 warp) {
  const u32 odd = row_of_lane();
  return smem_address(s.sK) + lane_index() / 8 * kTileBytes + (warp * kWarpRows + odd) * 128 + lane_index() % 4 * 32 + odd * 16;
}

// The rows of a block to come travel from memory to the L2 meanwhile.
DEVICE void prefetch_rows(const Arguments& p, u32 at) {
  constexpr u32 kLanes = 32 / kWarpRows, kLines = 6;
  const u32 row = __shfl_sync(0xffffffffu, at, lane_index() / kLanes);
  const u8* gRow = row_address<kFp8Row>(p.gCache + lane_index() % kLanes * 128, row);
#pragma unroll
  for (u32 i = 0; i < kLines; i += kLanes)
    if (i + lane_index() % kLanes < kLines) prefetch_line_l2(gRow + i * 128);
}

// Lane l gets scale 2 half + l % 2 of row l / 2.
DEVICE float fetch_scale(const Arguments& p, u32 at, u32 half) {
  const u32 row = __shfl_sync(0xffffffffu, at, lane_index() / 2);
  return __ldg(reinterpret_cast<const float*>(row_address<kFp8Row>(p.gCache + kScaleOffset + half * 8 + lane_index() % 2 * 4, row)));
}

DEVICE void store_values(u32 place, uint4 values, u32 scale) {
  uint4 v;
  widen(values.x, scale, v.x, v.y);
  widen(values.y, scale, v.z, v.w);
  store_in_order(place, v);
  widen(values.z, scale, v.x, v.y);
  widen(values.w, scale, v.z, v.w);
  store_in_order(place ^ 16, v);
}

// Rows that do not count become zeros: their weight is 0, but what was read in their place may be NaN.
DEVICE void clear_rows(u32 place, u32 valid) {
#pragma unroll 1
  for (u32 i = 0; i < kPairs; ++i) {
    if (valid >> (2 * i + row_of_lane()) & 1) continue;
    const u32 at = (place ^ (i % 4 * 32)) + i * 256;
    store_in_order(at, make_uint4(0, 0, 0, 0));
    store_in_order(at ^ 16, make_uint4(0, 0, 0, 0));
  }
}

// The rotary values of rows 4 i + lane / 8: fetched after a block's left half, stored after its right one.
struct Rotary {
  uint4 values[kWarpRows / 4];

  DEVICE void fetch(const Arguments& p, u32 at) {
    const u8* gLane = p.gCache + kRotaryOffset + lane_index() % 8 * 16;
#pragma unroll
    for (u32 i = 0; i < kWarpRows / 4; ++i)
      values[i] = load_early(row_address<kFp8Row>(gLane, __shfl_sync(0xffffffffu, at, i * 4 + lane_index() / 8)));
  }

  DEVICE void store(u32 sK, u32 warp) const {
    u32 lane = lane_index();
    forget(lane);
#pragma unroll
    for (u32 i = 0; i < kWarpRows / 4; ++i)
      store_in_order(sK + swizzled(kValueTiles, warp * kWarpRows + i * 4 + lane / 8, lane % 8), fp16_of_bf16(values[i]));
  }
};

DEVICE void load_fp8(const Arguments& p, Shared& s, const TensorMap& map_q) {
  const u32 warp = threadIdx.x / 32 - 8, lane = lane_index();
  u32 odd = row_of_lane();
  const u8* gLane = source_of_lane(p);
  const u32 place = place_of_lane(s, warp);
  u32 parity = 3, parity_q = 1;  // of both buffers, a bit each
  Cursor cursor(p);
  Pick pick;
  Step step = cursor.take(p, pick);
  i32 row = pick.row(p);
  u32 valid = __ballot_sync(0xffffffffu, row >= 0), at = larger(row, 0);
  Step next = cursor.take(p, pick);
  row = pick.row(p);
  u32 valid_next = __ballot_sync(0xffffffffu, row >= 0), at_next = larger(row, 0);
  prefetch_rows(p, at_next);
  uint4 values[kPairs];
  Rotary rotary;
#pragma unroll
  for (u32 i = 0; i < kPairs; ++i) values[i] = load_early(row_address<kFp8Row>(gLane, __shfl_sync(0xffffffffu, at, 2 * i + odd)));
  float scale = fetch_scale(p, at, 0);
  while (step.valid()) {
    Step later{~0u};
    if (step.first() && warp == 0 && lane == 0) load_query(s, map_q, step.request(), parity_q);
    __syncwarp();
#pragma unroll 1
    for (u32 half = 0; half < 2; ++half) {
      const u32 scales = pack_fp16(scale, scale), from = half == 0 ? at : at_next;
      const u8* gFrom = gLane + (1 - half) * 256;
      u32 to = place + step.buffer() * kBlockBytes + half * 4 * kTileBytes, scale_lane = odd * 2 + lane / 16;
      forget(to), forget(scale_lane), forget(odd);
      barrier_wait(&s.empty[step.buffer()][half], parity >> step.buffer() & 1);
      if (half == 0 && lane == 0) s.sValid[step.buffer()][warp] = u16(valid);
#pragma unroll
      for (u32 i = 0; i < kPairs; ++i)
        store_values((to ^ (i % 4 * 32)) + i * 256, values[i], __shfl_sync(0xffffffffu, scales, i * 4 + scale_lane));
      if (half == 1) rotary.store(smem_address(s.sK[step.buffer()]), warp);
      if ((valid & 0xffffu) != 0xffffu) clear_rows(to, valid);
      fence_proxy_async();
      barrier_arrive(&s.full[step.buffer()][half]);
      // Only now: the fence would wait for loads on their way too.
#pragma unroll
      for (u32 i = 0; i < kPairs; ++i)
        values[i] = load_early(row_address<kFp8Row>(gFrom, __shfl_sync(0xffffffffu, from, 2 * i + odd)));
      scale = fetch_scale(p, from, 1 - half);
      if (half == 0) {
        rotary.fetch(p, at);
        later = cursor.take(p, pick);  // here, beside the rows: all these loads are waited for together
      }
    }
    parity ^= 1 << step.buffer();
    step = next, next = later;
    valid = valid_next, at = at_next;
    row = pick.row(p);
    valid_next = __ballot_sync(0xffffffffu, row >= 0), at_next = larger(row, 0);
    prefetch_rows(p, at_next);
  }
}

// ---------------------------------------------------------------- bf16 rows
// Eight lanes bring a row, 128 bytes an instruction, and a lane has four of its warp's sixteen rows. So the addresses of
// a block are known before its buffer becomes free; then an instruction a copy is left.
constexpr u32 kLaneRows = kWarpRows / 4;

struct RowsOfLane {
  const u8* gRow[kLaneRows];
  u32 bytes[kLaneRows];  // 16, or 0: zeros

  DEVICE void find(const u8* gLane, i32 row) {
#pragma unroll
    for (u32 i = 0; i < kLaneRows; ++i) {
      const i32 at = __shfl_sync(0xffffffffu, row, i * 4 + lane_index() / 8);
      gRow[i] = row_address<QK_TILES * 128>(gLane, larger(at, 0));
      bytes[i] = at < 0 ? 0 : 16;
    }
  }

  // Tile `tile` of these rows. Rows four apart lie in chunks four apart: the swizzle.
  DEVICE void copy(u32 place, u32 tile) const {
#pragma unroll
    for (u32 i = 0; i < kLaneRows; ++i)
      copy_16((place ^ (i % 2 * 64)) + tile * kTileBytes + i * 512, gRow[i] + tile * 128, bytes[i]);
  }
};

DEVICE void load_bf16(const Arguments& p, Shared& s, const TensorMap& map_q) {
  const u32 warp = threadIdx.x / 32 % 4, lane = lane_index();
  const u8* gLane = p.gCache + lane % 8 * 16;
  const u32 place = smem_address(s.sK) + swizzled(0, warp * kWarpRows + lane / 8, lane % 8);
  u32 parity = 3, parity_q = 1;  // of both buffers, a bit each
  Cursor cursor(p);
  Pick pick;
  Step step = cursor.take(p, pick);
  while (step.valid()) {
    Pick pick_next;
    const Step next = cursor.take(p, pick_next);
    if (step.first() && warp == 0 && lane == 0) load_query(s, map_q, step.request(), parity_q);
    __syncwarp();
    const i32 row = pick.row(p);
    RowsOfLane rows;
    rows.find(gLane, row);
    const u32 to = place + step.buffer() * kBlockBytes;
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
      barrier_wait(&s.empty[step.buffer()][half], parity >> step.buffer() & 1);
      if (half == 0) mark_valid(s, step.buffer(), row);
#pragma unroll
      for (u32 t = 0; t < 4; ++t) rows.copy(to, half * 4 + t);
      if (half == 0 && QK_TILES > kValueTiles) rows.copy(to, kValueTiles);
      copies_arrive(&s.full[step.buffer()][half]);
    }
    parity ^= 1 << step.buffer();
    step = next, pick = pick_next;
  }
  copies_wait();
}

// ---------------------------------------------------------------- kernel
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    mla_gather(const __grid_constant__ TensorMap map_q, const __grid_constant__ Arguments p) {
  extern __shared__ __align__(1024) u8 memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  const u32 warp = warp_index();
  if (warp == 0 && elect_one()) {
    prefetch_tensor_map(&map_q);
    init_barriers(s, kLoaders);
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  __syncthreads();
  if (warp >= 8) {
    registers_shrink<kLoadRegisters>();
    if constexpr (SOURCE == kPrefill) load_bf16(p, s, map_q);
    else load_fp8(p, s, map_q);
  } else {
    registers_grow<kMathRegisters>();
    if (warp < 4) attend<0>(p, s);
    else attend<1>(p, s);
  }
}
