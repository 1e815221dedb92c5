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

// The same without tensor cores: what the lanes bring is laid out as matrices and multiplied, in the order of k.
struct alignas(16) MmaLane {
    float a[8], b[4], c[4];
};
typedef float MmaRow __attribute__((vector_size(32), aligned(4)));
// It touches no memory of the kernel's: nothing that ThreadSanitizer should look at.
__attribute__((no_sanitize_thread)) inline void mma_of_warp(MmaLane* lanes) {
    float a[16][16];
    MmaRow b[16], c[16];
    for (u32 lane = 0; lane < 32; lane++) {
#pragma GCC unroll 8
        for (u32 i = 0; i < 8; i++) a[mma_a(lane, i).row][mma_a(lane, i).column] = lanes[lane].a[i];
#pragma GCC unroll 4
        for (u32 i = 0; i < 4; i++) {
            b[mma_b(lane, i).row][mma_b(lane, i).column] = lanes[lane].b[i];
            c[mma_c(lane, i).row][mma_c(lane, i).column] = lanes[lane].c[i];
        }
    }
    for (u32 row = 0; row < 16; row++) {
        MmaRow sum = c[row];
#pragma GCC unroll 16
        for (u32 k = 0; k < 16; k++) sum += a[row][k] * b[k];
        c[row] = sum;
    }
    for (u32 lane = 0; lane < 32; lane++) {
#pragma GCC unroll 4
        for (u32 i = 0; i < 4; i++) lanes[lane].c[i] = c[mma_c(lane, i).row][mma_c(lane, i).column];
    }
}
template <typename T> void mma(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    MmaLane own;
#pragma GCC unroll 4
    for (u32 i = 0; i < 4; i++) {
        const float2 two = unpack2<T>(a[i]);
        own.a[2 * i] = two.x, own.a[2 * i + 1] = two.y, own.c[i] = c[i];
    }
#pragma GCC unroll 2
    for (u32 i = 0; i < 2; i++) {
        const float2 two = unpack2<T>(b[i]);
        own.b[2 * i] = two.x, own.b[2 * i + 1] = two.y;
    }
    emu_together<MmaLane, mma_of_warp>(own);
    for (u32 i = 0; i < 4; i++) c[i] = own.c[i];
}

#endif
