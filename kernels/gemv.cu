// A linear layer for few rows: out[r][j] = O(sum over i of weight[j][i] * input[r][i] + bias[j]).
//
//   weight [n, k] T    input [rows, k] T    bias [n] T, or null    out [rows, n] O, which is T or f32
//   rows 1 to 8, each its own function, so that few rows keep few sums in registers; k a multiple of 8
//
// Decoding reads every weight once a step and does little with it, so what counts is bytes in flight. A block makes 8
// outputs of every row: two groups of 4 warps, each with 4 outputs. A lane of a group loads 16 bytes of each of its 4 weight
// rows, then multiplies them with every input row at the same place (which the block's other group and its neighbours on the
// same multiprocessor read too: from L1). The lanes' sums meet by shuffles, the warps' in shared memory. The order of a
// row's sum does not depend on how many rows there are.
//
// Launch: grid (ceil(n / 8)), 256 threads; registers for 3 blocks a multiprocessor up to 4 rows, then for 2 (told nothing,
// the compiler spills for the sake of one more).
// Oracle: src/engine/cuda/kernels/gemv.rs `oracle`. Tolerance: one rounding to O and 4e-6 of the sum of the products'
// magnitudes.
// Bytes: reads n * k * 2 + rows * k * 2 + (bias ? n * 2 : 0), writes rows * n * sizeof(O).
#include "include/chain.cuh"
#include "include/numbers.cuh"
#include "include/reduce.cuh"

constexpr u32 OUTPUTS = 4;
constexpr u32 SPLIT = 4;
constexpr u32 GROUPS = 2;
constexpr u32 THREADS = GROUPS * SPLIT * WARP;

__device__ constexpr u32 power_of_two_from(u32 least) {
    u32 power = 1;
    while (power < least) power *= 2;
    return power;
}

template <u32 ROWS, typename T, typename O>
__device__ __forceinline__ void gemv(const T* weight, const T* input, const T* bias, O* out, u32 n, u32 k) {
    constexpr u32 SUMS = power_of_two_from(OUTPUTS * ROWS);
    const u32 lane = threadIdx.x % WARP, part = threadIdx.x / WARP % SPLIT, group = threadIdx.x / WARP / SPLIT;
    const u32 first = (blockIdx.x * GROUPS + group) * OUTPUTS;
    join_chain();
    const uint4* weights[OUTPUTS];
#pragma unroll
    for (u32 o = 0; o < OUTPUTS; o++) {
        // Past the last output, its weights once more: their sums are not written.
        weights[o] = reinterpret_cast<const uint4*>(row_of(weight, min(first + o, n - 1), k));
    }

    // Sum o * ROWS + r is that of output o and row r.
    float sums[SUMS] = {};
#pragma unroll(ROWS <= 2 ? 2 : 1)
    for (u32 eighth = part * WARP + lane; eighth < k / EIGHT; eighth += SPLIT * WARP) {
        uint4 loaded[OUTPUTS];
#pragma unroll
        for (u32 o = 0; o < OUTPUTS; o++) loaded[o] = __ldg(weights[o] + eighth);
        float w[OUTPUTS][EIGHT];
#pragma unroll
        for (u32 o = 0; o < OUTPUTS; o++) unpack8<T>(loaded[o], w[o]);
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
            float x[EIGHT];
            load8(row_of(input, r, k) + eighth * EIGHT, x);
#pragma unroll
            for (u32 o = 0; o < OUTPUTS; o++) {
#pragma unroll
                for (u32 i = 0; i < EIGHT; i++) sums[o * ROWS + r] += w[o][i] * x[i];
            }
        }
    }

    __shared__ float of_warps[GROUPS][SPLIT][SUMS];
    const float sum = warp_sums(sums);
    if (lane % (WARP / SUMS) == 0) of_warps[group][part][lane / (WARP / SUMS)] = sum;
    __syncthreads();
    if (part == 0 && lane < OUTPUTS * ROWS && first + lane / ROWS < n) {
        const u32 output = first + lane / ROWS, row = lane % ROWS;
        float total = bias ? to_f32(bias[output]) : 0.0f;
#pragma unroll
        for (u32 p = 0; p < SPLIT; p++) total += of_warps[group][p][lane];
        row_of(out, row, n)[output] = rounded<O>(total);
    }
}

#define GEMV(NAME, ROWS, T, O)                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS, ROWS <= 4 ? 3 : 2)                                            \
        NAME##_rows##ROWS(const T* __restrict__ weight, const T* __restrict__ input, const T* __restrict__ bias,       \
                          O* __restrict__ out, u32 n, u32 k) {                                                         \
        gemv<ROWS>(weight, input, bias, out, n, k);                                                                    \
    }
#define GEMV_ALL_ROWS(NAME, T, O)                                                                                      \
    GEMV(NAME, 1, T, O)                                                                                                \
    GEMV(NAME, 2, T, O)                                                                                                \
    GEMV(NAME, 3, T, O)                                                                                                \
    GEMV(NAME, 4, T, O)                                                                                                \
    GEMV(NAME, 5, T, O)                                                                                                \
    GEMV(NAME, 6, T, O)                                                                                                \
    GEMV(NAME, 7, T, O)                                                                                                \
    GEMV(NAME, 8, T, O)
GEMV_ALL_ROWS(gemv_bf16, __nv_bfloat16, __nv_bfloat16)
GEMV_ALL_ROWS(gemv_f16, __half, __half)
GEMV_ALL_ROWS(gemv_bf16_f32, __nv_bfloat16, float)
GEMV_ALL_ROWS(gemv_f16_f32, __half, float)
