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
inline u8* memory_of(u32 rank) { return rank ? neighbour_memory : block_memory; }
inline u8* shared_of(u32 rank, u32 address, u32 bytes) {
  if (address + bytes > kSharedMax) fail("an access outside shared memory");
  return memory_of(rank) + address;
}
inline u8* shared_at(u32 address, u32 bytes) { return shared_of(rank_of_block(), address, bytes); }
inline u32 lane_index() { return machine.current % 32; }
inline u32 warp_index() { return threadIdx.x / 32; }
inline u32 cluster_rank() { return rank_of_block(); }
inline bool elect_one() { return lane_index() == 0; }

// ---------------------------------------------------------------- mbarrier
inline Barrier64& barrier_of(u64* barrier) { return machine.barriers[rank_of_block()][smem_address(barrier) / 8]; }
inline void barrier_init(u64* barrier, u32 arrivals) { barrier_of(barrier) = {i32(arrivals), i32(arrivals), 0, 0, true, {}, {}}; }
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
inline void barrier_arrive_at(u64* barrier, u32 rank) {
  Barrier64& at = machine.barriers[rank][smem_address(barrier) / 8];
  --at.pending;
  settle(at);
}
inline void barrier_wait(u64* barrier, u32 parity) {
  await([&] { return barrier_of(barrier).phase != parity; });
  take_clock(barrier_of(barrier).passed);
  dawdle();
}
inline bool barrier_test(u64* barrier, u32 parity) {
  const bool done = barrier_of(barrier).phase != parity;
  if (done) take_clock(barrier_of(barrier).passed);
  return done;
}
inline void set_flag(u64* flag, u64 value) {
  __atomic_store_n(flag, value, __ATOMIC_RELEASE);
  usleep(500);  // who waits for it goes on before this block's other warps do
}
inline void await_flag(u64* flag, u64 value) {
  await_block([&] { return __atomic_load_n(flag, __ATOMIC_ACQUIRE) == value; });
  __atomic_store_n(flag, 0, __ATOMIC_RELAXED);
}
inline void named_barrier_sync(u32 id, u32 threads) { sync_named(id, threads); }
inline void named_barrier_sync_apart(u32 id, u32 threads) { sync_named(id, threads); }
inline void named_barrier_arrive(u32 id, u32 threads) { arrive_named(id, threads), dawdle(); }
inline bool named_barrier_any(u32 id, u32 threads, bool mine) { return sync_named(id, threads, mine); }
inline void cluster_sync() { dawdle(), meet_cluster(), dawdle(); }
inline void cluster_sync_relaxed() { cluster_sync(); }
inline void fence_proxy_async() { dawdle(); }

// ---------------------------------------------------------------- the copy engine
constexpr u64 kEvictNormal = 0, kEvictFirst = 0, kEvictLast = 0;
inline void prefetch_tensor_map(const TensorMap*) {}

// Of swizzles of 128, 64 and 32 bytes.
inline u32 swizzled_address(u32 address, u32 width) { return address ^ ((address >> 7 & (width / 16 - 1)) << 4); }

inline void complete(Barrier64& at, u32 bytes) {
  at.bytes -= bytes;
  settle(at);
}

// Calls each(byte of the box in shared memory, address in global memory or 0 outside) for all values of a box.
template <typename Each>
u32 for_box(const TensorMap& map, const std::array<i32, 5>& corner, Each each) {
  u32 bytes = map.element;
  for (u32 d = 0; d < map.rank; ++d) bytes *= map.box[d];
  for (u32 i = 0; i < bytes; i += map.element) {
    u32 rest = i / map.element;
    u64 global = map.address;
    bool inside = true;
    for (u32 d = 0; d < map.rank; ++d) {
      const i64 place = corner[d] + i64(rest % map.box[d]);
      rest /= map.box[d];
      inside &= place >= 0 && place < map.shape[d];
      global += place * (d ? map.strides[d - 1] : map.element);
    }
    each(i, inside ? reinterpret_cast<u8*>(global) : nullptr);
  }
  return bytes;
}

// The address in a block's shared memory of byte `i` of a box that begins at `at`.
inline u32 in_box(const TensorMap& map, u32 at, u32 i) { return map.swizzle ? swizzled_address(at + i, map.swizzle) : at + i; }

inline void load_box(const TensorMap* map, u64* barrier, void* destination, std::array<i32, 5> corner) {
  const u32 at = smem_address(destination);
  u8* memory = memory_of(rank_of_block());
  Barrier64* full = &barrier_of(barrier);
  machine.bulk.push_back(begun_now([=, map = *map] {
    const u32 bytes = for_box(map, corner, [&](u32 i, const u8* from) {
      u8* to = memory + in_box(map, at, i);
      if (from) memcpy(to, from, map.element);
      else memset(to, 0, map.element);
      touch(to, map.element, true);
    });
    complete(*full, bytes);
  }));
}

inline void tma_load_2d(const TensorMap* map, u64* barrier, void* destination, i32 x, i32 y, u64 = 0) {
  load_box(map, barrier, destination, {x, y});
}
inline void tma_load_3d(const TensorMap* map, u64* barrier, void* destination, i32 x, i32 y, i32 z, u64 = 0) {
  load_box(map, barrier, destination, {x, y, z});
}
inline void tma_load_4d(const TensorMap* map, u64* barrier, void* destination, i32 x, i32 y, i32 z, i32 w, u64 = 0) {
  load_box(map, barrier, destination, {x, y, z, w});
}
inline void tma_multicast_2d(const TensorMap*, u64*, void*, i32, i32, u16, u64 = 0) { fail("multicast of tiles is not emulated"); }
inline void prefetch_tile_3d(const TensorMap*, i32, i32, i32) {}

// Copies of a thread to global memory happen in groups, in order; nobody reads their source before it is read by them.
inline void tma_store_2d(const TensorMap* map, u32 source, i32 x, i32 y, bool mine) {
  if (!mine) return;
  const u8* memory = memory_of(rank_of_block());
  machine.group[machine.current].push_back([=, map = *map] {
    for_box(map, {x, y}, [&](u32 i, u8* to) {
      touch(memory + in_box(map, source, i), map.element, false);
      if (to) memcpy(to, memory + in_box(map, source, i), map.element);
    });
  });
}
inline void add_tile_3d(const TensorMap* map, u32 source, i32 x, i32 y, i32 z) {
  const u8* memory = memory_of(rank_of_block());
  machine.group[machine.current].push_back([=, map = *map] {
    for_box(map, {x, y, z}, [&](u32 i, u8* to) {
      if (to) *reinterpret_cast<float*>(to) += *reinterpret_cast<const float*>(memory + in_box(map, source, i));
    });
  });
}
inline void bulk_commit() {
  machine.copies[machine.current].push_back(begun_now([all = std::move(machine.group[machine.current])] {
    for (const Later& copy : all) copy();
  }));
  machine.group[machine.current].clear();
}
template <u32 kPending>
void bulk_wait_read() {
  await([] { return machine.copies[machine.current].size() <= kPending; });
}
inline void bulk_wait_all() { bulk_wait_read<0>(); }
inline void bulk_load(void* destination, const void* source, u32 bytes, u64* barrier) {
  u8* to = shared_at(smem_address(destination), bytes);
  Barrier64* full = &barrier_of(barrier);
  machine.bulk.push_back(begun_now([=] { memcpy(to, source, bytes), touch(to, bytes, true), complete(*full, bytes); }));
}

// ---------------------------------------------------------------- copies by threads
inline void copy_16(u32 destination, const void* source, u32 bytes) {
  u8* to = shared_at(destination, 16);
  if (machine.dice() % 64 == 0) pass_turn();
  machine.copies[machine.current].push_back(begun_now([=] { bytes ? memcpy(to, source, 16) : memset(to, 0, 16); }));
}
inline void copies_arrive(u64* barrier) {
  Barrier64* at = &barrier_of(barrier);
  machine.copies[machine.current].push_back(begun_now([=] { --at->pending, settle(*at); }));
}
inline void copies_wait() {
  await([] { return machine.copies[machine.current].empty(); });
}
inline void prefetch_line_l2(const void*) {}
inline void prefetch_l2(const void*, u32) {}
inline uint4 load_early(const void* source) { return *static_cast<const uint4*>(source); }
inline void store_in_order(u32 address, uint4 v) { memcpy(shared_at(address, 16), &v, 16); }

// ---------------------------------------------------------------- shared memory, and sums in global memory
template <typename T>
T load_as(const u8* from) {
  T value;
  memcpy(&value, from, sizeof value);
  return value;
}
inline float load_shared_float(u32 address) { return load_as<float>(shared_at(address, 4)); }
inline float2 load_shared_float2(u32 address) { return load_as<float2>(shared_at(address, 8)); }
inline float4 load_shared_float4(u32 address) { return load_as<float4>(shared_at(address, 16)); }
inline float4 load_cluster_float4(u32 address, u32 rank) { return load_as<float4>(shared_of(rank, address, 16)); }
inline void store_shared_float2(u32 address, float x, float y) {
  const float2 v{x, y};
  memcpy(shared_at(address, 8), &v, 8);
}
inline void store_cluster_float4(u32 address, u32 rank, float x, float y, float z, float w) {
  const float4 v{x, y, z, w};
  memcpy(shared_of(rank, address, 16), &v, 16);
}
inline void add_global_pair(float* address, float x, float y) { address[0] += x, address[1] += y; }

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
inline void stmatrix_x2(u32 address, u32 a, u32 b) {
  u32 rows[32];
  memcpy(rows, exchange(address), sizeof rows);
  const u32 lane = lane_index(), values[2] = {a, b};
  for (u32 tile = 0; tile < 2; ++tile) memcpy(shared_at(rows[tile * 8 + lane / 4] + lane % 4 * 4, 4), &values[tile], 4);
  __syncwarp();
}
inline void stmatrix_x4_transposed(u32 address, u32 a, u32 b, u32 c, u32 d) { store_tiles<true>(address, {a, b, c, d}); }
template <bool kTransposed>
void load_tiles(u32 address, u32 (&tiles)[4]) {
  for (u32& tile : tiles) tile = 0;
  tiles_of_lane<kTransposed>(address, [&](u32 tile, const u8* at, u32 half) {
    u16 value;
    memcpy(&value, at, 2);
    tiles[tile] |= u32(value) << 16 * half;
  });
}
inline void ldmatrix_x4_transposed(u32 address, u32 (&tiles)[4]) { load_tiles<true>(address, tiles); }
inline void ldmatrix_x4(u32 address, u32& a, u32& b, u32& c, u32& d) {
  u32 tiles[4];
  load_tiles<false>(address, tiles);
  a = tiles[0], b = tiles[1], c = tiles[2], d = tiles[3];
}

// ---------------------------------------------------------------- products and registers
inline void wgmma_fence() {}
inline void wgmma_commit() { machine.products[machine.current].push_back(nullptr); }  // the end of a group
template <int kPending>
void wgmma_wait() {
  dawdle();
  __syncwarp();
  std::vector<Later>& products = machine.products[machine.current];
  i64 groups = -kPending;
  for (const Later& product : products) groups += !product;
  u32 done = 0;
  for (; done < products.size() && groups > 0; ++done) {
    if (products[done]) products[done]();
    else --groups;
  }
  if (kPending == 0 && done < products.size()) fail("a wait for products that were not committed");
  products.erase(products.begin(), products.begin() + done);
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
  static const std::array<float, 256> values = [] {
    std::array<float, 256> found;
    for (u32 x = 0; x < 256; ++x) {
      const u32 exponent = x >> 3 & 15, mantissa = x & 7;
      const float size = exponent ? ldexpf(float(8 + mantissa), i32(exponent) - 10) : ldexpf(float(mantissa), -9);
      found[x] = (x & 127) == 127 ? NAN : x & 128 ? -size : size;
    }
    return found;
  }();
  return values[x & 255];
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
inline float4 floats_of_fp16(u32 a, u32 b) { return {of_fp16(a & 0xffff), of_fp16(a >> 16), of_fp16(b & 0xffff), of_fp16(b >> 16)}; }
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
