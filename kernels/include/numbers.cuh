// The two 16-bit types, and loads and stores of eight numbers at a time.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

typedef uint32_t u32;
typedef unsigned long long u64;

// Numbers that a thread takes at a time: of 16-bit types, what one 16-byte load brings.
constexpr u32 EIGHT = 8;

template <typename T> struct PairOf;
template <> struct PairOf<__nv_bfloat16> { typedef __nv_bfloat162 type; };
template <> struct PairOf<__half> { typedef __half2 type; };

__device__ __forceinline__ float to_f32(float value) { return value; }
__device__ __forceinline__ float to_f32(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float to_f32(__half value) { return __half2float(value); }
__device__ __forceinline__ float2 to_f32(__nv_bfloat162 pair) { return __bfloat1622float2(pair); }
__device__ __forceinline__ float2 to_f32(__half2 pair) { return __half22float2(pair); }

// Rounds to nearest even.
template <typename T> __device__ __forceinline__ T rounded(float value);
template <> __device__ __forceinline__ float rounded(float value) { return value; }
template <> __device__ __forceinline__ __nv_bfloat16 rounded(float value) { return __float2bfloat16_rn(value); }
template <> __device__ __forceinline__ __half rounded(float value) { return __float2half_rn(value); }

template <typename P> __device__ __forceinline__ P rounded_pair(float a, float b);
template <> __device__ __forceinline__ __nv_bfloat162 rounded_pair(float a, float b) { return __floats2bfloat162_rn(a, b); }
template <> __device__ __forceinline__ __half2 rounded_pair(float a, float b) { return __floats2half2_rn(a, b); }

// Two numbers that share a 32-bit register.
template <typename T> __device__ __forceinline__ float2 unpack2(u32 bits) {
    return to_f32(*reinterpret_cast<const typename PairOf<T>::type*>(&bits));
}
template <typename T> __device__ __forceinline__ u32 pack2(float a, float b) {
    auto pair = rounded_pair<typename PairOf<T>::type>(a, b);
    return *reinterpret_cast<const u32*>(&pair);
}

// 16 bytes of what a launch reads once and nobody writes meanwhile: they are not kept in the first-level cache, and the second
// fetches what lies behind them too.
__device__ __forceinline__ uint4 load_once(const uint4* from) {
#ifdef EMU_HOST
    return *from;
#else
    uint4 bits;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
                 : "l"(from));
    return bits;
#endif
}

// Of two pairs, the pair of their lower and that of their upper halves.
__device__ __forceinline__ u32 lower(u32 a, u32 b) { return (a & 0xffff) | (b << 16); }
__device__ __forceinline__ u32 upper(u32 a, u32 b) { return (a >> 16) | (b & 0xffff0000u); }

// The eight numbers of a 16-byte load.
template <typename T> __device__ __forceinline__ void unpack8(uint4 bits, float (&to)[EIGHT]) {
    const u32 words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        float2 pair = unpack2<T>(words[i]);
        to[2 * i] = pair.x;
        to[2 * i + 1] = pair.y;
    }
}

// Eight numbers from or to an address that is a multiple of 16 bytes.
template <typename T> __device__ __forceinline__ void load8(const T* from, float (&to)[EIGHT]) {
    unpack8<T>(*reinterpret_cast<const uint4*>(from), to);
}
template <> __device__ __forceinline__ void load8(const float* from, float (&to)[EIGHT]) {
    float4 low = reinterpret_cast<const float4*>(from)[0], high = reinterpret_cast<const float4*>(from)[1];
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
    to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
}
template <typename T> __device__ __forceinline__ void store8(T* to, const float (&from)[EIGHT]) {
    uint4 bits = {pack2<T>(from[0], from[1]), pack2<T>(from[2], from[3]), pack2<T>(from[4], from[5]),
                  pack2<T>(from[6], from[7])};
    *reinterpret_cast<uint4*>(to) = bits;
}
template <> __device__ __forceinline__ void store8(float* to, const float (&from)[EIGHT]) {
    reinterpret_cast<float4*>(to)[0] = make_float4(from[0], from[1], from[2], from[3]);
    reinterpret_cast<float4*>(to)[1] = make_float4(from[4], from[5], from[6], from[7]);
}

// Numbers `at` to `at` + 7 of a row of `width`. Rows whose width is a multiple of 8 are aligned, and go 16 bytes at a time;
// others go one number at a time, and past their end 0 is read and nothing written.
template <typename T> __device__ __forceinline__ void load_up_to_8(const T* row, u32 at, u32 width, float (&to)[EIGHT]) {
    if (width % EIGHT == 0) {
        load8(row + at, to);
        return;
    }
    for (u32 i = 0; i < EIGHT; i++) to[i] = at + i < width ? to_f32(row[at + i]) : 0.0f;
}
template <typename T> __device__ __forceinline__ void store_up_to_8(T* row, u32 at, u32 width, const float (&from)[EIGHT]) {
    if (width % EIGHT == 0) {
        store8(row + at, from);
        return;
    }
    for (u32 i = 0; i < EIGHT && at + i < width; i++) row[at + i] = rounded<T>(from[i]);
}

// Row `row` of a matrix of so wide rows.
template <typename T> __device__ __forceinline__ T* row_of(T* matrix, u32 row, u32 width) {
    return matrix + static_cast<size_t>(row) * width;
}
