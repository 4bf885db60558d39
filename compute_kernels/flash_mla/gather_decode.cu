// MLA attention over keys that threads fetch row by row (see attend.cuh for the mathematics), in three forms:
//   kPaged    FP8 rows of a paged cache, all keys of a request in order
//   kSparse   FP8 rows of a cache, the keys that a list of indices names for each query position
//   kPrefill  bf16 rows of one request's keys, likewise by indices
//
// An FP8 row is 656 bytes: 512 e4m3 values | four float32 scales, one for each 128 values | 64 bf16 rotary values.
// Four load warps own 16 keys of each block. The values of eight rows a warp are always on their way in
// registers: as a row is turned into bf16 and stored, its registers take a later one. Rows that do not count
// (index -1, past the length) become zeros and a zero in the bit mask.
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
    const u32 key = block * kKeys + threadIdx.x / 32 % 4 * kWarpRows + lane_index() % kWarpRows;
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
  if (lane_index() == 0) s.sValid[buffer][threadIdx.x / 32 % 4] = u16(valid);
}

DEVICE void await_buffer(Shared& s, u32 buffer, u32& parity) {
  const u32 now = parity >> buffer & 1;
  barrier_wait(&s.empty[buffer][0], now);
  barrier_wait(&s.empty[buffer][1], now);
  parity ^= 1 << buffer;
}

DEVICE u32 swizzled(u32 tile, u32 row, u32 chunk) { return tile * kTileBytes + row * 128 + ((chunk ^ (row & 7)) * 16); }

// ---------------------------------------------------------------- FP8 rows
// Four e4m3 values as two packed bf16 pairs, scaled: bits move into bf16's fields, 2^120 mends the exponent (exactly, for
// denormals too), and the scale goes in as a high and a low half so that only the result is rounded.
DEVICE void widen(u32 four, u32 scale_high, u32 scale_low, u32& pair0, u32& pair1) {
  const u32 x[2] = {__byte_perm(four, 0, 0x1404), __byte_perm(four, 0, 0x3424)};
  u32* out[2] = {&pair0, &pair1};
#pragma unroll
  for (u32 i = 0; i < 2; ++i) {
    const u32 bits = ((x[i] >> 4) & 0x07f007f0u) | (x[i] & 0x80008000u);
    u32 v;
    asm("{\n .reg .b32 y, z;\n mul.rn.bf16x2 y, %1, %2;\n mul.rn.bf16x2 z, y, %4;\n fma.rn.bf16x2 %0, y, %3, z;\n}\n"
        : "=r"(v)
        : "r"(bits), "r"(0x7B807B80u), "r"(scale_high), "r"(scale_low));
    *out[i] = v;
  }
}

// Rows in flight: half of a block's. Its second half takes the places of its first, then comes the next block's first.
constexpr u32 kLive = kWarpRows / 2;

struct Flight {
  uint4 values[kLive];     // a lane holds 16 of a row's 512 values
  uint4 rotary[kLive / 4]; // and 8 of the rotary values of row 4 i + lane / 8

  // No branch: for a row that does not count row 0 is read, and its scale is 0. (Widened e4m3 bits are never NaN.)
  DEVICE void fetch(const Arguments& p, u32 slot, u32 i, i32 row) {
    const u32 at = larger(__shfl_sync(0xffffffffu, row, i), 0);
    values[slot] = load_streaming(p.gCache + u64(at) * kFp8Row + lane_index() * 16);
  }

  DEVICE void fetch_rotary(const Arguments& p, u32 slot, u32 first, i32 row) {
    const u32 at = larger(__shfl_sync(0xffffffffu, row, first + slot * 4 + lane_index() / 8), 0);
    rotary[slot] = load_streaming(p.gCache + u64(at) * kFp8Row + kRotaryOffset + lane_index() % 8 * 16);
  }
};

// The rows of a block to come travel from memory to the L2 meanwhile; one instruction for sixteen of them.
DEVICE void prefetch_rows(const Arguments& p, i32 row, u32 bytes) {
  if (row >= 0 && lane_index() < kWarpRows) prefetch_l2(p.gCache + u64(u32(row)) * bytes, bytes);
}

// Of eight rows from `first`: lane l gets scale l % 4 of row l / 4, as two bf16 that add up to it, high half first.
DEVICE u32 fetch_scales(const Arguments& p, u32 first, i32 row) {
  const i32 at = __shfl_sync(0xffffffffu, row, first + lane_index() / 4);
  const float scale = __ldg(reinterpret_cast<const float*>(p.gCache + u64(u32(larger(at, 0))) * kFp8Row + kScaleOffset) + lane_index() % 4);
  const u32 high = pack_bf16(scale, scale) & 0xffff0000u;
  return at < 0 ? 0 : high | pack_bf16(scale - __uint_as_float(high), 0.f);
}

DEVICE void store_row(u8* sK, u32 row, uint4 values, u32 scale) {
  const u32 lane = lane_index(), odd = lane / 4 % 2;
  const u32 high = __byte_perm(scale, 0, 0x3232), low = __byte_perm(scale, 0, 0x1010);
  // Odd tiles store their second chunk first: eight lanes then reach all banks.
  const u32 w[4] = {odd ? values.z : values.x, odd ? values.w : values.y, odd ? values.x : values.z, odd ? values.y : values.w};
#pragma unroll
  for (u32 i = 0; i < 2; ++i) {
    uint4 v;
    widen(w[2 * i], high, low, v.x, v.y);
    widen(w[2 * i + 1], high, low, v.z, v.w);
    *reinterpret_cast<uint4*>(sK + swizzled(lane / 4, row, lane % 4 * 2 + (i ^ odd))) = v;
  }
}

DEVICE void load_fp8(const Arguments& p, Shared& s, const TensorMap& map_q) {
  const u32 warp = threadIdx.x / 32 % 4, lane = lane_index();
  u32 parity = 3, parity_q = 1;  // of both buffers, a bit each
  Cursor cursor(p);
  i32 row, row_next;
  Step step = cursor.take(p, row), next = cursor.take(p, row_next);
  prefetch_rows(p, row_next, kFp8Row);
  Flight flight;
#pragma unroll
  for (u32 i = 0; i < kLive; ++i) flight.fetch(p, i, i, row);
#pragma unroll
  for (u32 i = 0; i < kLive / 4; ++i) flight.fetch_rotary(p, i, 0, row);
  u32 scales = fetch_scales(p, 0, row);
  while (step.valid()) {
    i32 row_later;
    const Step later = cursor.take(p, row_later);
    if (step.first() && warp == 0 && lane == 0) load_query(s, map_q, step.request(), parity_q);
    await_buffer(s, step.buffer(), parity);
    mark_valid(s, step.buffer(), row);
    u8* sK = s.sK[step.buffer()][0];
#pragma unroll 1
    for (u32 first = 0; first < kWarpRows; first += kLive) {  // not unrolled: else shuffles move up and fill registers
      const i32 row_from = first == 0 ? row : row_next;
      const u32 from = kLive - first;
      const u32 scales_next = fetch_scales(p, from, row_from);
#pragma unroll
      for (u32 i = 0; i < kLive / 4; ++i) {
        const bool counts = __shfl_sync(0xffffffffu, row, first + i * 4 + lane / 8) >= 0;
        *reinterpret_cast<uint4*>(sK + swizzled(kValueTiles, warp * kWarpRows + first + i * 4 + lane / 8, lane % 8)) =
            counts ? flight.rotary[i] : make_uint4(0, 0, 0, 0);
        flight.fetch_rotary(p, i, from, row_from);
      }
#pragma unroll
      for (u32 i = 0; i < kLive; ++i) {
        store_row(sK, warp * kWarpRows + first + i, flight.values[i], __shfl_sync(0xffffffffu, scales, i * 4 + lane / 8));
        flight.fetch(p, i, from + i, row_from);
      }
      scales = scales_next;
    }
    fence_proxy_async();
    barrier_arrive(&s.full[step.buffer()][0]);
    barrier_arrive(&s.full[step.buffer()][1]);
    prefetch_rows(p, row_later, kFp8Row);
    step = next, next = later;
    row = row_next, row_next = row_later;
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
