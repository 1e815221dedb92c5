// What include/mma.cuh says of itself, for the test that holds it against CuTe and against plain loops.
//
//   a [32, 4] words    b [32, 2] words    c [32, 4] f32    each lane's part
//   places [32, 16, 2] u32: row and column of each lane's 8 numbers of A, 4 of B, 4 of C
//
// Launch: grid (1), 32 threads. Not part of any model.
#include "include/mma.cuh"

template <typename T> __device__ __forceinline__ void mma_tile(const u32* a, const u32* b, float* c) {
    const u32 lane = threadIdx.x;
    u32 left[4], right[2];
    float sums[4];
    for (u32 i = 0; i < 4; i++) left[i] = a[4 * lane + i];
    for (u32 i = 0; i < 2; i++) right[i] = b[2 * lane + i];
    for (u32 i = 0; i < 4; i++) sums[i] = c[4 * lane + i];
    mma<T>(sums, left, right);
    for (u32 i = 0; i < 4; i++) c[4 * lane + i] = sums[i];
}

extern "C" __global__ void mma_tile_bf16(const u32* a, const u32* b, float* c) { mma_tile<__nv_bfloat16>(a, b, c); }
extern "C" __global__ void mma_tile_f16(const u32* a, const u32* b, float* c) { mma_tile<__half>(a, b, c); }

extern "C" __global__ void mma_places(u32* places) {
    const u32 lane = threadIdx.x;
    for (u32 i = 0; i < 16; i++) {
        MmaPlace place = i < 8 ? mma_a(lane, i) : i < 12 ? mma_b(lane, i - 8) : mma_c(lane, i - 12);
        places[(16 * lane + i) * 2] = place.row;
        places[(16 * lane + i) * 2 + 1] = place.column;
    }
}
