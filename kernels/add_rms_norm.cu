// The residual's update and the norm of the result:
//   x[r] += delta[r]    out[i] = T(x[r] * (1 / sqrt(mean(x[r]^2) + eps)) * weight)    r = take ? take[i] : i
//
//   x [rows, hidden] f32    delta [rows, hidden] T, or null: nothing is added    weight [hidden] T
//   out [emitted, hidden] T    take [emitted] u32, each below rows, or null: all rows, in order
// With `take`, as without `delta`, x is not written: the head norms only rows that emit, and nobody reads x after it.
//
// Launch: grid (emitted), whole warps for hidden / 8 threads, at most 512; a thread keeps up to 4 times 8 numbers in
// registers between the two passes, so hidden is at most 16384.
// Oracle: src/engine/cuda/kernels/add_rms_norm.rs `oracle`. Tolerance: x none; out one rounding to T and 4e-6 of the
// larger of the number and 1.
// Bytes: reads emitted * hidden * (4 + (delta ? 2 : 0)) + hidden * 2 + (take ? emitted * 4 : 0),
//        writes emitted * hidden * (2 + (delta and not take ? 4 : 0)).
#include "include/chain.cuh"
#include "include/numbers.cuh"
#include "include/reduce.cuh"

constexpr u32 THREADS = 512;
constexpr u32 CHUNKS = 4;

template <typename T>
__device__ __forceinline__ void add_rms_norm(float* x, const T* delta, const T* weight, T* out, const u32* take, u32 hidden,
                                             float eps) {
    join_chain();
    const u32 row = take ? take[blockIdx.x] : blockIdx.x;
    float* x_row = row_of(x, row, hidden);
    T* out_row = row_of(out, blockIdx.x, hidden);
    float held[CHUNKS][EIGHT];
    float squares = 0.0f;
#pragma unroll
    for (u32 c = 0; c < CHUNKS; c++) {
        const u32 at = (c * blockDim.x + threadIdx.x) * EIGHT;
        if (at < hidden) {
            load_up_to_8(x_row, at, hidden, held[c]);
            if (delta) {
                float added[EIGHT];
                load_up_to_8(row_of(delta, row, hidden), at, hidden, added);
#pragma unroll
                for (u32 i = 0; i < EIGHT; i++) held[c][i] += added[i];
                if (!take) store_up_to_8(x_row, at, hidden, held[c]);
            }
#pragma unroll
            for (u32 i = 0; i < EIGHT; i++) squares += held[c][i] * held[c][i];
        }
    }
    const float scale = 1.0f / sqrtf(block_sum(squares) / hidden + eps);
#pragma unroll
    for (u32 c = 0; c < CHUNKS; c++) {
        const u32 at = (c * blockDim.x + threadIdx.x) * EIGHT;
        if (at < hidden) {
            float weights[EIGHT];
            load_up_to_8(weight, at, hidden, weights);
#pragma unroll
            for (u32 i = 0; i < EIGHT; i++) held[c][i] = held[c][i] * scale * weights[i];
            store_up_to_8(out_row, at, hidden, held[c]);
        }
    }
}

#define ADD_RMS_NORM(NAME, T)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(float* __restrict__ x, const T* __restrict__ delta, const T* __restrict__ weight, T* __restrict__ out,    \
             const u32* __restrict__ take, u32 hidden, float eps) {                                                    \
        add_rms_norm(x, delta, weight, out, take, hidden, eps);                                                        \
    }
ADD_RMS_NORM(add_rms_norm_bf16, __nv_bfloat16)
ADD_RMS_NORM(add_rms_norm_f16, __half)
