// Loads of four 8 x 8 matrices of 16-bit numbers from shared memory, each lane's part as include/mma.cuh wants it.
//
// Lane l brings the address of row l % 8 of matrix l / 8: 8 numbers that lie together, at a multiple of 16 bytes. With
// g = lane / 4, c = lane % 4, a lane's register m gets of matrix m
//
//   ldmatrix            row g,             columns 2c, 2c + 1
//   ldmatrix_transposed rows 2c, 2c + 1,   column g
//
// Every lane of the warp must call it together. The eight rows of a matrix come at once if they begin in different banks.
#pragma once
#include "numbers.cuh"

#ifndef EMU_HOST

#define LDMATRIX(NAME, FORM)                                                                                           \
    __device__ __forceinline__ void NAME(u32 (&to)[4], const void* row) {                                              \
        asm volatile("ldmatrix.sync.aligned.m8n8.x4" FORM ".shared.b16 {%0, %1, %2, %3}, [%4];"                        \
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])                                              \
                     : "r"(static_cast<u32>(__cvta_generic_to_shared(row)))                                            \
                     : "memory");                                                                                      \
    }
LDMATRIX(ldmatrix, "")
LDMATRIX(ldmatrix_transposed, ".trans")
#undef LDMATRIX

#else

// The same with plain loads, from the rows whose addresses other lanes bring.
inline const uint16_t* row_of_lane(const void* row, u32 lane) {
    return reinterpret_cast<const uint16_t*>(__shfl_sync(0xffffffffu, reinterpret_cast<u64>(row), static_cast<int>(lane)));
}
inline void ldmatrix(u32 (&to)[4], const void* row) {
    const u32 g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    for (u32 m = 0; m < 4; m++) {
        const uint16_t* numbers = row_of_lane(row, 8 * m + g);
        to[m] = numbers[2 * c] | static_cast<u32>(numbers[2 * c + 1]) << 16;
    }
}
inline void ldmatrix_transposed(u32 (&to)[4], const void* row) {
    const u32 g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    for (u32 m = 0; m < 4; m++) {
        const uint16_t* first = row_of_lane(row, 8 * m + 2 * c);
        const uint16_t* second = row_of_lane(row, 8 * m + 2 * c + 1);
        to[m] = first[g] | static_cast<u32>(second[g]) << 16;
    }
}

#endif
