// Which ordinary accesses to shared memory no barrier orders: a happens-before checker for `machine.h`, if -DRACES.
//
// Every warp has a vector clock. An arrival at a barrier leaves the warp's clock there, a wait takes what all who arrived
// have left: so it knows what an arrival orders whose warp does not wait. Each word of shared memory remembers its last
// writer and its readers. What is begun and happens later has the clock of its beginning; a product reads until the wait
// for it. The compiler calls the hooks below (-fsanitize=thread, without its library). Not looked at: lanes of one warp,
// the second block of a cluster, proxy fences, global memory. Vector clocks after Lamport, Mattern and FastTrack (2009).
#pragma once

#if RACES
#define UNSEEN __attribute__((no_sanitize("thread"), always_inline)) inline

constexpr u32 kWarpsMax = 32;
struct Clock {
  u32 at[kWarpsMax] = {};
};
struct Word {  // two bytes
  u32 writer = 0, written = 0, read[kWarpsMax] = {};
};
struct Races {
  u32 warp = 0;  // whose turn it is
  Clock clocks[kWarpsMax];
  const Clock* seen = nullptr;  // what the work in progress comes after, if it was begun earlier
  Word words[kSharedMax / 2];
  char report[160] = "";
};
static Races races;

UNSEEN void join(Clock& into, const Clock& from) {
  for (u32 i = 0; i < kWarpsMax; ++i)
    if (from.at[i] > into.at[i]) into.at[i] = from.at[i];
}

inline void begin_races() {
  races = Races{};
  for (u32 i = 0; i < kWarpsMax; ++i) races.clocks[i].at[i] = 1;
}

// An arrival. What the warp does from here on is later.
inline void leave_clock(Clock& barrier) {
  join(barrier, races.seen ? *races.seen : races.clocks[races.warp]);
  if (!races.seen) ++races.clocks[races.warp].at[races.warp];
}
inline void take_clock(const Clock& barrier) { join(races.clocks[races.warp], barrier); }

// Work of this warp that happens later. A product's reads end with the wait for it, a copy is over before its barrier.
template <typename Work>
auto begun_now(Work work, bool product = false) {
  return [work, warp = races.warp, begun = races.clocks[races.warp], product] {
    const u32 turn = races.warp;
    Clock seen = begun;
    if (product) seen.at[warp] = races.clocks[warp].at[warp];
    races.warp = warp, races.seen = &seen;
    work();
    races.warp = turn, races.seen = nullptr;
  };
}

__attribute__((no_sanitize("thread"))) inline void touch(const void* pointer, u32 bytes, bool write) {
  const i64 from = static_cast<const u8*>(pointer) - block_memory;
  if (from < 0 || from >= i64(kSharedMax)) return;
  const u32 me = races.warp;
  const Clock& seen = races.seen ? *races.seen : races.clocks[me];
  for (u32 i = u32(from) / 2; i <= (u32(from) + bytes - 1) / 2; ++i) {
    Word& word = races.words[i];
    u32 other = word.writer;
    bool raced = other != me && word.written > seen.at[other];
    for (u32 v = 0; write && !raced && v < kWarpsMax; ++v)
      if (v != me && word.read[v] > seen.at[v]) raced = true, other = v;
    if (raced && !races.report[0])
      snprintf(races.report, sizeof races.report, "a race: warp %u %s shared memory at %u after warp %u, and no barrier orders them",
               me, write ? "writes" : "reads", i * 2, other);
    if (write) word.writer = me, word.written = seen.at[me];
    else word.read[me] = seen.at[me];
  }
}

#define HOOKS(size)                                                              \
  HOOK __tsan_read##size(void* at) { touch(at, size, false); }                    \
  HOOK __tsan_write##size(void* at) { touch(at, size, true); }                    \
  HOOK __tsan_unaligned_read##size(void* at) { touch(at, size, false); }          \
  HOOK __tsan_unaligned_write##size(void* at) { touch(at, size, true); }
#define HOOK extern "C" __attribute__((no_sanitize("thread"))) void
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
HOOK __tsan_read_range(void* at, unsigned long bytes) { touch(at, u32(bytes), false); }
HOOK __tsan_write_range(void* at, unsigned long bytes) { touch(at, u32(bytes), true); }
HOOK __tsan_vptr_update(void*, void*) {}
HOOK __tsan_vptr_read(void*) {}
HOOK __tsan_func_entry(void*) {}
HOOK __tsan_func_exit() {}
HOOK __tsan_init() {}

inline const char* race() { return races.report[0] ? races.report : nullptr; }
inline void turn_of(u32 warp) { races.warp = warp; }
#else
struct Clock {};
inline void begin_races() {}
inline void leave_clock(Clock&) {}
inline void take_clock(const Clock&) {}
template <typename Work>
Work begun_now(Work work, bool = false) { return work; }
inline void touch(const void*, u32, bool) {}
inline const char* race() { return nullptr; }
inline void turn_of(u32) {}
#endif
