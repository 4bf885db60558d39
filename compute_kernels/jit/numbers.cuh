// Part of ptx.cuh: packed numbers and fast functions.
#pragma once

// Two floats as packed bf16, the first in the low half.
DEVICE u32 pack_bf16(float low, float high) {
  u32 packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

DEVICE u32 pack_fp16(float low, float high) {
  u32 packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// Two pairs of fp16 as four floats.
DEVICE float4 floats_of_fp16(u32 pair0, u32 pair1) {
  float4 v;
  asm("{\n .reg .b16 a, b, c, d;\n mov.b32 {a, b}, %4;\n mov.b32 {c, d}, %5;\n cvt.f32.f16 %0, a;\n cvt.f32.f16 %1, b;\n cvt.f32.f16 %2, c;\n"
      " cvt.f32.f16 %3, d;\n}\n"
      : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
      : "r"(pair0), "r"(pair1));
  return v;
}

// Eight bf16 as eight fp16.
DEVICE uint4 fp16_of_bf16(uint4 v) {
  u32 x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (u32 i = 0; i < 4; ++i) x[i] = pack_fp16(__uint_as_float(x[i] << 16), __uint_as_float(x[i] & 0xffff0000u));
  return make_uint4(x[0], x[1], x[2], x[3]);
}

// Two floats as e4m3, the first in the low byte; and back, as two fp16.
DEVICE u16 pack_e4m3(float low, float high) {
  u16 packed;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  return packed;
}
DEVICE u32 fp16_of_e4m3(u16 packed) {
  u32 wide;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(wide) : "h"(packed));
  return wide;
}
DEVICE u16 e4m3_of_fp16(u32 wide) {
  u16 packed;
  asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;" : "=h"(packed) : "r"(wide));
  return packed;
}
DEVICE u32 subtract_fp16(u32 a, u32 b) {
  u32 difference;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(difference) : "r"(a), "r"(b));
  return difference;
}
DEVICE u32 multiply_fp16(u32 a, u32 b) {
  u32 product;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
  return product;
}

// Four e4m3 values as two packed fp16 pairs, scaled.
DEVICE void widen(u32 four, u32 scale, u32& pair0, u32& pair1) {
  asm("{\n .reg .b16 low, high;\n .reg .b32 x, y;\n mov.b32 {low, high}, %2;\n cvt.rn.f16x2.e4m3x2 x, low;\n"
      " cvt.rn.f16x2.e4m3x2 y, high;\n mul.rn.f16x2 %0, x, %3;\n mul.rn.f16x2 %1, y, %3;\n}\n"
      : "=r"(pair0), "=r"(pair1)
      : "r"(four), "r"(scale));
}

DEVICE float infinity() { return __int_as_float(0x7f800000); }

DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

DEVICE float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
