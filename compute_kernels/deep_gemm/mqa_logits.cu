// logits[i, j] = scale[j] * sum over heads h of  weight[i, h] * max(q[i, h] . k[j], 0)     for the keys j that query i sees
//
// Keys are the rows of the product, (query, head) pairs its columns: so a thread sums over heads in its own registers and
// then over the four lanes of its quad. One warpgroup loads; each of two others takes 64 keys of a stage. Their products
// and sums alternate by themselves: strict turns were 2 % slower. Queries of a tile share every key that is loaded: QUERIES x HEADS columns, at most 256.
//
// PAGED 0: keys lie in a row, each query sees [start, end); blocks of queries go round the grid, the last (longest) first.
// PAGED 1: a request's keys lie in pages of 64 (values, then the scales of the page); a plan of (request, unit of 128
// keys) pairs says where each part begins; query n of a request sees all but its last next_n - 1 - n keys.
//
// Compile-time constants: HEADS, QUERIES, HEAD_DIM, STAGES, PAGED
#include "wgmma.cuh"

constexpr u32 kColumns = HEADS * QUERIES, kKeys = 128, kThreads = 384;
constexpr u32 kPage = 64;
constexpr u32 kQueryBytes = kColumns * HEAD_DIM, kStageBytes = kKeys * HEAD_DIM, kPageBytes = kPage * (HEAD_DIM + 4);
constexpr u32 kLoadRegisters = 40, kMathRegisters = 232;
static_assert(kColumns <= 256 && HEADS % 8 == 0, "shape of wgmma");

struct Arguments {
  const float* gWeights;   // [queries, HEADS]
  const float* gScales;    // plain: [keys]
  const i32 *gStart, *gEnd;  // plain: [queries]; paged: gEnd is the length of each request
  const i32* gPlan;        // paged: [parts + 1, 2]
  const i32* gPages;       // paged: [requests, pages_max]
  const u8* gCache;        // paged: pages of kPageBytes
  float* gOut;             // [queries, stride]
  u32 queries, keys, requests, pages_max, columns, stride, clean, compressed;
};

struct Segment {
  u32 query, request, first_key, tiles;
};

struct Walk {
  u32 request, unit, last_request, last_unit;
  DEVICE explicit Walk(const Arguments& p) {
    if constexpr (PAGED) {
      const i32* row = p.gPlan + blockIdx.x * 2;
      request = __ldg(row), unit = __ldg(row + 1), last_request = __ldg(row + 2), last_unit = __ldg(row + 3);
    } else {
      request = ceil_div(p.queries, QUERIES) - 1 - blockIdx.x;  // counts down: wraps past 0 at the end
    }
  }

  DEVICE bool next(const Arguments& p, Segment& s) {
    if constexpr (PAGED) {
      if (request >= p.requests || request > last_request || (request == last_request && unit >= last_unit)) return false;
      const u32 units = larger(ceil_div(u32(__ldg(p.gEnd + request)), kKeys), 1u);
      s = Segment{request * QUERIES, request, unit * kKeys, (request == last_request ? last_unit : units) - unit};
      ++request, unit = 0;
      return true;
    }
    if (i32(request) < 0) return false;
    u32 low = 0xffffffffu, high = 0;
    for (u32 i = 0; i < QUERIES && request * QUERIES + i < p.queries; ++i) {
      const i32 start = __ldg(p.gStart + request * QUERIES + i), end = __ldg(p.gEnd + request * QUERIES + i);
      if (start < end) low = smaller(low, u32(start)), high = larger(high, u32(end));
    }
    const u32 first = high == 0 ? 0 : low / 32 * 32;
    s = Segment{request * QUERIES, 0, first, high == 0 ? 0 : ceil_div(high - first, kKeys)};
    request -= gridDim.x;
    return true;
  }
};

struct Ring {
  u32 stage = 0, parity = 0;
  DEVICE void next() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};

struct alignas(1024) Shared {
  u8 sQ[2][kQueryBytes];
  u8 sK[STAGES][kStageBytes];
  u64 fullQ[2], emptyQ[2], full[STAGES], empty[STAGES];
};

// ---------------------------------------------------------------- load
DEVICE void load(const Arguments& p, Shared& s, const TensorMap& map_q, const TensorMap& map_k) {
  Walk walk(p);
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
      barrier_expect_bytes(&s.full[ring.stage], kStageBytes);
      if constexpr (PAGED) {
#pragma unroll
        for (u32 i = 0; i < 2; ++i)
          tma_load_3d(&map_k, &s.full[ring.stage], s.sK[ring.stage] + i * (kStageBytes / 2), 0, 0, pages[i], kEvictFirst);
      } else {
        tma_load_2d(&map_k, &s.full[ring.stage], s.sK[ring.stage], 0, key);
      }
    }
  }
}

// Three warps that would idle write -infinity where no tile comes.
DEVICE void fill(const Arguments& p, u32 thread, u32 threads) {
  Walk walk(p);
  Segment segment;
  while (walk.next(p, segment)) {
    if (PAGED && segment.first_key > 0) continue;
    for (u32 i = 0; i < QUERIES && segment.query + i < p.queries; ++i) {
      float* gRow = p.gOut + u64(segment.query + i) * p.stride;
      u32 from = segment.first_key + segment.tiles * kKeys;
      if constexpr (PAGED) {
        from = larger(ceil_div(u32(__ldg(p.gEnd + segment.request)), kKeys), 1u) * kKeys;
      } else if (p.compressed) {
        from = u32(larger(__ldg(p.gEnd + segment.query + i) - __ldg(p.gStart + segment.query + i), 0));
      } else {
        for (u32 j = thread; j < smaller(segment.first_key, p.columns); j += threads) gRow[j] = -infinity();
      }
      for (u32 j = from + thread; j < p.columns; j += threads) gRow[j] = -infinity();
    }
  }
}

// ---------------------------------------------------------------- multiply
using Scores = float[kColumns / 2];

DEVICE u64 descriptor(u32 address) { return narrow_descriptor<HEAD_DIM>(address); }

DEVICE float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

struct View {  // which keys the queries see
  u32 start[ceil_div(QUERIES, 4)], end[ceil_div(QUERIES, 4)];  // of the queries that this lane of the quad stores

  DEVICE void fetch(const Arguments& p, const Segment& segment) {
#pragma unroll
    for (u32 i = 0; i < ceil_div(QUERIES, 4); ++i) {
      const u32 q = i * 4 + lane_index() % 4;
      start[i] = end[i] = 0;
      if (q >= QUERIES || segment.query + q >= p.queries) continue;
      if constexpr (PAGED) {
        end[i] = u32(larger(__ldg(p.gEnd + segment.request) - i32(QUERIES - 1 - q), 0));
      } else {
        start[i] = __ldg(p.gStart + segment.query + q), end[i] = __ldg(p.gEnd + segment.query + q);
      }
    }
  }
};

DEVICE void put(const Arguments& p, u32 query, u32 key, u32 start, u32 end, float value) {
  const bool seen = key >= start && key < end;
  if (!seen && (!p.clean || p.compressed)) return;
  const u32 column = p.compressed ? key - start : key;
  if (query < p.queries && column < p.columns) p.gOut[u64(query) * p.stride + column] = seen ? value : -infinity();
}

// Sums a tile's columns into logits of two keys a thread, and stores them: lane l of a quad those of queries l, l + 4, ...
DEVICE void reduce(const Arguments& p, const Scores& rS, const float (&weight)[kColumns / 4], const Segment& segment,
                   const View& view, u32 key, float scale_low, float scale_high) {
  constexpr u32 kEights = HEADS / 8;
#pragma unroll
  for (u32 four = 0; four < ceil_div(QUERIES, 4); ++four) {
    float mine_low = 0.f, mine_high = 0.f;
#pragma unroll
    for (u32 i = 0; i < 4 && four * 4 + i < QUERIES; ++i) {
      float low = 0.f, high = 0.f;
#pragma unroll
      for (u32 j = (four * 4 + i) * kEights; j < (four * 4 + i + 1) * kEights; ++j) {
#pragma unroll
        for (u32 c = 0; c < 2; ++c) {
          low = fmaf(weight[2 * j + c], fmaxf(rS[4 * j + c], 0.f), low);
          high = fmaf(weight[2 * j + c], fmaxf(rS[4 * j + 2 + c], 0.f), high);
        }
      }
      low = quad_sum(low), high = quad_sum(high);
      if (lane_index() % 4 == i) mine_low = low, mine_high = high;
    }
    const u32 q = four * 4 + lane_index() % 4;
    if (q >= QUERIES) continue;
    put(p, segment.query + q, key, view.start[four], view.end[four], mine_low * scale_low);
    put(p, segment.query + q, key + 8, view.start[four], view.end[four], mine_high * scale_high);
  }
}

DEVICE float scale_of(const Arguments& p, const Segment& segment, u32 key, u32 keys) {
  if (key >= keys) return 0.f;
  if constexpr (!PAGED) return __ldg(p.gScales + key);
  const u32 page = __ldg(p.gPages + u64(segment.request) * p.pages_max + key / kPage);
  return __ldg(reinterpret_cast<const float*>(p.gCache + u64(page) * kPageBytes + kPage * HEAD_DIM) + key % kPage);
}

template <u32 kGroup>
DEVICE void multiply(const Arguments& p, Shared& s) {
  Walk walk(p);
  Segment segment;
  Ring ring;
  const u32 row = kGroup * 64 + threadIdx.x / 32 % 4 * 16 + lane_index() / 4;
  for (u32 turn = 0; walk.next(p, segment); ++turn) {
    const u32 slot = turn % 2;
    float weight[kColumns / 4];
    View view;
    view.fetch(p, segment);
#pragma unroll
    for (u32 i = 0; i < kColumns / 4; ++i) {
      const u32 column = i / 2 * 8 + lane_index() % 4 * 2 + i % 2;
      weight[i] = segment.query + column / HEADS < p.queries ? __ldg(p.gWeights + u64(segment.query) * HEADS + column) : 0.f;
    }
    const u32 keys = PAGED ? u32(__ldg(p.gEnd + segment.request)) : p.keys;
    barrier_wait(&s.fullQ[slot], turn / 2 & 1);
    for (u32 tile = 0; tile < segment.tiles; ++tile, ring.next()) {
      const u32 key = segment.first_key + tile * kKeys + row;
      const float scale_low = scale_of(p, segment, key, keys), scale_high = scale_of(p, segment, key + 8, keys);
      Scores rS;
      barrier_wait(&s.full[ring.stage], ring.parity);
      const u64 a = descriptor(smem_address(s.sK[ring.stage]) + kGroup * 64 * HEAD_DIM), b = descriptor(smem_address(s.sQ[slot]));
      pin_registers(rS);
      wgmma_fence();
#pragma unroll
      for (u32 step = 0; step < HEAD_DIM / 32; ++step) wgmma_e4m3(rS, a + step * 2, b + step * 2, step != 0);
      wgmma_commit();
      wgmma_wait<0>();
      pin_registers(rS);
      __syncwarp();
      if (lane_index() == 0) barrier_arrive(&s.empty[ring.stage]);
      reduce(p, rS, weight, segment, view, key, scale_low, scale_high);
    }
    __syncwarp();
    if (lane_index() == 0) barrier_arrive(&s.emptyQ[slot]);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    mqa_logits(const __grid_constant__ TensorMap map_q, const __grid_constant__ TensorMap map_k, const __grid_constant__ Arguments p) {
  extern __shared__ __align__(1024) u8 memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  const u32 warp = warp_index();
  if (warp == 0 && elect_one()) {
    prefetch_tensor_map(&map_q);
    prefetch_tensor_map(&map_k);
    for (u32 i = 0; i < 2; ++i) barrier_init(&s.fullQ[i], 1), barrier_init(&s.emptyQ[i], 8);
    for (u32 i = 0; i < STAGES; ++i) barrier_init(&s.full[i], 1), barrier_init(&s.empty[i], 8);
    barrier_init_fence();
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  __syncthreads();
  if (warp >= 8) {
    registers_shrink<kLoadRegisters>();
    if (warp == 8) {
      if (elect_one()) load(p, s, map_q, map_k);
      __syncwarp();
    } else if (p.clean) {
      fill(p, threadIdx.x - 9 * 32, 96);
    }
  } else {
    registers_grow<kMathRegisters>();
    if (warp < 4) multiply<0>(p, s);
    else multiply<1>(p, s);
  }
}
