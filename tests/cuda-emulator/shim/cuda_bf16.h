// bfloat16: a float's first half.
#pragma once

struct emu_bfloat16_tag {};
inline unsigned short emu_encode(emu_bfloat16_tag, float f) {
    unsigned u = emu_bits<unsigned>(f);
    if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (unsigned short)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
inline float emu_decode(emu_bfloat16_tag, unsigned short bits) { return emu_bits<float>((unsigned)bits << 16); }

#define EMU_TYPE __nv_bfloat16
#define EMU_PAIR __nv_bfloat162
#define EMU_RAW __nv_bfloat16_raw
#define EMU_WORD bfloat16
#define EMU_TAG emu_bfloat16_tag
#include "small_float.inc"

typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) { return {a, b}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 a) { return {a, a}; }
