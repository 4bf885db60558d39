// One block of a GPU kernel, or a cluster of two, on a CPU, for tests: threads are fibers, shared memories arrays. Blocks of a
// cooperative launch, which wait for each other, are processes.
//
// Warps run in random order and are interrupted wherever they wait. What the hardware does by itself (bulk copies,
// asynchronous copies, tensor-core products) is put aside and happens later, at random, but never after the wait that
// the kernel has for it. So a kernel that reads too early, frees too early or counts wrong is found; of ordinary accesses
// `races.h` says which no barrier orders. Fences are not modelled. A block that makes no progress any more is a deadlock. In a
// cluster, shared memory may be reached by its addresses (`smem_address`) only: pointers are the first block's.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <random>
#include <ctime>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#define DEVICE inline
#include "plain.cuh"

struct uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(16) int4 { i32 x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct Index3 { u32 x = 0, y = 0, z = 0; };

constexpr u32 kSharedMax = 232448, kThreadsMax = 1024, kBlocksMax = 2, kStackBytes = 1 << 16, kIdleRounds = 4000, kPatienceSeconds = 20;
extern "C" {
alignas(1024) u8 block_memory[kSharedMax];
}
alignas(1024) static u8 neighbour_memory[kSharedMax];  // of the second block of a cluster

#include "races.h"

using Later = std::function<void()>;

struct Barrier64 {
  i32 pending = 0, count = 0, bytes = 0;
  u32 phase = 0;
  bool live = false;
  Clock left, passed;  // by arrivals of this phase; of the last one
};

struct Collective {
  u32 values[2][32], arrived[2] = {0, 0}, generation = 0;
};

struct NamedBarrier {
  u32 arrived = 0, generation = 0, any = 0, answer[2] = {0, 0};
  Clock left, passed[2];
};

struct Machine {
  std::mt19937 dice;
  Index3 grid, block[kBlocksMax];
  u32 threads = 0, blocks = 1, current = 0;  // threads of one block
  u32 alive = 0, arrived = 0, meetings = 0;  // threads of the cluster that have not ended; its barrier
  u64 progress = 0;
  const char* fault = nullptr;
  ucontext_t scheduler, contexts[kThreadsMax];
  bool done[kThreadsMax];
  std::vector<char> stacks;
  Index3 thread[kThreadsMax];
  Collective warps[32];
  u32 exchanges[kThreadsMax];
  u32 pace[32];  // of each warp, in 16ths
  Barrier64 barriers[kBlocksMax][kSharedMax / 8];
  NamedBarrier named[kBlocksMax][16];
  std::deque<Later> copies[kThreadsMax];
  std::vector<Later> group[kThreadsMax];  // bulk copies to global memory, not committed yet
  std::vector<Later> bulk, products[kThreadsMax];
  std::vector<std::array<u32, 4>> operands[kThreadsMax];  // that lay in registers, in order of the products
};
static Machine machine;
inline u32 rank_of_block() { return machine.current / machine.threads; }
#define threadIdx (machine.thread[machine.current])
#define blockIdx (machine.block[rank_of_block()])
#define gridDim (machine.grid)

inline void fail(const char* what) {
  if (!machine.fault) machine.fault = what;
  while (true) swapcontext(&machine.contexts[machine.current], &machine.scheduler);
}

inline void pass_turn() { swapcontext(&machine.contexts[machine.current], &machine.scheduler); }

template <typename Condition>
void await(Condition condition) {
  while (!condition()) pass_turn();
  ++machine.progress;
}

// A warp takes its time, now and then: called where another one may then be first.
inline void dawdle() {
  if (machine.current % 32 || machine.dice() % 4) return;
  for (u32 i = machine.dice() % 40; i--; ++machine.progress) pass_turn();
}

// ---------------------------------------------------------------- warps
// What each lane of this warp has brought; all 32 must come.
inline const u32* exchange(u32 value) {
  Collective& warp = machine.warps[machine.current / 32];
  const u32 turn = machine.exchanges[machine.current]++, side = turn & 1;
  warp.values[side][machine.current % 32] = value;
  if (++warp.arrived[side] == 32) warp.arrived[side] = 0, ++warp.generation;
  await([&] { return warp.generation > turn; });
  return warp.values[side];
}

template <typename To, typename From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

inline void __syncwarp() { exchange(0); }
template <typename T>
T __shfl_sync(u32, T value, u32 lane) { return bits_as<T>(exchange(bits_as<u32>(value))[lane % 32]); }
template <typename T>
T __shfl_xor_sync(u32 mask, T value, u32 other) { return __shfl_sync(mask, value, machine.current % 32 ^ other); }
template <typename T>
T __shfl_up_sync(u32 mask, T value, u32 by) {
  const u32 lane = machine.current % 32;
  return __shfl_sync(mask, value, lane >= by ? lane - by : lane);
}
inline u32 __ballot_sync(u32, bool mine) {
  const u32* all = exchange(mine);
  u32 found = 0;
  for (u32 i = 0; i < 32; ++i) found |= (all[i] & 1) << i;
  return found;
}
inline bool __any_sync(u32 mask, bool mine) { return __ballot_sync(mask, mine) != 0; }
inline u32 __popc(u32 x) { return __builtin_popcount(x); }
inline u32 __byte_perm(u32 a, u32 b, u32 selector) {
  const u64 both = a | u64(b) << 32;
  u32 found = 0;
  for (u32 i = 0; i < 4; ++i) found |= u32(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return found;
}
template <typename T>
T __ldg(const T* from) { return *from; }
template <typename T>
T __ldcs(const T* from) { return *from; }
inline u32 atomicMin(u32* at, u32 value) {
  const u32 before = *at;
  if (value < before) *at = value;
  return before;
}
inline float __uint_as_float(u32 x) { return bits_as<float>(x); }
inline u32 __float_as_uint(float x) { return bits_as<u32>(x); }
inline float __int_as_float(i32 x) { return bits_as<float>(x); }
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline int4 make_int4(i32 x, i32 y, i32 z, i32 w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---------------------------------------------------------------- named barriers
inline NamedBarrier& arrive_named(u32 id, u32 threads, bool any = false) {
  NamedBarrier& barrier = machine.named[rank_of_block()][id];
  barrier.any |= any;
  leave_clock(barrier.left);
  if (++barrier.arrived == threads) {
    barrier.answer[barrier.generation & 1] = barrier.any;
    barrier.passed[barrier.generation & 1] = barrier.left, barrier.left = {};
    barrier.arrived = barrier.any = 0;
    ++barrier.generation, ++machine.progress;
  }
  return barrier;
}

inline bool sync_named(u32 id, u32 threads, bool any = false) {
  const u32 generation = machine.named[rank_of_block()][id].generation;
  const NamedBarrier& barrier = arrive_named(id, threads, any);
  await([&] { return barrier.generation != generation; });
  take_clock(barrier.passed[generation & 1]);
  return barrier.answer[generation & 1];
}
inline void __syncthreads() { sync_named(0, machine.threads); }

// All threads of the cluster that have not ended.
inline void meet_cluster() {
  const u32 meeting = machine.meetings;
  ++machine.arrived;
  await([&] {
    if (machine.meetings == meeting && machine.arrived == machine.alive) machine.arrived = 0, ++machine.meetings;
    return machine.meetings != meeting;
  });
}

// ---------------------------------------------------------------- the block
// After an arrival, or bytes that came.
inline void settle(Barrier64& barrier) {
  leave_clock(barrier.left);
  if (barrier.pending < 0 || !barrier.live) machine.fault = "a barrier got more arrivals than it waits for";
  if (barrier.pending || barrier.bytes) return;
  barrier.phase ^= 1, barrier.pending = barrier.count, ++machine.progress;
  barrier.passed = barrier.left, barrier.left = {};
}

// Some of what the hardware still has to do.
inline void work_aside() {
  for (u32 i = 0; i < machine.threads * machine.blocks; ++i) {
    if (machine.copies[i].empty() || machine.dice() % 3) continue;
    for (u32 n = 1 + machine.dice() % 40; n-- && !machine.copies[i].empty(); ++machine.progress) {
      machine.copies[i].front()();
      machine.copies[i].pop_front();
    }
  }
  if (machine.bulk.empty() || machine.dice() % 4) return;
  const u32 which = machine.dice() % machine.bulk.size();
  const Later copy = machine.bulk[which];
  machine.bulk.erase(machine.bulk.begin() + which);
  copy();
  ++machine.progress;
}

// ---------------------------------------------------------------- blocks beside each other
struct Board {
  volatile i32 failed = 0;
  char said[200] = "";
};
static Board* grid_board;  // what the processes of a grid tell each other, if blocks run together

// Another block's doing. It may take its time, which is progress; but not for ever.
template <typename Condition>
void await_block(Condition condition) {
  const time_t began = time(nullptr);
  for (u32 i = 1; !condition(); ++i) {
    if (!grid_board) fail("a wait for another block, but blocks run one after another");
    if (grid_board->failed || time(nullptr) - began > kPatienceSeconds) fail("a flag that nobody sets");
    if (i % 64 == 0) usleep(100);
    ++machine.progress;
    pass_turn();
  }
}

void call_kernel(void** arguments);  // of main.cpp
static void** block_arguments;
static void run_thread() {
  call_kernel(block_arguments);
  machine.done[machine.current] = true;
  --machine.alive, ++machine.progress;
  pass_turn();
}

inline void begin_cluster(u32 threads, u32 blocks) {
  memset(block_memory, 0xff, kSharedMax);  // NaN
  begin_races();
  if (blocks > 1) memset(neighbour_memory, 0xff, kSharedMax);
  machine.threads = threads, machine.blocks = blocks;
  machine.alive = threads * blocks, machine.arrived = machine.meetings = 0;
  for (u32 block = 0; block < blocks; ++block) {
    for (auto& barrier : machine.barriers[block]) barrier = Barrier64{};
    for (auto& barrier : machine.named[block]) barrier = NamedBarrier{};
  }
  for (auto& warp : machine.warps) warp = Collective{};
  for (u32& pace : machine.pace) pace = 12;
  machine.stacks.resize(std::size_t(threads) * blocks * kStackBytes);
  for (u32 i = 0; i < threads * blocks; ++i) {
    machine.thread[i] = {i % threads, 0, 0}, machine.done[i] = false, machine.exchanges[i] = 0;
    machine.products[i].clear(), machine.operands[i].clear(), machine.copies[i].clear(), machine.group[i].clear();
    ucontext_t& context = machine.contexts[i];
    getcontext(&context);
    context.uc_stack.ss_sp = machine.stacks.data() + std::size_t(i) * kStackBytes;
    context.uc_stack.ss_size = kStackBytes;
    makecontext(&context, run_thread, 0);
  }
}

inline const char* run_cluster(u32 threads, u32 blocks) {
  if (blocks > kBlocksMax || threads * blocks > kThreadsMax) return "a cluster of more than two blocks, or of too many threads";
  begin_cluster(threads, blocks);
  threads *= blocks;  // a block's are whole warps
  const u32 warps = (threads + 31) / 32;
  for (u32 idle = 0; !machine.fault;) {
    const u64 before = machine.progress;
    const u32 first = machine.dice() % warps;
    bool all = true;
    for (u32 w = 0; w < warps; ++w) {
      const u32 warp = (first + w) % warps;
      // Now and then a warp falls far behind the others, or runs ahead of them.
      if (machine.dice() % 64 == 0) machine.pace[warp] = machine.dice() % 3 == 0 ? 1 : 12;
      const bool runs = machine.dice() % 16 < machine.pace[warp];
      for (u32 i = warp * 32; i < warp * 32 + 32 && i < threads; ++i) {
        machine.current = i;
        turn_of(warp);
        if (runs && !machine.done[i]) swapcontext(&machine.scheduler, &machine.contexts[i]);
        all &= machine.done[i];
      }
    }
    if (all) break;
    work_aside();
    if (!machine.fault) machine.fault = race();
    idle = machine.progress == before ? idle + 1 : 0;
    if (idle > kIdleRounds) return "no thread can go on: a deadlock";
  }
  bool left = !machine.bulk.empty();
  for (u32 i = 0; i < threads; ++i) left |= !machine.copies[i].empty() || !machine.group[i].empty();
  if (!machine.fault && left) return "the block ended before its copies";
  return machine.fault;
}
