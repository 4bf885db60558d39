// MLA attention of one tile of 64 query rows, shared by the kernels that differ in how keys reach shared memory:
//   S = scale * Q[r] . K[0 .. visible)      O[r] = softmax(S) . V,   V = the first 512 columns of K.
//
// A tile's output, 64 x 512 float32, is more than one warpgroup's registers hold, so the left half
// lies in warpgroup 0 and the right half in warpgroup 1. They take key blocks of 64 in pairs: group 0 multiplies
// Q with even blocks and does their softmax, group 1 with odd ones; each then multiplies both blocks' weights by its
// half of V, in order. So one group's softmax runs beside the other's products. A third warpgroup loads.
//
//   group 0: S0 = Q K0 | softmax 0, publish P0, max | OL += P0 V0L            | wait P1 | OL += P1 V1L
//   group 1: S1 = Q K1 | wait P0 | OR += P0 V0R beside softmax 1, publish P1  |           OR += P1 V1R
//
// Buffers are freed by halves (columns 0-255 and the 64 rotary ones; columns 256-511), each by its last reader.
#pragma once
#include "store.cuh"

struct Parities {
  u32 q = 0, buffer[2] = {0, 0};
};

DEVICE u32 keys_in(const Segment& segment, u32 block) { return smaller(kKeys, segment.length - block * kKeys); }

DEVICE void left_pair(const Arguments& p, Shared& s, Output& rO, Rows& rows, const Segment& segment, u32 block, Parities& parity) {
  const bool has_odd = block + 1 < segment.end;
  const u32 sP1 = smem_address(s.sK[1][kValueTiles]);
  Scores rS;
  Weights rP;
  multiply_scores(s, rS, 0, parity.buffer[0]);
  wgmma_wait<0>();
  pin_registers(rS);
  if (block + 2 >= segment.end) release_query(s);

  const float before[2] = {rows.max[0], rows.max[1]};
  softmax(p, s, 0, rS, rP, rows, before, segment.length, block * kKeys);
  publish(smem_address(s.sP0), s.sMax[0], rP, rows);
  named_barrier_arrive(kP0, kMathThreads);
  const float factor[2] = {rescale_factor(before[0], rows.max[0]), rescale_factor(before[1], rows.max[1])};
  rescale(rO, factor);
  if (!GATHER && keys_in(segment, block) < kKeys) clear_tail(s, 0, 0, keys_in(segment, block));
  multiply_own(rO, rP, value_descriptor(s, 0, 0));
  parity.buffer[0] ^= 1;

  if (!has_odd) {
    wgmma_wait<0>();
    pin_registers(rO);
    release(&s.empty[0][0]);
    return;
  }
  wgmma_wait<0>();
  pin_registers(rO);
  release(&s.empty[0][0]);  // before the wait for the other group: what follows in this half has the longest way
  named_barrier_sync(kP1, kMathThreads);

  float after[2];
  read_max(after, s.sMax[1]);
  const float factor1[2] = {rescale_factor(rows.max[0], after[0]), rescale_factor(rows.max[1], after[1])};
  rows.max[0] = after[0], rows.max[1] = after[1];
  rows.rescale_sum(factor1);
  rescale(rO, factor1);
  await_values(s, 1, 0, parity.buffer[1], keys_in(segment, block + 1));
  parity.buffer[1] ^= 1;
  multiply_other(rO, sP1, value_descriptor(s, 1, 0));
  wgmma_wait<0>();
  pin_registers(rO);
  release(&s.empty[1][0]);
}

DEVICE void right_pair(const Arguments& p, Shared& s, Output& rO, Rows& rows, const Segment& segment, u32 block, Parities& parity) {
  const bool has_odd = block + 1 < segment.end;
  const u32 sP1 = smem_address(s.sK[1][kValueTiles]);
  Scores rS;
  Weights rP;
  if (has_odd) {
    multiply_scores(s, rS, 1, parity.buffer[1]);
    wgmma_wait<0>();
    pin_registers(rS);
  }
  if (block + 2 >= segment.end) release_query(s);

  named_barrier_sync(kP0, kMathThreads);
  float even[2];
  read_max(even, s.sMax[0]);
  const float factor[2] = {rescale_factor(rows.max[0], even[0]), rescale_factor(rows.max[1], even[1])};
  rows.max[0] = even[0], rows.max[1] = even[1];
  rows.rescale_sum(factor);
  rescale(rO, factor);
  await_values(s, 0, 1, parity.buffer[0], keys_in(segment, block));
  parity.buffer[0] ^= 1;
  multiply_other(rO, smem_address(s.sP0), value_descriptor(s, 0, 1));

  if (has_odd) {  // beside that product
    softmax(p, s, 1, rS, rP, rows, even, segment.length, (block + 1) * kKeys);
    named_barrier_sync(kGroup1, 128);  // all four warps have read the ninth tile: it may become P1
    publish(sP1, s.sMax[1], rP, rows);
    named_barrier_arrive(kP1, kMathThreads);
  }
  wgmma_wait<0>();
  pin_registers(rO);
  release(&s.empty[0][1]);
  if (!has_odd) return;

  const float factor1[2] = {rescale_factor(even[0], rows.max[0]), rescale_factor(even[1], rows.max[1])};
  rescale(rO, factor1);
  if (!GATHER && keys_in(segment, block + 1) < kKeys) clear_tail(s, 1, 1, keys_in(segment, block + 1));
  multiply_own(rO, rP, value_descriptor(s, 1, 1));
  parity.buffer[1] ^= 1;
  wgmma_wait<0>();
  pin_registers(rO);
  release(&s.empty[1][1]);
}

// Both warpgroups turn the query from bf16 to fp16, in place.
DEVICE void convert_query(Shared& s) {
  uint4* sQ = reinterpret_cast<uint4*>(s.sQ[0]);
#pragma unroll 2
  for (u32 i = threadIdx.x; i < QK_TILES * kTileBytes / 16; i += kMathThreads) sQ[i] = fp16_of_bf16(sQ[i]);
  fence_proxy_async();
  named_barrier_sync_apart(kQuery, kMathThreads);
}

template <u32 kHalf>
DEVICE void attend(const Arguments& p, Shared& s) {
  Walk walk(p);
  Segment segment{};
  Parities parity;
  while (walk.next(p, segment)) {
    Output rO;
    Rows rows;
#pragma unroll
    for (u32 i = 0; i < 128; ++i) rO[i] = 0.f;
#pragma unroll
    for (u32 r = 0; r < 2; ++r) {
      rows.max[r] = -infinity();
      rows.sum[r] = 0.f;
#if WHOLE
      rows.top[r] = -infinity();
#endif
    }
    if (segment.begin < segment.end) {
      barrier_wait(&s.fullQ, parity.q);
      parity.q ^= 1;
      if constexpr (kFp8) convert_query(s);
    }
    for (u32 block = segment.begin; block < segment.end; block += 2) {
      if constexpr (kHalf == 0) left_pair(p, s, rO, rows, segment, block, parity);
      else right_pair(p, s, rO, rows, segment, block, parity);
    }
    walk.look_ahead(p);  // not sooner: the fences of the products would wait for it
    store(p, s, parity.q, rO, rows, segment, kHalf);
  }
}

// One thread calls it, before anything waits on a barrier. `writers`: threads, or copies, that fill what one arrival is for.
DEVICE void init_barriers(Shared& s, u32 writers = 1) {
  barrier_init(&s.fullQ, 1);
  barrier_init(&s.emptyQ, 8);
  for (u32 i = 0; i < 2 * kFulls; ++i) barrier_init(&s.full[0][0] + i, writers);
  for (u32 i = 0; i < 4; ++i) barrier_init(&s.empty[0][0] + i, 4);
  barrier_init_fence();
}

DEVICE void load_query(Shared& s, const TensorMap& map_q, u32 request, u32& parity) {
  barrier_wait(&s.emptyQ, parity);
  parity ^= 1;
  barrier_expect_bytes(&s.fullQ, QK_TILES * kTileBytes);
  for (u32 t = 0; t < QK_TILES; ++t) tma_load_4d(&map_q, &s.fullQ, s.sQ[t], t * 64, blockIdx.x * kRows, blockIdx.y, request);
}
