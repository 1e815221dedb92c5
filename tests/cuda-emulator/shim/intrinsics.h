// Scalar intrinsics. Those that are fast and inexact on a GPU are the exact ones of the C library here.
#pragma once

template <class A, class B> constexpr std::common_type_t<A, B> min(A a, B b) {
    typedef std::common_type_t<A, B> T;
    return T(a) < T(b) ? T(a) : T(b);
}
template <class A, class B> constexpr std::common_type_t<A, B> max(A a, B b) {
    typedef std::common_type_t<A, B> T;
    return T(a) > T(b) ? T(a) : T(b);
}

template <class To, class From> inline To emu_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same number of bits");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline float __uint_as_float(unsigned v) { return emu_bits<float>(v); }
inline unsigned __float_as_uint(float v) { return emu_bits<unsigned>(v); }
inline float __int_as_float(int v) { return emu_bits<float>(v); }
inline int __float_as_int(float v) { return emu_bits<int>(v); }
inline double __longlong_as_double(long long v) { return emu_bits<double>(v); }
inline long long __double_as_longlong(double v) { return emu_bits<long long>(v); }

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678118654752f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752); }
inline void sincospif(float x, float* s, float* c) { sincosf(x * 3.14159265358979f, s, c); }

inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float a, float b) { return powf(a, b); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanhf(float x) { return tanhf(x); }
inline void __sincosf(float x, float* s, float* c) { sincosf(x, s, c); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
inline float __fdividef(float a, float b) { return a / b; }

// g++ is told not to contract: these round each operation by itself, as on a GPU.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __frsqrt_rn(float a) { return 1.0f / sqrtf(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

// Beyond the range of an integer a GPU saturates, and makes 0 of NaN.
template <class Int, class Real> inline Int emu_to_int(Real x) {
    constexpr Real top = Real(std::is_same<Int, int>::value ? 2147483648.0 : 4294967296.0);
    constexpr Real bottom = Real(std::is_same<Int, int>::value ? -2147483648.0 : 0.0);
    if (x != x) return 0;
    return x >= top ? (std::is_same<Int, int>::value ? 0x7fffffff : 0xffffffffu) : x <= bottom ? Int(bottom) : Int(x);
}
inline int __float2int_rn(float x) { return emu_to_int<int>(nearbyintf(x)); }
inline int __float2int_rz(float x) { return emu_to_int<int>(truncf(x)); }
inline int __float2int_rd(float x) { return emu_to_int<int>(floorf(x)); }
inline int __float2int_ru(float x) { return emu_to_int<int>(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return emu_to_int<unsigned>(nearbyintf(x)); }
inline unsigned __float2uint_rz(float x) { return emu_to_int<unsigned>(truncf(x)); }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline float __double2float_rn(double x) { return (float)x; }

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __clz(int v) { return v ? __builtin_clz(v) : 32; }
inline int __clzll(long long v) { return v ? __builtin_clzll(v) : 64; }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline unsigned __brev(unsigned v) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (v >> i & 1) << (31 - i);
    return r;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return (unsigned)((((uint64_t)high << 32 | low) << (by & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return (unsigned)(((uint64_t)high << 32 | low) >> (by & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    uint64_t bytes = (uint64_t)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned pick = selector >> (4 * i) & 15, byte = bytes >> (8 * (pick & 7)) & 255;
        if (pick & 8) byte = byte & 128 ? 255 : 0;
        r |= byte << (8 * i);
    }
    return r;
}
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (int)(int8_t)(a >> (8 * i)) * (int)(int8_t)(b >> (8 * i));
    return c;
}
inline unsigned __vsubss4(unsigned a, unsigned b) {
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        int d = (int)(int8_t)(a >> (8 * i)) - (int)(int8_t)(b >> (8 * i));
        d = d > 127 ? 127 : d < -128 ? -128 : d;
        r |= (unsigned)(uint8_t)d << (8 * i);
    }
    return r;
}

// Loads and stores that say how to cache.
template <class T> inline T __ldg(const T* at) { return *at; }
template <class T> inline T __ldcs(const T* at) { return *at; }
template <class T> inline T __ldca(const T* at) { return *at; }
template <class T> inline T __ldcg(const T* at) { return *at; }
template <class T> inline T __ldcv(const T* at) { return *at; }
template <class T> inline T __ldlu(const T* at) { return *at; }
template <class T, class U> inline void __stcs(T* at, U v) { *at = v; }
template <class T, class U> inline void __stcg(T* at, U v) { *at = v; }
template <class T, class U> inline void __stwb(T* at, U v) { *at = v; }
template <class T, class U> inline void __stwt(T* at, U v) { *at = v; }

[[noreturn]] inline void __trap() { emu_fail("__trap()"); }
inline long long clock64() { return 0; }
#undef assert
#define assert(x) ((x) ? (void)0 : emu_fail("assert, line %d: " #x, __LINE__))
inline void __builtin_assume(bool) {}
inline unsigned __cvta_generic_to_shared(const void* at) { return (unsigned)(uintptr_t)at; }
