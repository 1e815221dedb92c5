// IEEE half precision.
#pragma once

struct emu_half_tag {};
inline unsigned short emu_encode(emu_half_tag, float f) {
    _Float16 h = (_Float16)f;
    return emu_bits<unsigned short>(h);
}
inline float emu_decode(emu_half_tag, unsigned short bits) { return (float)emu_bits<_Float16>(bits); }

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
