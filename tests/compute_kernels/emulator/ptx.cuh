// What compute_kernels/jit/ptx.cuh says in PTX, said in C++ for `machine.h`: same names, same arguments.
#pragma once
#include "machine.h"

#define __global__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static
#define __align__(bytes)

struct alignas(64) TensorMap {
  u64 address;
  u32 element, rank, swizzle, shape[5], box[5];
  u64 strides[5];  // in bytes
};

inline u32 smem_address(const void* pointer) {
  const i64 offset = static_cast<const u8*>(pointer) - block_memory;
  if (offset < 0 || offset >= i64(kSharedMax)) fail("an address outside shared memory");
  return u32(offset);
}
inline u8* shared_at(u32 address, u32 bytes) {
  if (address + bytes > kSharedMax) fail("an access outside shared memory");
  return block_memory + address;
}
inline u32 lane_index() { return machine.current % 32; }
inline u32 warp_index() { return machine.current / 32; }
inline u32 cluster_rank() { return 0; }
inline bool elect_one() { return lane_index() == 0; }

// ---------------------------------------------------------------- mbarrier
inline Barrier64& barrier_of(u64* barrier) { return machine.barriers[smem_address(barrier) / 8]; }
inline void barrier_init(u64* barrier, u32 arrivals) { barrier_of(barrier) = {i32(arrivals), i32(arrivals), 0, 0, true}; }
inline void barrier_init_fence() {}
inline void barrier_expect_bytes(u64* barrier, u32 bytes) {
  Barrier64& at = barrier_of(barrier);
  at.bytes += bytes, --at.pending;
  settle(at);
}
inline void barrier_arrive(u64* barrier) {
  Barrier64& at = barrier_of(barrier);
  --at.pending;
  settle(at);
}
inline void barrier_arrive_at(u64* barrier, u32) { barrier_arrive(barrier); }
inline void barrier_wait(u64* barrier, u32 parity) {
  await([&] { return barrier_of(barrier).phase != parity; });
  dawdle();
}
inline void named_barrier_sync(u32 id, u32 threads) { sync_named(id, threads); }
inline void named_barrier_sync_apart(u32 id, u32 threads) { sync_named(id, threads); }
inline void named_barrier_arrive(u32 id, u32 threads) { arrive_named(id, threads), dawdle(); }
inline bool named_barrier_any(u32 id, u32 threads, bool mine) { return sync_named(id, threads, mine); }
inline void cluster_sync_relaxed() { fail("clusters are not emulated"); }
inline void fence_proxy_async() { dawdle(); }

// ---------------------------------------------------------------- the copy engine
constexpr u64 kEvictNormal = 0, kEvictFirst = 0, kEvictLast = 0;
inline void prefetch_tensor_map(const TensorMap*) {}

// Of swizzles of 128, 64 and 32 bytes.
inline u32 swizzled_address(u32 address, u32 width) { return address ^ ((address >> 7 & (width / 16 - 1)) << 4); }

inline void complete(u64* barrier, u32 bytes) {
  Barrier64& at = barrier_of(barrier);
  at.bytes -= bytes;
  settle(at);
}

inline void load_box(const TensorMap* map, u64* barrier, u32 at, const i32 (&corner)[5]) {
  u32 bytes = map->element;
  for (u32 d = 0; d < map->rank; ++d) bytes *= map->box[d];
  for (u32 i = 0; i < bytes; i += map->element) {
    u32 rest = i / map->element;
    u64 source = map->address;
    bool inside = true;
    for (u32 d = 0; d < map->rank; ++d) {
      const i64 place = corner[d] + i64(rest % map->box[d]);
      rest /= map->box[d];
      inside &= place >= 0 && place < map->shape[d];
      source += place * (d ? map->strides[d - 1] : map->element);
    }
    u8* to = block_memory + (map->swizzle ? swizzled_address(at + i, map->swizzle) : at + i);
    if (inside) memcpy(to, reinterpret_cast<const void*>(source), map->element);
    else memset(to, 0, map->element);
  }
  complete(barrier, bytes);
}

inline void tma_load_4d(const TensorMap* map, u64* barrier, void* destination, i32 x, i32 y, i32 z, i32 w, u64 = 0) {
  const u32 at = smem_address(destination);
  const TensorMap copy = *map;
  machine.bulk.push_back([=] { load_box(&copy, barrier, at, {x, y, z, w, 0}); });
}
inline void tma_multicast_4d(const TensorMap* map, u64* barrier, void* destination, i32 x, i32 y, i32 z, i32 w, u16, u64 = 0) {
  tma_load_4d(map, barrier, destination, x, y, z, w);
}
inline void bulk_load(void* destination, const void* source, u32 bytes, u64* barrier) {
  u8* to = shared_at(smem_address(destination), bytes);
  machine.bulk.push_back([=] { memcpy(to, source, bytes), complete(barrier, bytes); });
}

// ---------------------------------------------------------------- copies by threads
inline void copy_16(u32 destination, const void* source, u32 bytes) {
  u8* to = shared_at(destination, 16);
  if (machine.dice() % 64 == 0) pause();
  machine.copies[machine.current].push_back([=] { bytes ? memcpy(to, source, 16) : memset(to, 0, 16); });
}
inline void copies_arrive(u64* barrier) {
  machine.copies[machine.current].push_back([=] { barrier_arrive(barrier); });
}
inline void copies_wait() {
  await([] { return machine.copies[machine.current].empty(); });
}
inline void prefetch_line_l2(const void*) {}
inline uint4 load_early(const void* source) { return *static_cast<const uint4*>(source); }
inline void store_in_order(u32 address, uint4 v) { memcpy(shared_at(address, 16), &v, 16); }

// ---------------------------------------------------------------- 8x8 tiles of 16-bit values
// Calls each(tile, address of its row `row`, 16-bit place in the row, half of the register) for what this lane holds.
template <bool kTransposed, typename Each>
void tiles_of_lane(u32 address, Each each) {
  u32 rows[32];
  memcpy(rows, exchange(address), sizeof rows);
  const u32 lane = lane_index();
  for (u32 tile = 0; tile < 4; ++tile)
    for (u32 half = 0; half < 2; ++half) {
      const u32 pair = lane % 4 * 2 + half, row = kTransposed ? pair : lane / 4, column = kTransposed ? lane / 4 : pair;
      each(tile, shared_at(rows[tile * 8 + row] + column * 2, 2), half);
    }
  __syncwarp();
}
template <bool kTransposed>
void store_tiles(u32 address, const u32 (&values)[4]) {
  tiles_of_lane<kTransposed>(address, [&](u32 tile, u8* at, u32 half) {
    const u16 value = u16(values[tile] >> 16 * half);
    memcpy(at, &value, 2);
  });
}
inline void stmatrix_x4(u32 address, u32 a, u32 b, u32 c, u32 d) { store_tiles<false>(address, {a, b, c, d}); }
inline void stmatrix_x4_transposed(u32 address, u32 a, u32 b, u32 c, u32 d) { store_tiles<true>(address, {a, b, c, d}); }
inline void ldmatrix_x4_transposed(u32 address, u32 (&tiles)[4]) {
  for (u32& tile : tiles) tile = 0;
  tiles_of_lane<true>(address, [&](u32 tile, const u8* at, u32 half) {
    u16 value;
    memcpy(&value, at, 2);
    tiles[tile] |= u32(value) << 16 * half;
  });
}

// ---------------------------------------------------------------- products and registers
inline void wgmma_fence() {}
inline void wgmma_commit() {}
template <int kPending>
void wgmma_wait() {
  static_assert(kPending == 0, "products are emulated as one group");
  dawdle();
  __syncwarp();
  for (const Later& product : machine.products[machine.current]) product();
  machine.products[machine.current].clear();
}
template <int kCount>
void pin_registers(float (&)[kCount]) {}
inline void forget(u32&) {}
template <u32 kBytes>
const u8* row_address(const u8* base, u32 index) { return base + u64(index) * kBytes; }
template <u32 kRegisters>
void registers_grow() {}
template <u32 kRegisters>
void registers_shrink() {}
inline void wait_for_previous_kernel() {}
inline void let_next_kernel_start() {}

// ---------------------------------------------------------------- numbers
inline float infinity() { return INFINITY; }
inline float exp2_fast(float x) { return exp2f(x); }
inline float log2_fast(float x) { return log2f(x); }
inline float of_bf16(u32 x) { return bits_as<float>(x << 16); }
inline u32 to_bf16(float f) {
  const u32 x = bits_as<u32>(f);
  return f != f ? 0x7fff : x + 0x7fff + (x >> 16 & 1) >> 16;
}
inline float of_fp16(u32 x) { return float(bits_as<_Float16>(u16(x))); }
inline u32 to_fp16(float f) { return bits_as<u16>(_Float16(f)); }
inline float of_e4m3(u32 x) {
  const u32 exponent = x >> 3 & 15, mantissa = x & 7;
  const float size = exponent ? ldexpf(float(8 + mantissa), i32(exponent) - 10) : ldexpf(float(mantissa), -9);
  return (x & 127) == 127 ? NAN : x & 128 ? -size : size;
}
inline u32 to_e4m3(float f) {  // the nearest, ties to even; what is too large becomes 448
  if (f != f) return 127;
  const u32 sign = std::signbit(f) ? 128 : 0;
  const float size = fminf(fabsf(f), 448.f);
  i32 exponent = -6;
  if (size >= 0x1p-6f) frexpf(size, &exponent), --exponent;
  const u32 steps = u32(nearbyintf(ldexpf(size, 3 - exponent)));  // of 2^(exponent - 3); 16 is the next binade's first
  return sign | (exponent == -6 ? steps : u32(exponent + 6) * 8 + steps);
}
inline u32 pack_bf16(float low, float high) { return to_bf16(low) | to_bf16(high) << 16; }
inline u32 pack_fp16(float low, float high) { return to_fp16(low) | to_fp16(high) << 16; }
inline u16 pack_e4m3(float low, float high) { return u16(to_e4m3(low) | to_e4m3(high) << 8); }
inline u32 fp16_of_e4m3(u16 x) { return pack_fp16(of_e4m3(x & 255), of_e4m3(x >> 8)); }
inline u16 e4m3_of_fp16(u32 x) { return pack_e4m3(of_fp16(x & 0xffff), of_fp16(x >> 16)); }
inline u32 subtract_fp16(u32 a, u32 b) { return pack_fp16(of_fp16(a & 0xffff) - of_fp16(b & 0xffff), of_fp16(a >> 16) - of_fp16(b >> 16)); }
inline u32 multiply_fp16(u32 a, u32 b) { return pack_fp16(of_fp16(a & 0xffff) * of_fp16(b & 0xffff), of_fp16(a >> 16) * of_fp16(b >> 16)); }
inline void widen(u32 four, u32 scale, u32& pair0, u32& pair1) {
  pair0 = multiply_fp16(fp16_of_e4m3(u16(four)), scale), pair1 = multiply_fp16(fp16_of_e4m3(u16(four >> 16)), scale);
}
inline uint4 fp16_of_bf16(uint4 v) {
  u32 x[4] = {v.x, v.y, v.z, v.w};
  for (u32& pair : x) pair = pack_fp16(of_bf16(pair & 0xffff), of_bf16(pair >> 16));
  return {x[0], x[1], x[2], x[3]};
}
