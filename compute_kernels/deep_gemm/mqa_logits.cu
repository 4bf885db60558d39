// logits[i, j] = scale[j] * sum over heads h of  weight[i, h] * max(q[i, h] . k[j], 0)     for the keys j that query i sees
//
// Keys are the rows of the product, (query, head) pairs its columns: so a thread sums over heads in its own registers and
// then over the four lanes of its quad. One warpgroup loads; each of two others takes 64 keys of a stage. Queries of a
// tile share every key that is loaded. Each of the two works on two accumulators of at most 128 columns in turn: while
// one is summed, the other's products run. A tile of more columns than that fills both, else they take tiles by turns.
//
// Work is counted in units: 128 keys of one request (PAGED 1) or of QUERIES neighbouring queries (PAGED 0, also called a
// request here). Every block takes an equal share of all units, one after the other, whichever requests they belong to.
//
// PAGED 0: keys lie in a row, each query sees [start, end); a block finds its share itself.
// PAGED 1: a request's keys lie in pages of 64 (values, then the scales of the page); a plan of (request, unit) pairs says
// where each share begins; query n of a request sees all but its last next_n - 1 - n keys.
//
// Compile-time constants: HEADS, QUERIES, HEAD_DIM, STAGES, PAGED
#include "wgmma.cuh"

constexpr u32 kParts = HEADS * QUERIES > 128 ? 2 : 1;                // accumulators of a tile
constexpr u32 kUsed = ceil_div(QUERIES, kParts);                      // queries of one
constexpr u32 kSlots = kUsed > 4 ? 8 : kUsed > 2 ? 4 : kUsed;        // so many are worked on: 1, 2, 4 or 8
constexpr u32 kColumns = HEADS * kSlots;
constexpr u32 kKeys = 128, kThreads = 384;
constexpr u32 kPage = 64;
constexpr u32 kPartBytes = kColumns * HEAD_DIM, kQueryBytes = kParts * kPartBytes;
constexpr u32 kKeyBytes = kKeys * HEAD_DIM, kScaleBytes = kKeys * 4;
constexpr u32 kLoadRegisters = 40, kMathRegisters = 232;
static_assert(kColumns <= 128 && HEADS % 8 == 0, "two accumulators a thread");

struct Arguments {
  const float* gWeights;   // [queries, HEADS]
  const i32 *gStart, *gEnd;  // plain: [queries]; paged: gEnd is the length of each request
  const i32* gPlan;        // paged: [parts + 1, 2]
  const i32* gPages;       // paged: [requests, pages_max]
  float* gOut;             // [queries, stride]
  u32 queries, keys, requests, pages_max, columns, stride, clean, compressed;
};

// What the queries of one request see together; keys that all of them see.
struct Range {
  u32 first, units;
  u32 all_from, all_to;
};

DEVICE Range range_of(const Arguments& p, u32 request) {
  if constexpr (PAGED) {
    const u32 length = u32(__ldg(p.gEnd + request));
    return Range{0, larger(ceil_div(length, kKeys), 1u), 0, length - smaller(length, QUERIES - 1u)};
  }
  u32 low = 0xffffffffu, high = 0, all_from = 0, all_to = request * QUERIES + QUERIES > p.queries ? 0 : 0xffffffffu;
  for (u32 i = 0; i < QUERIES && request * QUERIES + i < p.queries; ++i) {
    const i32 start = __ldg(p.gStart + request * QUERIES + i), end = __ldg(p.gEnd + request * QUERIES + i);
    all_from = larger(all_from, u32(start)), all_to = smaller(all_to, u32(larger(end, 0)));
    if (start < end) low = smaller(low, u32(start)), high = larger(high, u32(end));
  }
  const u32 first = high == 0 ? 0 : low / 32 * 32;
  return Range{first, larger(ceil_div(high == 0 ? 0 : high - first, kKeys), 1u), all_from, all_to};
}

// A block's share: from a unit of a request up to, but not including, another.
struct Share {
  u32 request, unit, last_request, last_unit;
};

struct Segment {
  u32 query, request, first_key, tiles;
  Range range;
};

struct Walk {
  Share at;
  DEVICE explicit Walk(const Share& share) : at(share) {}

  DEVICE bool next(const Arguments& p, Segment& s) {
    if (at.request >= p.requests || at.request > at.last_request || (at.request == at.last_request && at.unit >= at.last_unit)) return false;
    const Range range = range_of(p, at.request);
    const u32 end = at.request == at.last_request ? at.last_unit : range.units;
    s = Segment{at.request * QUERIES, at.request, range.first + at.unit * kKeys, end - at.unit, range};
    ++at.request, at.unit = 0;
    return true;
  }
};

// PAGED 0: every thread counts the units of a few requests; whose units hold an end of the block's share writes it down.
DEVICE void find_share(const Arguments& p, u32* sSums, Share& sShare) {
  const u32 each = ceil_div(p.requests, kThreads), first = smaller(threadIdx.x * each, p.requests), last = smaller(first + each, p.requests);
  u32 mine = 0;
  for (u32 request = first; request < last; ++request) mine += range_of(p, request).units;
  u32 upto = mine;
#pragma unroll
  for (u32 d = 1; d < 32; d *= 2) {
    const u32 left = __shfl_up_sync(0xffffffffu, upto, d);
    if (lane_index() >= d) upto += left;
  }
  if (lane_index() == 31) sSums[threadIdx.x / 32] = upto;
  __syncthreads();
  u32 total = 0;
#pragma unroll
  for (u32 warp = 0; warp < kThreads / 32; ++warp) {
    if (warp == threadIdx.x / 32) upto += total;
    total += sSums[warp];
  }
#pragma unroll
  for (u32 edge = 0; edge < 2; ++edge) {
    u32* where = edge == 0 ? &sShare.request : &sShare.last_request;
    const u32 target = u32(u64(total) * (blockIdx.x + edge) / gridDim.x);
    if (threadIdx.x == 0 && target == total) where[0] = p.requests, where[1] = 0;
    u32 before = upto - mine;
    if (target < before || target >= upto) continue;
    u32 request = first, units;
    while (target >= before + (units = range_of(p, request).units)) before += units, ++request;
    where[0] = request, where[1] = target - before;
  }
}

struct Ring {
  u32 stage = 0, parity = 0;
  DEVICE void next() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};

struct alignas(1024) Shared {
  u8 sQ[2][kQueryBytes];
  u8 sK[STAGES][kKeyBytes];
  float sScales[STAGES][kKeys];
  u64 fullQ[2], emptyQ[2], full[STAGES], empty[STAGES];
  Share share;
  u32 sums[kThreads / 32];
};

// ---------------------------------------------------------------- load
DEVICE void load(const Arguments& p, Shared& s, const TensorMap& map_q, const TensorMap& map_k, const TensorMap& map_scales) {
  Walk walk(s.share);
  Segment segment;
  Ring ring;
  for (u32 turn = 0; walk.next(p, segment); ++turn) {
    const u32 slot = turn % 2;
    barrier_wait(&s.emptyQ[slot], (turn / 2 & 1) ^ 1);
    barrier_expect_bytes(&s.fullQ[slot], kQueryBytes);
    tma_load_2d(&map_q, &s.fullQ[slot], s.sQ[slot], 0, segment.query * HEADS);
    for (u32 tile = 0; tile < segment.tiles; ++tile, ring.next()) {
      const u32 key = segment.first_key + tile * kKeys;
      u32 pages[2];
#pragma unroll
      for (u32 i = 0; i < 2 && PAGED; ++i) {
        const bool used = key + i * kPage < u32(__ldg(p.gEnd + segment.request));
        pages[i] = used ? __ldg(p.gPages + u64(segment.request) * p.pages_max + key / kPage + i) : 0;
      }
      barrier_wait(&s.empty[ring.stage], ring.parity ^ 1);
      u64* full = &s.full[ring.stage];
      barrier_expect_bytes(full, kKeyBytes + kScaleBytes);
      if constexpr (PAGED) {
#pragma unroll
        for (u32 i = 0; i < 2; ++i) {
          tma_load_3d(&map_k, full, s.sK[ring.stage] + i * (kKeyBytes / 2), 0, 0, pages[i], kEvictFirst);
          tma_load_2d(&map_scales, full, s.sScales[ring.stage] + i * kPage, 0, pages[i], kEvictFirst);
        }
      } else {
        tma_load_2d(&map_k, full, s.sK[ring.stage], 0, key);
        tma_load_2d(&map_scales, full, s.sScales[ring.stage], key, 0);
      }
    }
  }
}

// Three warps that would idle write -infinity where no tile comes.
DEVICE void fill(const Arguments& p, const Shared& s, u32 thread, u32 threads) {
  Walk walk(s.share);
  Segment segment;
  while (walk.next(p, segment)) {
    if (segment.first_key > segment.range.first) continue;  // whoever has its first unit fills
    for (u32 i = 0; i < QUERIES && segment.query + i < p.queries; ++i) {
      float* gRow = p.gOut + u64(segment.query + i) * p.stride;
      u32 from = segment.range.first + segment.range.units * kKeys;
      if (!PAGED && p.compressed) {
        from = u32(larger(__ldg(p.gEnd + segment.query + i) - __ldg(p.gStart + segment.query + i), 0));
      } else {
        for (u32 j = thread; j < smaller(segment.range.first, p.columns); j += threads) gRow[j] = -infinity();
      }
      for (u32 j = from + thread; j < p.columns; j += threads) gRow[j] = -infinity();
    }
  }
}

// ---------------------------------------------------------------- multiply
using Scores = float[kColumns / 2];

DEVICE u64 descriptor(u32 address) { return narrow_descriptor<HEAD_DIM>(address); }

// Of four values that are each spread over the four lanes of a quad, lane l returns the sum of the l-th.
DEVICE float quad_sums(float a, float b, float c, float d) {
  const bool upper = lane_index() & 2, odd = lane_index() & 1;
  const float first = (upper ? c : a) + __shfl_xor_sync(0xffffffffu, upper ? a : c, 2);
  const float second = (upper ? d : b) + __shfl_xor_sync(0xffffffffu, upper ? b : d, 2);
  return (odd ? second : first) + __shfl_xor_sync(0xffffffffu, odd ? first : second, 1);
}

// A thread sums for two keys and kSlots queries; of these values lane l of a quad stores every fourth.
constexpr u32 kValues = 2 * kSlots, kStores = ceil_div(kValues, 4);
constexpr u32 kRows = ceil_div(kSlots, 4);  // output rows of a lane and part; its stores take them by turns

// Where this lane's values of a part go, and which keys their queries see.
struct View {
  u32 start[kParts][kRows], end[kParts][kRows];
  float* gRow[kParts][kRows];  // null: nothing to store

  DEVICE static u32 slot(u32 i) { return (i * 4 + lane_index() % 4) % kSlots; }
  DEVICE static u32 later_key(u32 i) { return (i * 4 + lane_index() % 4) / kSlots % 2 * 8; }

  DEVICE void fetch(const Arguments& p, const Segment& segment) {
#pragma unroll
    for (u32 part = 0; part < kParts; ++part) {
#pragma unroll
      for (u32 i = 0; i < kRows; ++i) {
        const u32 q = part * kSlots + slot(i);
        start[part][i] = end[part][i] = 0;
        gRow[part][i] = nullptr;
        if (lane_index() % 4 >= kValues || q >= QUERIES || segment.query + q >= p.queries) continue;
        gRow[part][i] = p.gOut + u64(segment.query + q) * p.stride;
        if constexpr (PAGED) {
          end[part][i] = u32(larger(__ldg(p.gEnd + segment.request) - i32(QUERIES - 1 - q), 0));
        } else {
          start[part][i] = __ldg(p.gStart + segment.query + q), end[part][i] = __ldg(p.gEnd + segment.query + q);
        }
      }
    }
  }
};

// Where not all queries see all keys of a tile, or keys move to the front of their rows.
DEVICE void put(const Arguments& p, float* gRow, u32 key, u32 start, u32 end, float value) {
  const bool seen = key >= start && key < end;
  if (!seen && (!p.clean || p.compressed)) return;
  const u32 column = p.compressed ? key - start : key;
  if (column < p.columns) gRow[column] = seen ? value : -infinity();
}

// One warpgroup's way through the tiles of a segment.
template <u32 kGroup>
struct Math {
  const Arguments& p;
  Shared& s;
  const u32 row = kGroup * 64 + threadIdx.x / 32 % 4 * 16 + lane_index() / 4;
  Ring issued, summed;  // the stages whose products are started next, and whose sums are made next
  Segment segment;
  View view;
  float weight[kParts][kColumns / 4];

  DEVICE void fetch_weights() {
#pragma unroll
    for (u32 part = 0; part < kParts; ++part) {
#pragma unroll
      for (u32 i = 0; i < kColumns / 4; ++i) {
        const u32 column = part * kColumns + i / 2 * 8 + lane_index() % 4 * 2 + i % 2, q = column / HEADS;
        const bool used = q < QUERIES && segment.query + q < p.queries;
        weight[part][i] = used ? __ldg(p.gWeights + u64(segment.query) * HEADS + column) : 0.f;
      }
    }
  }

  // Without `real` nothing waits for the operands and nobody looks at the result: the assembler wants every product that
  // overlaps another on the straight way through the loop.
  template <u32 kPart>
  DEVICE void start(Scores& rS, u32 slot, bool real) {
    if (kPart == 0 && real) barrier_wait(&s.full[issued.stage], issued.parity);
    const u64 a = descriptor(smem_address(s.sK[issued.stage]) + kGroup * 64 * HEAD_DIM);
    const u64 b = descriptor(smem_address(s.sQ[slot]) + kPart * kPartBytes);
    pin_registers(rS);
    wgmma_fence();
#pragma unroll
    for (u32 step = 0; step < HEAD_DIM / 32; ++step) wgmma_e4m3(rS, a + step * 2, b + step * 2, step != 0);
    wgmma_commit();
    if (kPart == kParts - 1 && real) issued.next();
  }

  // Sums the columns into logits of two keys and kSlots queries a thread, sums these over quads, and stores them.
  template <u32 kPart>
  DEVICE void sum(Scores& rS, u32 first_key) {
    pin_registers(rS);
    float scale[kStores];
#pragma unroll
    for (u32 i = 0; i < kStores; ++i) scale[i] = load_shared_float(smem_address(s.sScales[summed.stage]) + (row + View::later_key(i)) * 4);
    if constexpr (kPart == kParts - 1) {
      __syncwarp();
      if (lane_index() == 0) barrier_arrive(&s.empty[summed.stage]);
      summed.next();
    }
    float value[kStores];
    constexpr u32 kEights = HEADS / 8;
    float part[kStores * 4];
#pragma unroll
    for (u32 i = 0; i < kStores * 4; ++i) part[i] = 0.f;
#pragma unroll
    for (u32 j = 0; j < kColumns / 8; ++j) {
      const u32 slot = j / kEights;
#pragma unroll
      for (u32 c = 0; c < 2; ++c) {
        part[slot] = fmaf(weight[kPart][2 * j + c], fmaxf(rS[4 * j + c], 0.f), part[slot]);
        part[kSlots + slot] = fmaf(weight[kPart][2 * j + c], fmaxf(rS[4 * j + 2 + c], 0.f), part[kSlots + slot]);
      }
    }
#pragma unroll
    for (u32 i = 0; i < kStores; ++i) value[i] = quad_sums(part[4 * i], part[4 * i + 1], part[4 * i + 2], part[4 * i + 3]);
    const bool simple = first_key >= segment.range.all_from && first_key + kKeys <= smaller(segment.range.all_to, p.columns) && !p.compressed;
#pragma unroll
    for (u32 i = 0; i < kStores; ++i) {
      const float logit = value[i] * scale[i];
      const u32 key = first_key + row + View::later_key(i);
      float* gRow = view.gRow[kPart][i % kRows];
      if (gRow == nullptr) continue;
      if (simple) gRow[key] = logit;
      else put(p, gRow, key, view.start[kPart][i % kRows], view.end[kPart][i % kRows], logit);
    }
  }

  // Rounds of four sums, of which three hide behind products. A round ends with nothing in flight: a product that crosses
  // a loop's end makes the assembler serialise all of them.
  DEVICE void run_segment(u32 slot) {
    constexpr u32 kSteps = 4, kTiles = kSteps / kParts;  // of one round
    Scores rS[2];
    for (u32 tile = 0; tile < segment.tiles; tile += kTiles) {
      start<0>(rS[0], slot, true);
#pragma unroll
      for (u32 step = 0; step < kSteps; ++step) {
        const u32 at = tile + step / kParts;
        if (step + 1 < kSteps) {
          if (step % 2 == 0) start<kParts - 1>(rS[1], slot, tile + (step + 1) / kParts < segment.tiles);
          else start<0>(rS[0], slot, tile + (step + 1) / kParts < segment.tiles);
          wgmma_wait<1>();
        } else {
          wgmma_wait<0>();
        }
        if (at < segment.tiles) {
          if (step % 2 == 0) sum<0>(rS[0], segment.first_key + at * kKeys);
          else sum<kParts - 1>(rS[1], segment.first_key + at * kKeys);
        }
      }
    }
  }
};

template <u32 kGroup>
DEVICE void multiply(const Arguments& p, Shared& s) {
  Walk walk(s.share);
  Math<kGroup> math{p, s};
  for (u32 turn = 0; walk.next(p, math.segment); ++turn) {
    const u32 slot = turn % 2;
    math.view.fetch(p, math.segment);
    math.fetch_weights();
    barrier_wait(&s.fullQ[slot], turn / 2 & 1);
    math.run_segment(slot);
    __syncwarp();
    if (lane_index() == 0) barrier_arrive(&s.emptyQ[slot]);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    mqa_logits(const __grid_constant__ TensorMap map_q, const __grid_constant__ TensorMap map_k,
               const __grid_constant__ TensorMap map_scales, const __grid_constant__ Arguments p) {
  extern __shared__ __align__(1024) u8 memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  const u32 warp = warp_index();
  if (warp == 0 && elect_one()) {
    prefetch_tensor_map(&map_q);
    prefetch_tensor_map(&map_k);
    prefetch_tensor_map(&map_scales);
    for (u32 i = 0; i < 2; ++i) barrier_init(&s.fullQ[i], 1), barrier_init(&s.emptyQ[i], 8);
    for (u32 i = 0; i < STAGES; ++i) barrier_init(&s.full[i], 1), barrier_init(&s.empty[i], 8);
    barrier_init_fence();
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  if constexpr (PAGED) {
    if (threadIdx.x < 4) (&s.share.request)[threadIdx.x] = u32(__ldg(p.gPlan + blockIdx.x * 2 + threadIdx.x));
  } else {
    find_share(p, s.sums, s.share);
  }
  __syncthreads();
  if (warp >= 8) {
    registers_shrink<kLoadRegisters>();
    if (warp == 8) {
      if (elect_one()) load(p, s, map_q, map_k, map_scales);
      __syncwarp();
    } else if (p.clean) {
      fill(p, s, threadIdx.x - 9 * 32, 96);
    }
  } else {
    registers_grow<kMathRegisters>();
    if (warp < 4) multiply<0>(p, s);
    else multiply<1>(p, s);
  }
}
