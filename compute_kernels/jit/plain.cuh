// What the kernels' headers need and no PTX: integers, and descriptors of tensor-core operands. The file that includes it
// has defined DEVICE.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;

template <typename T>
DEVICE constexpr T smaller(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
DEVICE constexpr T larger(T a, T b) {
  return a > b ? a : b;
}
DEVICE constexpr u32 ceil_div(u32 a, u32 b) { return (a + b - 1) / b; }

// ---------------------------------------------------------------- operands in shared memory
// Descriptor of a K-major operand in rows of 128 bytes with the 128-byte swizzle: eight rows make an atom
// of 1,024 bytes, and atoms follow each other. Advancing along K inside the row adds bytes to the start.
DEVICE u64 k_major_descriptor(u32 address) {
  constexpr u64 kSwizzle128 = 1ull << 62;
  constexpr u64 kStride = u64(1024 >> 4) << 32;
  constexpr u64 kLeading = u64(1) << 16;  // unused with this swizzle
  return kSwizzle128 | kStride | kLeading | ((address & 0x3FFFF) >> 4);
}

// The same for rows of 64 or 32 bytes, with the swizzle of that width.
template <u32 kRowBytes>
DEVICE u64 narrow_descriptor(u32 address) {
  static_assert(kRowBytes == 128 || kRowBytes == 64 || kRowBytes == 32, "width of a swizzle");
  constexpr u64 kSwizzle = u64(kRowBytes == 128 ? 1 : kRowBytes == 64 ? 2 : 3) << 62;
  return kSwizzle | (u64(8 * kRowBytes >> 4) << 32) | (u64(1) << 16) | ((address & 0x3FFFF) >> 4);
}

// Descriptor of an operand whose contiguous axis is N (the second one, "MN-major"), stored as boxes of 64
// columns x rows of K with the 128-byte swizzle. Boxes lie `box_bytes` apart; eight rows of K are 1,024 bytes.
DEVICE u64 mn_major_descriptor(u32 address, u32 box_bytes) {
  constexpr u64 kSwizzle128 = 1ull << 62;
  constexpr u64 kStride = u64(1024 >> 4) << 32;
  return kSwizzle128 | kStride | (u64(box_bytes >> 4) << 16) | ((address & 0x3FFFF) >> 4);
}
