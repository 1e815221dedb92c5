// What include/mma.cuh and include/ldmatrix.cuh say of themselves, for the tests that hold them against CuTe and plain loops.
//
//   a [32, 4] words    b [32, 2] words    c [32, 4] f32    each lane's part
//   places [32, 16, 2] u32: row and column of each lane's 8 numbers of A, 4 of B, 4 of C
//   matrix [16, 16] numbers of 16 bits    rows [32] u32: which eight of them, counted from 0, are each lane's row
//   loaded [32, 4] words: each lane's part
//
// Launch: grid (1), 32 threads. Not part of any model.
#include "include/ldmatrix.cuh"
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

template <typename F> __device__ __forceinline__ void load_rows(const u32* matrix, const u32* rows, u32* loaded, F load) {
    __shared__ uint4 shared[32];
    const u32 lane = threadIdx.x;
    for (u32 i = 0; i < 4; i++) reinterpret_cast<u32*>(shared)[4 * lane + i] = matrix[4 * lane + i];
    __syncwarp();
    u32 part[4];
    load(part, shared + rows[lane]);
    for (u32 i = 0; i < 4; i++) loaded[4 * lane + i] = part[i];
}

extern "C" __global__ void ldmatrix_rows(const u32* matrix, const u32* rows, u32* loaded) {
    load_rows(matrix, rows, loaded, [](u32 (&part)[4], const uint4* row) { ldmatrix(part, row); });
}
extern "C" __global__ void ldmatrix_transposed_rows(const u32* matrix, const u32* rows, u32* loaded) {
    load_rows(matrix, rows, loaded, [](u32 (&part)[4], const uint4* row) { ldmatrix_transposed(part, row); });
}
