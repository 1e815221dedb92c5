// The matrix product of one warp's tensor cores: C += A B, with A 16 x 16 and B 16 x 8 of T, C 16 x 8 of f32.
//
// Each lane brings 8 numbers of A, two a register, 4 of B, and holds 4 of C. Which ones: `mma_a`, `mma_b`, `mma_c`, where
// number i of a lane's A or B is half i % 2 (0: the lower bits) of its register i / 2. With g = lane / 4, c = lane % 4:
//
//   A   register 0: row g,     columns 2c, 2c + 1        1: row g + 8, columns 2c, 2c + 1
//                2: row g,     columns 2c + 8, 2c + 9    3: row g + 8, columns 2c + 8, 2c + 9
//   B   register 0: column g,  rows 2c, 2c + 1           1: column g,  rows 2c + 8, 2c + 9
//   C   0, 1: row g, columns 2c, 2c + 1                  2, 3: row g + 8, columns 2c, 2c + 1
//
// A column of A and the same row of B meet in one product, so these 16 may be any, in any order, if A and B agree. Both
// attention kernels' loads rely on that.
//
// Every lane of the warp must call it together.
#pragma once
#include "numbers.cuh"

struct MmaPlace {
    u32 row, column;
};
__host__ __device__ constexpr MmaPlace mma_a(u32 lane, u32 i) {
    return {lane / 4 + 8 * (i / 2 % 2), 2 * (lane % 4) + i % 2 + 8 * (i / 4)};
}
__host__ __device__ constexpr MmaPlace mma_b(u32 lane, u32 i) {
    return {2 * (lane % 4) + i % 2 + 8 * (i / 2), lane / 4};
}
__host__ __device__ constexpr MmaPlace mma_c(u32 lane, u32 i) {
    return {lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2};
}

#ifndef EMU_HOST

#define MMA_F32(TYPE)                                                                                                  \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0, %1, %2, %3}, "                      \
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                                       \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

template <typename T> __device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]);
template <>
__device__ __forceinline__ void mma<__nv_bfloat16>(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    MMA_F32("bf16");
}
template <> __device__ __forceinline__ void mma<__half>(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    MMA_F32("f16");
}
#undef MMA_F32

#else

// The same without tensor cores: a lane fetches the two rows of A and the two columns of B that its part of C needs.
template <typename T> void mma(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    const u32 lane = threadIdx.x % 32;
    auto fetch = [](u32 low, u32 high, u32 from, float (&to)[4]) {
        u64 both = __shfl_sync(0xffffffffu, static_cast<u64>(high) << 32 | low, static_cast<int>(from));
        float2 first = unpack2<T>(static_cast<u32>(both)), second = unpack2<T>(static_cast<u32>(both >> 32));
        to[0] = first.x, to[1] = first.y, to[2] = second.x, to[3] = second.y;
    };
    float rows[2][16], columns[2][16];
    for (u32 quarter = 0; quarter < 4; quarter++) {
        u32 holder = lane / 4 * 4 + quarter;
        for (u32 half = 0; half < 2; half++) {
            float numbers[4];
            fetch(a[2 * half], a[2 * half + 1], holder, numbers);
            for (u32 i = 0; i < 4; i++) {
                MmaPlace place = mma_a(holder, 4 * half + i);
                rows[place.row / 8][place.column] = numbers[i];
            }
        }
        for (u32 half = 0; half < 2; half++) {
            u32 column_holder = 4 * mma_c(lane, half).column + quarter;
            float numbers[4];
            fetch(b[0], b[1], column_holder, numbers);
            for (u32 i = 0; i < 4; i++) columns[half][mma_b(column_holder, i).row] = numbers[i];
        }
    }
    for (u32 i = 0; i < 4; i++) {
        for (u32 k = 0; k < 16; k++) c[i] += rows[mma_c(lane, i).row / 8][k] * columns[i % 2][k];
    }
}

#endif
