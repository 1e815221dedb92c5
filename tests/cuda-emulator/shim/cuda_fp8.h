// Eight-bit floats: E4M3, which saturates.
#pragma once
#include "cuda_fp16.h"

enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
typedef unsigned char __nv_fp8_storage_t;

inline float emu_e4m3_decode(unsigned char bits) {
    int exponent = bits >> 3 & 15, mantissa = bits & 7;
    if (exponent == 15 && mantissa == 7) return NAN;
    float size = exponent ? ldexpf(1.f + mantissa / 8.f, exponent - 7) : ldexpf(mantissa / 8.f, -6);
    return bits & 128 ? -size : size;
}

inline unsigned char emu_e4m3_encode(float f) {
    unsigned char sign = std::signbit(f) ? 128 : 0;
    if (f != f) return sign | 127;
    float size = fabsf(f);
    if (size >= 448.f) return sign | 0x7e;
    if (size < ldexpf(1.f, -6)) return sign | (int)nearbyintf(ldexpf(size, 9));
    int exponent;
    frexpf(size, &exponent);
    exponent--;
    int mantissa = (int)nearbyintf(ldexpf(size, 3 - exponent));
    if (mantissa == 16) mantissa = 8, exponent++;
    return sign | (exponent + 7) << 3 | (mantissa - 8);
}

inline void emu_only_e4m3(__nv_fp8_interpretation_t kind) {
    if (kind != __NV_E4M3) emu_fail("the eight-bit float E5M2 is not emulated");
}

struct __nv_fp8_e4m3 {
    unsigned char __x;
    __nv_fp8_e4m3() = default;
    template <class T, class = std::enable_if_t<std::is_arithmetic<T>::value>>
    __nv_fp8_e4m3(T f) : __x(emu_e4m3_encode((float)f)) {}
    __nv_fp8_e4m3(__half h) : __x(emu_e4m3_encode((float)h)) {}
    operator float() const { return emu_e4m3_decode(__x); }
};

inline __half_raw __nv_cvt_fp8_to_halfraw(unsigned char bits, __nv_fp8_interpretation_t kind) {
    emu_only_e4m3(kind);
    return __half(emu_e4m3_decode(bits));
}
inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float f, __nv_saturation_t, __nv_fp8_interpretation_t kind) {
    emu_only_e4m3(kind);
    return emu_e4m3_encode(f);
}
