// Warpgroup products for `machine.h`: 64 x n += 64 x k @ k x n in float32, done when the kernel waits for them.
#pragma once
#include "ptx.cuh"

using Decode = float (*)(u32);

template <u32 kBytes, Decode kDecode>
struct Operand {
  u64 descriptor;

  u32 begin() const { return u32(descriptor & 0x3fff) << 4; }
  u32 step() const { return u32(descriptor >> 32 & 0x3fff) << 4; }  // between eight rows
  float at(u32 address) const {
    u32 value = 0;
    memcpy(&value, memory_of(rank_of_block()) + swizzled_address(address, 256 >> (descriptor >> 62)), kBytes);
    return kDecode(value);
  }
  // Contiguous along k: rows of step / 8 bytes.
  float k_major(u32 row, u32 k) const { return at(begin() + row / 8 * step() + row % 8 * (step() / 8) + k * kBytes); }
  // Contiguous along the other axis, in boxes of 64.
  float mn_major(u32 k, u32 n) const {
    const u32 box = u32(descriptor >> 16 & 0x3fff) << 4;
    return at(begin() + n / 64 * box + k / 8 * step() + k % 8 * 128 + n % 64 * kBytes);
  }
};

// This thread's part: rows g and g + 8 of its warp's sixteen, two columns of each eight.
template <u32 kK, u32 kCount, typename A, typename B>
void multiply_part(float* sums, A a, B b, bool accumulate, u32 lane) {
  for (u32 r = 0; r < 2; ++r) {
    float left[kK];
    for (u32 k = 0; k < kK; ++k) left[k] = a(r, k);
    for (u32 i = 0; i < kCount / 2; ++i) {
      const u32 column = i / 2 * 8 + lane % 4 * 2 + i % 2;
      float sum = 0.f;
      for (u32 k = 0; k < kK; ++k) sum += left[k] * b(k, column);
      float& into = sums[i / 2 * 4 + r * 2 + i % 2];
      into = accumulate ? into + sum : sum;
    }
  }
}

template <u32 kBytes, Decode kDecode, bool kTransposed, int kCount, bool kTransposedA = false>
void multiply_shared(float (&d)[kCount], u64 a, u64 b, bool accumulate) {
  const u32 thread = machine.current, row = thread / 32 % 4 * 16 + thread % 32 / 4;
  float* sums = d;
  machine.products[thread].push_back(begun_now([=] {
    const Operand<kBytes, kDecode> left{a}, right{b};
    multiply_part<32 / kBytes, kCount>(
        sums, [&](u32 r, u32 k) { return kTransposedA ? left.mn_major(k, row + 8 * r) : left.k_major(row + 8 * r, k); },
        [&](u32 k, u32 n) { return kTransposed ? right.mn_major(k, n) : right.k_major(n, k); }, accumulate, thread % 32);
  }, true));
}

template <u32 kBytes, Decode kDecode, bool kTransposed, int kCount>
void multiply_registers(float (&d)[kCount], const u32 (&a)[4], u64 b, bool accumulate) {
  constexpr u32 kK = 32 / kBytes, kOf = 4 / kBytes;  // values of a register
  const u32 thread = machine.current, turn = u32(machine.operands[thread].size());
  machine.operands[thread].push_back({a[0], a[1], a[2], a[3]});
  float* sums = d;
  machine.products[thread].push_back(begun_now([=] {
    // Register i of lane l of the quad holds row g + 8 (i % 2) and values l kOf .. of half i / 2 of the row.
    const auto left = [&](u32 r, u32 k) {
      const u32 lane = k % (kK / 2) / kOf, value = machine.operands[(thread & ~3u) + lane][turn][r + k / (kK / 2) * 2];
      return kDecode(value >> 8 * kBytes * (k % kOf) & (kBytes == 1 ? 0xff : 0xffff));
    };
    const Operand<kBytes, kDecode> right{b};
    multiply_part<kK, kCount>(
        sums, left, [&](u32 k, u32 n) { return kTransposed ? right.mn_major(k, n) : right.k_major(n, k); }, accumulate,
        thread % 32);
  }, true));
}

#define PRODUCTS(name, bytes, decode)                                                                                       \
  template <int kCount>                                                                                                     \
  void wgmma_##name(float (&d)[kCount], u64 a, u64 b, bool on) { multiply_shared<bytes, decode, false>(d, a, b, on); }       \
  template <int kCount>                                                                                                     \
  void wgmma_##name##_bt(float (&d)[kCount], u64 a, u64 b, bool on) { multiply_shared<bytes, decode, true>(d, a, b, on); }   \
  template <int kCount>                                                                                                     \
  void wgmma_##name##_rs(float (&d)[kCount], const u32 (&a)[4], u64 b, bool on) { multiply_registers<bytes, decode, false>(d, a, b, on); } \
  template <int kCount>                                                                                                     \
  void wgmma_##name##_rs_bt(float (&d)[kCount], const u32 (&a)[4], u64 b, bool on) { multiply_registers<bytes, decode, true>(d, a, b, on); }
PRODUCTS(bf16, 2, of_bf16)
template <int kCount>
void wgmma_bf16_at(float (&d)[kCount], u64 a, u64 b, bool on) { multiply_shared<2, of_bf16, false, kCount, true>(d, a, b, on); }
template <int kCount>
void wgmma_bf16_at_bt(float (&d)[kCount], u64 a, u64 b, bool on) { multiply_shared<2, of_bf16, true, kCount, true>(d, a, b, on); }
PRODUCTS(f16, 2, of_fp16)
PRODUCTS(e4m3, 1, of_e4m3)
