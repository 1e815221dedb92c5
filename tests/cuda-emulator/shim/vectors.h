// dim3, and CUDA's vector types with their sizes and alignments.
#pragma once

typedef emu_uint3 uint3;
struct dim3 : emu_uint3 {
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : emu_uint3{a, b, c} {}
};

// T2 and T4 are aligned to their size, up to 16; T1 and T3 as T is.
#define EMU_VECTORS(T, N)                                                          \
    struct N##1 { T x; };                                                          \
    struct alignas(2 * sizeof(T)) N##2 { T x, y; };                                \
    struct alignas(sizeof(T) * 4 > 16 ? 16 : sizeof(T) * 4) N##4 { T x, y, z, w; }; \
    inline N##1 make_##N##1(T a) { return {a}; }                                   \
    inline N##2 make_##N##2(T a, T b) { return {a, b}; }                           \
    inline N##4 make_##N##4(T a, T b, T c, T d) { return {a, b, c, d}; }
#define EMU_VECTORS_OF_3(T, N)        \
    struct N##3 { T x, y, z; };       \
    inline N##3 make_##N##3(T a, T b, T c) { return {a, b, c}; }

EMU_VECTORS(float, float)
EMU_VECTORS(double, double)
EMU_VECTORS(signed char, char)
EMU_VECTORS(unsigned char, uchar)
EMU_VECTORS(short, short)
EMU_VECTORS(unsigned short, ushort)
EMU_VECTORS(int, int)
EMU_VECTORS(unsigned, uint)
EMU_VECTORS(long, long)
EMU_VECTORS(unsigned long, ulong)
EMU_VECTORS(long long, longlong)
EMU_VECTORS(unsigned long long, ulonglong)
EMU_VECTORS_OF_3(float, float)
EMU_VECTORS_OF_3(double, double)
EMU_VECTORS_OF_3(signed char, char)
EMU_VECTORS_OF_3(unsigned char, uchar)
EMU_VECTORS_OF_3(short, short)
EMU_VECTORS_OF_3(unsigned short, ushort)
EMU_VECTORS_OF_3(int, int)
EMU_VECTORS_OF_3(long long, longlong)
EMU_VECTORS_OF_3(unsigned long long, ulonglong)
inline uint3 make_uint3(unsigned a, unsigned b, unsigned c) { return {a, b, c}; }

#undef EMU_VECTORS
#undef EMU_VECTORS_OF_3
