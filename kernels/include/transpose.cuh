// A warp's 8 x 8 matrix of 16-bit numbers becomes its transpose. With g = lane / 4, c = lane % 4, a lane brings row g, columns
// 2c, 2c + 1 (the lower bits are column 2c), and takes what was rows 2c, 2c + 1 of column g: what the tensor cores give as C
// (include/mma.cuh), packed in pairs, becomes what they take as B.
//
// Every lane of the warp must call it together.
#pragma once
#include "numbers.cuh"

#ifndef EMU_HOST

__device__ __forceinline__ u32 transposed(u32 pair) {
    u32 to;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(to) : "r"(pair));
    return to;
}

#else

inline u32 transposed(u32 pair) {
    const u32 g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    const u32 first = __shfl_sync(0xffffffffu, pair, static_cast<int>(8 * c + g / 2));
    const u32 second = __shfl_sync(0xffffffffu, pair, static_cast<int>(8 * c + 4 + g / 2));
    return (first >> 16 * (g % 2) & 0xffff) | second >> 16 * (g % 2) << 16;
}

#endif
