// MLA decode over a dense FP8 cache, without widening: both products are multiplied in e4m3.
//
//   S^T = K Q^T       64 keys x N heads: heads are columns, so that few heads need no padding
//   O^T = V^T P^T     512 latent dimensions x N heads
//
// An operand of one e4m3 value is too coarse for queries and weights, so each is the sum of two: q = hi + lo is exact
// (bf16 has 8 significant bits, e4m3 has 4), p = hi + lo is as good as bf16. Keys stay as they lie in the cache.
// hi and lo are columns beside each other, lo sixteen times larger, so that small values keep their low half.
//
// Warpgroup w scores block w of a pair of key blocks, then owns latent dimensions 256 w .. 256 w + 255 for both:
//
//   S^T of the own block | does any score pass the reference maximum? (one barrier) | P^T to shared memory | barrier
//   | for each of four tiles of 64 dimensions: tile = V^T P^T over the pair, O^T += tile
//
// The tensor cores add e4m3 products with about 14 bits, hence the fresh tile for each pair of blocks.
// V^T is read from the cache's rows by transposing loads: two bytes of a row travel as one 16-bit value, and a byte
// permutation sorts them. The order of keys that this gives inside sixteen is (0, 8, 1, 9, ...), and P^T is stored so.
//
// Compile-time constants, set by the Python beside it:
//   N        heads (and query positions) of a tile: 16, 32 or 64
//   BOX      keys that a copy brings: a page, at most 64
//   STAGES   key blocks in shared memory
//   PIECE, WHOLE  see walk.cuh
#include "walk.cuh"
#include "wgmma.cuh"

constexpr u32 kLatent = 512, kRow = 640, kPanel = kKeys * 128, kPanels = 5;  // a panel: 128 bytes of 64 rows; the fifth is rotary
constexpr u32 kKeyBytes = kKeys * kRow;
constexpr u32 kHeads = N < 32 ? N : 32;    // of one product, hi and lo: more would not fit the registers beside the output
constexpr u32 kQueryPanel = 2 * N * 128;  // kHeads rows of hi, as many of lo, then the next heads
constexpr u32 kGroups = N / 8;            // columns that a thread holds two of
constexpr u32 kMathThreads = 256, kThreads = 384, kLoadRegisters = 40, kMathRegisters = 232;
static_assert(kLoadRegisters + 2 * kMathRegisters <= 504, "what 384 threads get at launch: growing past it waits forever");
static_assert(kKeys % BOX == 0 && N % 16 == 0 && N <= 64, "boxes fill a block; tiles of heads");

// Weights are 2^(y - reference + kLift) with y = logit + log2(scale of the key). e4m3 ends at 448 = 2^(kLift + kRoom).
constexpr float kLift = 7.f, kRoom = 1.8f, kNothing = -1e30f;
constexpr float kLow = 16.f;              // low halves are stored so much larger: the least weight is 2^-20 of the largest

constexpr u32 kLowFp16 = 0x4c004c00u;     // kLow twice

enum Barrier : u32 { kAny = 1, kWeights = 2, kReference = 3 };

struct alignas(1024) Shared {
  u8 sQ[4][kQueryPanel];
  u8 sQRotary[N * 128];
  u8 sP[2 * N * 128];                     // 128 keys of each head; rows as in sQ
  u8 sK[STAGES][kKeyBytes];
  float sScale[STAGES][kKeys];
  float4 sColumn[N / 2];                  // of two heads: factors of their scores, and reference maxima less kLift
  float sFactor[N];                       // what a new reference multiplies sums and outputs with; at the end 1 / sum
  float sWarp[8][N];                      // maxima, or sums, of each warp's keys
  u32 sHidden[N];                         // keys at the request's end that a head's query position may not see
  u64 full[STAGES], empty[STAGES];
};

using Output = float[4][N / 2];

// ---------------------------------------------------------------- load
struct Ring {
  u32 stage = 0, parity = 0;

  DEVICE void advance(u32 count = 1) {
    stage += count;
    if (stage >= STAGES) stage -= STAGES, parity ^= 1;
  }
};

DEVICE void load_block(const Arguments& p, Shared& s, const TensorMap& map_k, const i32* gPages, u32 block, u32 keys, const Ring& at) {
  u64* full = &s.full[at.stage];
  const u32 boxes = ceil_div(keys, BOX);
  barrier_expect_bytes(full, boxes * BOX * (kRow + 4));
  for (u32 box = 0; box < boxes; ++box) {
    const u32 key = block * kKeys + box * BOX, offset = key % p.page;
    const i32 page = __ldg(gPages + key / p.page);
    const u8* gScales = p.gCache + u64(page) * p.page * (kRow + 4) + p.page * kRow + offset * 4;
    bulk_load(&s.sScale[at.stage][box * BOX], gScales, BOX * 4, full);
    u8* destination = s.sK[at.stage] + box * BOX * 128;
    if constexpr (BOX == kKeys) tma_load_4d(&map_k, full, destination, 0, offset, 0, page, kEvictFirst);
    else
      for (u32 panel = 0; panel < kPanels; ++panel) tma_load_4d(&map_k, full, destination + panel * kPanel, 0, offset, panel, page, kEvictFirst);
  }
}

DEVICE void load_keys(const Arguments& p, Shared& s, const TensorMap& map_k) {
  Walk walk(p);
  Segment segment{};
  Ring at;
  while (walk.next(p, segment)) {
    const i32* gPages = p.gPages + u64(segment.request) * p.pages_max;
    for (u32 block = segment.begin; block < segment.end; ++block, at.advance()) {
      barrier_wait(&s.empty[at.stage], at.parity ^ 1);
      load_block(p, s, map_k, gPages, block, smaller(kKeys, segment.length - block * kKeys), at);
    }
  }
}

// ---------------------------------------------------------------- query
// Sixteen values of a head in a lane as hi + lo, scaled so that the head's largest is in [128, 256).
DEVICE void store_query_values(Shared& s, u32 head, u32 first, uint4 v, float inverse) {
  const u32 x[4] = {v.x, v.y, v.z, v.w};
  u32 hi[2], lo[2];
#pragma unroll
  for (u32 i = 0; i < 4; ++i) {
    const float a = __uint_as_float(x[i] << 16) * inverse, b = __uint_as_float(x[i] & 0xffff0000u) * inverse;
    const u16 high = pack_e4m3(a, b);
    // Times kLow in fp16, whose 11 bits hold the difference exactly.
    const u16 low = e4m3_of_fp16(multiply_fp16(subtract_fp16(pack_fp16(a, b), fp16_of_e4m3(high)), kLowFp16));
    if (i % 2 == 0) hi[i / 2] = high, lo[i / 2] = low;
    else hi[i / 2] |= u32(high) << 16, lo[i / 2] |= u32(low) << 16;
  }
  const u32 row = head / kHeads * 2 * kHeads + head % kHeads;
  u8* at = s.sQ[first / 128] + row * 128 + ((first % 128 / 16 ^ (head & 7)) * 16) + first % 16;
  *reinterpret_cast<uint2*>(at) = make_uint2(hi[0], hi[1]);
  *reinterpret_cast<uint2*>(at + kHeads * 128) = make_uint2(lo[0], lo[1]);
}

DEVICE float largest(uint4 v) {
  const u32 x[4] = {v.x, v.y, v.z, v.w};
  float top = 0.f;
#pragma unroll
  for (u32 i = 0; i < 4; ++i) top = fmaxf(top, fmaxf(fabsf(__uint_as_float(x[i] << 16)), fabsf(__uint_as_float(x[i] & 0xffff0000u))));
  return top;
}

// Every warp of the math groups takes each eighth head of the tile.
DEVICE void convert_query(const Arguments& p, Shared& s, const u16* gQ, u32 request) {
  const u32 warp = threadIdx.x / 32, lane = lane_index();
#pragma unroll 4
  for (u32 head = warp; head < N; head += 8) {
    const u32 row = blockIdx.x * N + head;
    uint4 v[2] = {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
    u32 rotary = 0;
    if (row < p.rows) {
      const u16* gRow = gQ + (u64(request) * p.rows + row) * 576;
      v[0] = __ldg(reinterpret_cast<const uint4*>(gRow) + lane);
      v[1] = __ldg(reinterpret_cast<const uint4*>(gRow) + 32 + lane);
      rotary = __ldg(reinterpret_cast<const u32*>(gRow + kLatent) + lane);
    }
    float top = fmaxf(largest(v[0]), largest(v[1]));
#pragma unroll
    for (u32 i = 16; i > 0; i /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, i));
    // The power of two that brings `top` into [128, 256); a head of zeros gets any.
    const i32 exponent = larger(i32(__float_as_uint(top) >> 23) - 127, -60) - 7;
    const float inverse = __uint_as_float(u32(127 - exponent) << 23);
    store_query_values(s, head, lane * 8, v[0], inverse);
    store_query_values(s, head, 256 + lane * 8, v[1], inverse);
    const u32 scaled = pack_bf16(__uint_as_float(rotary << 16) * inverse, __uint_as_float(rotary & 0xffff0000u) * inverse);
    *reinterpret_cast<u32*>(s.sQRotary + head * 128 + ((lane / 4 ^ (head & 7)) * 16) + lane % 4 * 4) = scaled;
    if (lane == 0) {
      float* column = reinterpret_cast<float*>(&s.sColumn[head / 2]) + head % 2;
      // An infinite query has no weights; e4m3 would make it finite.
      column[0] = top < infinity() ? p.scale * __uint_as_float(u32(127 + exponent) << 23) : infinity() - infinity();
      column[2] = kNothing;
      s.sHidden[head] = p.causal ? p.s_q - 1 - smaller(row / p.heads, p.s_q - 1) : 0;
    }
  }
  fence_proxy_async();
  named_barrier_sync(kWeights, kMathThreads);
}

// ---------------------------------------------------------------- scores
// S^T = K Q^T of one block and heads from `head`: first columns from hi, then from lo. The rotary part has registers of
// its own: only products of the same shape follow each other in order in the same ones.
DEVICE void multiply_scores(Shared& s, float (&rS)[kHeads], float (&rRotary)[kHeads / 2], u32 stage, u32 head) {
  const u32 sK = smem_address(s.sK[stage]);
  pin_registers(rS);
  pin_registers(rRotary);
  wgmma_fence();
#pragma unroll
  for (u32 panel = 0; panel < 4; ++panel) {
    const u64 k = k_major_descriptor(sK + panel * kPanel), q = k_major_descriptor(smem_address(s.sQ[panel]) + head * 256);
#pragma unroll
    for (u32 step = 0; step < 4; ++step) wgmma_e4m3(rS, k + 2 * step, q + 2 * step, panel + step != 0);
  }
  const u64 k = k_major_descriptor(sK + 4 * kPanel), q = k_major_descriptor(smem_address(s.sQRotary) + head * 128);
#pragma unroll
  for (u32 step = 0; step < 4; ++step) wgmma_bf16(rRotary, k + 2 * step, q + 2 * step, step != 0);
  wgmma_commit();
  wgmma_wait<0>();
  pin_registers(rS);
  pin_registers(rRotary);
}

// Sums become logits in base 2 plus the key's log2(scale), -infinity where a key does not count. True if the
// reference maximum has to move: a weight would not fit e4m3.
DEVICE bool logits(const Arguments& p, Shared& s, float (&rY)[N / 2], const float (&rS)[kHeads], const float (&rRotary)[kHeads / 2], const float (&scale)[2], u32 head, u32 first_key, u32 length) {
  const u32 lane = lane_index();
  const bool limit = first_key + kKeys + (p.causal ? p.s_q - 1 : 0) > length;
  const float lift[2] = {log2_fast(scale[0]), log2_fast(scale[1])};
  float top = -infinity();
#pragma unroll
  for (u32 c = 0; c < kHeads / 8; ++c) {
    const float4 column = s.sColumn[head / 2 + 4 * c + lane % 4];
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
      const u32 r = i / 2;
      float& y = rY[head / 2 + 4 * c + i];
      y = fmaf(fmaf(rS[kHeads / 2 + 4 * c + i], 1.f / kLow, rS[4 * c + i] + rRotary[4 * c + i]) * scale[r], i % 2 ? column.y : column.x, lift[r]);
      if (limit) {
        const u32 key = first_key + threadIdx.x / 32 % 4 * 16 + lane / 4 + 8 * r;
        if (key + s.sHidden[head + 8 * c + lane % 4 * 2 + i % 2] >= length) y = -infinity();
      }
      top = fmaxf(top, y - (i % 2 ? column.w : column.z));
    }
  }
  return top > kLift + kRoom;
}

// Seldom: the largest logit of every head becomes its reference, and what was summed so far is scaled to it.
DEVICE void move_reference(Shared& s, const float (&rY)[N / 2], Output& rO, float (&rSum)[N / 4]) {
  const u32 lane = lane_index(), warp = threadIdx.x / 32;
#pragma unroll
  for (u32 c = 0; c < kGroups; ++c)
#pragma unroll
    for (u32 e = 0; e < 2; ++e) {
      float top = fmaxf(rY[4 * c + e], rY[4 * c + 2 + e]);
#pragma unroll
      for (u32 i = 4; i < 32; i *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, i));
      if (lane < 4) s.sWarp[warp][8 * c + 2 * lane + e] = top;
    }
  named_barrier_sync(kReference, kMathThreads);
  if (threadIdx.x < N) {
    float* reference = reinterpret_cast<float*>(&s.sColumn[threadIdx.x / 2]) + 2 + threadIdx.x % 2;
    const float before = *reference;
    float after = before;
    for (u32 w = 0; w < 8; ++w) after = fmaxf(after, s.sWarp[w][threadIdx.x] - kLift);
    s.sFactor[threadIdx.x] = exp2_fast(before - after);
    *reference = after;
  }
  named_barrier_sync(kReference, kMathThreads);
#pragma unroll
  for (u32 c = 0; c < kGroups; ++c) {
    const float2 factor = *reinterpret_cast<const float2*>(&s.sFactor[8 * c + lane % 4 * 2]);
    rSum[2 * c] *= factor.x, rSum[2 * c + 1] *= factor.y;
#pragma unroll
    for (u32 tile = 0; tile < 4; ++tile)
#pragma unroll
      for (u32 i = 0; i < 4; ++i) rO[tile][4 * c + i] *= i % 2 ? factor.y : factor.x;
  }
}

// P^T of this warp's sixteen keys, one 16-byte chunk of each head's row, and their sums.
DEVICE void store_weights(Shared& s, const float (&rY)[N / 2], const float (&scale)[2], float (&rSum)[N / 4]) {
  const u32 lane = lane_index(), chunk = threadIdx.x / 32;
  const float inverse[2] = {1.f / scale[0], 1.f / scale[1]};
  u32 packed[2][kGroups];
#pragma unroll
  for (u32 c = 0; c < kGroups; ++c) {
    const float4 column = s.sColumn[4 * c + lane % 4];
    u16 hi[2], lo[2];
#pragma unroll
    for (u32 e = 0; e < 2; ++e) {
      const float reference = e ? column.w : column.z;
      const float a = exp2_fast(rY[4 * c + e] - reference), b = exp2_fast(rY[4 * c + 2 + e] - reference);
      rSum[2 * c + e] = fmaf(a, inverse[0], fmaf(b, inverse[1], rSum[2 * c + e]));
      hi[e] = pack_e4m3(a, b);
      lo[e] = e4m3_of_fp16(multiply_fp16(subtract_fp16(pack_fp16(a, b), fp16_of_e4m3(hi[e])), kLowFp16));
    }
    packed[0][c] = u32(hi[0]) | u32(hi[1]) << 16;
    packed[1][c] = u32(lo[0]) | u32(lo[1]) << 16;
  }
#pragma unroll
  for (u32 i = 0; i < 2 * kGroups; i += 4) {
    const u32 matrix = i + lane / 8, head = matrix % kGroups * 8 + lane % 8;
    const u32 row = head / kHeads * 2 * kHeads + matrix / kGroups * kHeads + head % kHeads;
    const u32 address = smem_address(s.sP) + row * 128 + ((chunk ^ (head & 7)) * 16);
    stmatrix_x4_transposed(address, packed[i / kGroups][i % kGroups], packed[(i + 1) / kGroups][(i + 1) % kGroups],
                           packed[(i + 2) / kGroups][(i + 2) % kGroups], packed[(i + 3) / kGroups][(i + 3) % kGroups]);
  }
}

// The weights of keys past the end are zero, but what the cache holds there may be NaN, and 0 x NaN is NaN.
DEVICE void clear_tail(Shared& s, u32 stage, u32 keys) {
  for (u32 i = threadIdx.x % 128; i < 4 * (kKeys - keys) * 8; i += 128) {
    const u32 panel = i / ((kKeys - keys) * 8), rest = i % ((kKeys - keys) * 8);
    *reinterpret_cast<uint4*>(s.sK[stage] + panel * kPanel + (keys * 8 + rest) * 16) = make_uint4(0, 0, 0, 0);
  }
}

// ---------------------------------------------------------------- values
// The A operand of 64 latent dimensions by 32 keys. Row r of a warp's sixteen is dimension 2 (r % 8) + r / 8.
DEVICE void load_values(u32 (&rV)[4], u32 sK, u32 dimension, u32 key) {
  const u32 lane = lane_index(), column = dimension + threadIdx.x / 32 % 4 * 16;
  u32 m[4];
  ldmatrix_x4_transposed(sK + column / 128 * kPanel + (key + lane) * 128 + ((column % 128 / 16 ^ (lane & 7)) * 16), m);
  rV[0] = __byte_perm(m[0], m[1], 0x6240);
  rV[1] = __byte_perm(m[0], m[1], 0x7351);
  rV[2] = __byte_perm(m[2], m[3], 0x6240);
  rV[3] = __byte_perm(m[2], m[3], 0x7351);
}

DEVICE void load_tile(u32 (&rV)[4][4], const u32 (&sK)[2], u32 dimension) {
#pragma unroll
  for (u32 step = 0; step < 4; ++step) load_values(rV[step], sK[step / 2], dimension, step % 2 * 32);
}

// `free` is called when the last values are in registers: the loader need not wait for their products.
template <typename Free>
DEVICE void multiply_values(Shared& s, Output& rO, const u32 (&sK)[2], u32 half, Free free) {
  u32 rV[2][4][4];
  load_tile(rV[0], sK, half * 256);
#pragma unroll
  for (u32 tile = 0; tile < 4; ++tile)
#pragma unroll
    for (u32 head = 0; head < N; head += kHeads) {
      const u64 weights = k_major_descriptor(smem_address(s.sP) + head * 256);
      float rT[kHeads];
      pin_registers(rT);
      wgmma_fence();
#pragma unroll
      for (u32 step = 0; step < 4; ++step) wgmma_e4m3_rs(rT, rV[tile % 2][step], weights + 2 * step, step != 0);
      wgmma_commit();
      if (tile < 3 && head == 0) load_tile(rV[(tile + 1) % 2], sK, half * 256 + (tile + 1) * 64);
      if (tile == 2 && head == 0) free();
      wgmma_wait<0>();
      pin_registers(rT);
#pragma unroll
      for (u32 i = 0; i < kHeads / 2; ++i) rO[tile][head / 2 + i] += fmaf(rT[kHeads / 2 + i], 1.f / kLow, rT[i]);
    }
}

// ---------------------------------------------------------------- store
// Sums of all keys into sFactor as what outputs are multiplied with; lse.
DEVICE void finish_sums(const Arguments& p, Shared& s, const Segment& segment, const float (&rSum)[N / 4]) {
  const u32 lane = lane_index(), warp = threadIdx.x / 32;
#pragma unroll
  for (u32 i = 0; i < N / 4; ++i) {
    float sum = rSum[i];
#pragma unroll
    for (u32 j = 4; j < 32; j *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, j);
    if (lane < 4) s.sWarp[warp][i / 2 * 8 + 2 * lane + i % 2] = sum;
  }
  named_barrier_sync(kReference, kMathThreads);
  const u32 row = blockIdx.x * N + threadIdx.x;
  if (threadIdx.x < N && row < p.rows) {
    float sum = 0.f;
    for (u32 w = 0; w < 8; ++w) sum += s.sWarp[w][threadIdx.x];
    const float reference = reinterpret_cast<const float*>(&s.sColumn[threadIdx.x / 2])[2 + threadIdx.x % 2];
    const bool any = !(sum == 0.f);
    float lse = any ? reference + log2_fast(sum) : -infinity();
    if (segment.split) {
      p.gPartialLse[(u64(segment.slot) * p.rows + row) * 4] = lse;
    } else {
      const u32 position = row / p.heads, head = row % p.heads;
      if (p.gSink != nullptr && any) sum += exp2_fast(fmaf(__ldg(p.gSink + head), kLog2e, -reference));
      p.gLse[(u64(segment.request) * p.heads + head) * p.s_q + position] = any ? kLn2 * lse : infinity();
    }
    s.sFactor[threadIdx.x] = any ? 1.f / sum : 0.f;
  }
  named_barrier_sync(kReference, kMathThreads);
}

DEVICE void store(const Arguments& p, Shared& s, const Segment& segment, const Output& rO, const float (&rSum)[N / 4], u32 half) {
  finish_sums(p, s, segment, rSum);
  const u32 lane = lane_index(), dimension = half * 256 + threadIdx.x / 32 % 4 * 16 + lane / 4 * 2;
#pragma unroll
  for (u32 c = 0; c < kGroups; ++c)
#pragma unroll
    for (u32 e = 0; e < 2; ++e) {
      const u32 column = 8 * c + lane % 4 * 2 + e, row = blockIdx.x * N + column;
      if (row >= p.rows) continue;
      const float inverse = s.sFactor[column];
      if (segment.split) {
        float* gRow = static_cast<float*>(p.gPartial) + (u64(segment.slot) * p.rows + row) * kLatent + dimension;
#pragma unroll
        for (u32 tile = 0; tile < 4; ++tile)
          *reinterpret_cast<float2*>(gRow + tile * 64) = make_float2(rO[tile][4 * c + e] * inverse, rO[tile][4 * c + 2 + e] * inverse);
      } else {
        u16* gRow = p.gOut + (u64(segment.request) * p.rows + row) * kLatent + dimension;
#pragma unroll
        for (u32 tile = 0; tile < 4; ++tile)
          *reinterpret_cast<u32*>(gRow + tile * 64) = pack_bf16(rO[tile][4 * c + e] * inverse, rO[tile][4 * c + 2 + e] * inverse);
      }
    }
}

// ---------------------------------------------------------------- a math warpgroup
DEVICE void attend(const Arguments& p, Shared& s, const u16* gQ, u32 half) {
  Walk walk(p);
  Segment segment{};
  Ring at;
  const u32 warp_key = threadIdx.x / 32 % 4 * 16 + lane_index() / 4;
  while (walk.next(p, segment)) {
    Output rO;
    float rSum[N / 4];
#pragma unroll
    for (u32 i = 0; i < N / 2; ++i)
#pragma unroll
      for (u32 tile = 0; tile < 4; ++tile) rO[tile][i] = 0.f;
#pragma unroll
    for (u32 i = 0; i < N / 4; ++i) rSum[i] = 0.f;
    convert_query(p, s, gQ, segment.request);

    for (u32 block = segment.begin; block < segment.end; block += 2) {
      const bool pair = block + 1 < segment.end, mine = half == 0 || pair;
      Ring second = at;
      second.advance();
      const u32 stage = half == 0 ? at.stage : second.stage, first_key = (block + half) * kKeys;
      float rY[N / 2], scale[2] = {1.f, 1.f};
      bool past = false;
      if (mine) {
        barrier_wait(&s.full[stage], half == 0 ? at.parity : second.parity);
        const u32 keys = smaller(kKeys, segment.length - first_key);
#pragma unroll
        for (u32 r = 0; r < 2; ++r)
          if (warp_key + 8 * r < keys) scale[r] = s.sScale[stage][warp_key + 8 * r];
#pragma unroll
        for (u32 head = 0; head < N; head += kHeads) {
          float rS[kHeads], rRotary[kHeads / 2];
          multiply_scores(s, rS, rRotary, stage, head);
          past |= logits(p, s, rY, rS, rRotary, scale, head, first_key, segment.length);
        }
        if (keys < kKeys) clear_tail(s, stage, keys);
      } else {
#pragma unroll
        for (u32 i = 0; i < N / 2; ++i) rY[i] = -infinity();
      }
      if (named_barrier_any(kAny, kMathThreads, past)) move_reference(s, rY, rO, rSum);
      store_weights(s, rY, scale, rSum);
      fence_proxy_async();
      __syncwarp();
      named_barrier_sync(kWeights, kMathThreads);

      if (half == 1) barrier_wait(&s.full[at.stage], at.parity);
      else if (pair) barrier_wait(&s.full[second.stage], second.parity);
      // Without a second block its weights are zeros, for which any finite values do.
      const u32 sK[2] = {smem_address(s.sK[at.stage]), smem_address(s.sK[pair ? second.stage : at.stage])};
      multiply_values(s, rO, sK, half, [&] {
        __syncwarp();
        if (lane_index() == 0) {
          barrier_arrive(&s.empty[at.stage]);
          if (pair) barrier_arrive(&s.empty[second.stage]);
        }
      });
      at.advance();
      if (pair) at.advance();
    }
    store(p, s, segment, rO, rSum, half);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    mla_fp8_decode(const __grid_constant__ TensorMap map_k, const u16* __restrict__ gQ, const __grid_constant__ Arguments p) {
  extern __shared__ __align__(1024) u8 memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  const u32 warp = warp_index();
  if (warp == 0 && elect_one()) {
    prefetch_tensor_map(&map_k);
    for (u32 i = 0; i < STAGES; ++i) {
      barrier_init(&s.full[i], 1);
      barrier_init(&s.empty[i], 8);
    }
    barrier_init_fence();
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  __syncthreads();
  if (warp >= 8) {
    registers_shrink<kLoadRegisters>();
    if (warp == 8 && elect_one()) load_keys(p, s, map_k);
  } else {
    registers_grow<kMathRegisters>();
    attend(p, s, gQ, warp / 4);
  }
}
