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
// Compile-time constants beside those of attend.cuh: SOURCE, one of the three.
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
    } while (segment.begin >= segment.end);
    block = segment.begin;
  }

  // The block at hand, and in lane i < 16 the cache row of the warp's key i or -1; then moves on.
  DEVICE Step take(const Arguments& p, i32& row) {
    row = -1;
    if (block == ~0u) return Step{~0u};
    const Step step{segment.request * 4 + (block == segment.begin ? 2 : 0) + (block - segment.begin) % 2};
    const u32 key = block * kKeys + (threadIdx.x / 32 - 8) * kWarpRows + lane_index() % kWarpRows;
    if (key < segment.length) {
      if constexpr (SOURCE == kPaged) {
        row = __ldg(p.gPages + u64(segment.request) * p.pages_max + key / p.page) * i32(p.page) + i32(key % p.page);
      } else {
        row = __ldg(p.gIndices + u64(segment.request) * p.indices_stride + key);
        if (u32(row) >= p.cache_rows) row = -1;
      }
    }
    if (++block >= segment.end) find(p);
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
  i32 row;
  Step step = cursor.take(p, row);
  u32 valid = __ballot_sync(0xffffffffu, row >= 0), at = larger(row, 0);
  Step next = cursor.take(p, row);
  u32 valid_next = __ballot_sync(0xffffffffu, row >= 0), at_next = larger(row, 0);
  prefetch_rows(p, at_next);
  uint4 values[kPairs];
  Rotary rotary;
#pragma unroll
  for (u32 i = 0; i < kPairs; ++i) values[i] = load_early(row_address<kFp8Row>(gLane, __shfl_sync(0xffffffffu, at, 2 * i + odd)));
  float scale = fetch_scale(p, at, 0);
  while (step.valid()) {
    const Step later = cursor.take(p, row);
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
      if (half == 0) rotary.fetch(p, at);
    }
    parity ^= 1 << step.buffer();
    step = next, next = later;
    valid = valid_next, at = at_next;
    valid_next = __ballot_sync(0xffffffffu, row >= 0), at_next = larger(row, 0);
    prefetch_rows(p, at_next);
  }
}

// ---------------------------------------------------------------- bf16 rows
DEVICE void load_bf16(const Arguments& p, Shared& s, const TensorMap& map_q) {
  constexpr u32 kRowBytes = QK_TILES * 128;
  const u32 warp = threadIdx.x / 32 % 4, lane = lane_index();
  u32 parity = 3, parity_q = 1;  // of both buffers, a bit each
  Cursor cursor(p);
  i32 row;
  Step step = cursor.take(p, row);
  while (step.valid()) {
    i32 row_next;
    const Step next = cursor.take(p, row_next);
    if (step.first() && warp == 0 && lane == 0) load_query(s, map_q, step.request(), parity_q);
    u8* sK = s.sK[step.buffer()][0];
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
      barrier_wait(&s.empty[step.buffer()][half], parity >> step.buffer() & 1);
      if (half == 0) mark_valid(s, step.buffer(), row);
#pragma unroll 4
      for (u32 i = 0; i < kWarpRows; ++i) {
        const i32 at = __shfl_sync(0xffffffffu, row, i);
        const u8* gRow = p.gCache + u64(u32(larger(at, 0))) * kRowBytes;
        const u32 piece = half * 32 + lane, bytes = at < 0 ? 0 : 16;
        copy_16(sK + swizzled(piece / 8, warp * kWarpRows + i, piece % 8), gRow + piece * 16, bytes);
      }
      if (half == 0 && QK_TILES > kValueTiles) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
          const u32 r = i * 4 + lane / 8;
          const i32 at = __shfl_sync(0xffffffffu, row, r);
          copy_16(sK + swizzled(kValueTiles, warp * kWarpRows + r, lane % 8),
                  p.gCache + u64(u32(larger(at, 0))) * kRowBytes + 1024 + lane % 8 * 16, at < 0 ? 0 : 16);
        }
      }
      copies_arrive(&s.full[step.buffer()][half]);
    }
    parity ^= 1 << step.buffer();
    step = next, row = row_next;
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
