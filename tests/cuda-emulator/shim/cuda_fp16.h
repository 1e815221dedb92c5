// IEEE half precision.
#pragma once

struct emu_half_tag {};
inline unsigned short emu_encode(emu_half_tag, float f) {
    _Float16 h = (_Float16)f;
    return emu_bits<unsigned short>(h);
}
// By shifts: without F16C, which not every processor has, the compiler would call a function for each.
inline float emu_decode(emu_half_tag, unsigned short bits) {
    unsigned sign = (unsigned)(bits & 0x8000) << 16, rest = (unsigned)(bits & 0x7fff) << 13;
    // With the exponent where a float has it, all that is missing is the difference of the biases, 127 - 15.
    float value = emu_bits<float>(rest) * 0x1p112f;
    if (rest >= 31u << 23) value = emu_bits<float>(rest | 0xffu << 23);
    return emu_bits<float>(emu_bits<unsigned>(value) | sign);
}

#define EMU_TYPE __half
#define EMU_PAIR __half2
#define EMU_RAW __half_raw
#define EMU_WORD half
#define EMU_TAG emu_half_tag
#include "small_float.inc"

typedef __half half;
typedef __half2 half2;
inline __half2 make_half2(__half a, __half b) { return {a, b}; }
inline __half2 __half2half2(__half a) { return {a, a}; }
