// The gated activation of a feed-forward layer:
//   g = gate + bias_gate    u = up + bias_up    out[r][i] = T(g / (1 + exp(-g)) * u)
//
//   gate_up [rows, 2 width] T: a row's gates, then its ups    bias [2 width] T, or null    out [rows, width] T
//
// Exponential and division are the hardware's: exact ones would take longer than reading the numbers, and 16 bits do not
// show the difference. Where the exponential overflows, the quotient is 0, as it should be.
//
// Launch: grid (rows, blocks of 8 * 256 numbers), 256 threads, each 8 numbers.
// Oracle: src/engine/cuda/kernels/silu_mul.rs `oracle`. Tolerance: one rounding to T and 4e-6 of the larger
// of the number and 1.
// Bytes: reads rows * width * 4 + (bias ? width * 4 : 0), writes rows * width * 2.
#include "include/chain.cuh"
#include "include/numbers.cuh"

constexpr u32 THREADS = 256;

template <typename T> __device__ __forceinline__ void silu_mul(const T* gate_up, const T* bias, T* out, u32 width) {
    join_chain();
    const u32 at = (blockIdx.y * THREADS + threadIdx.x) * EIGHT;
    if (at >= width) return;
    const T* gate_row = row_of(gate_up, blockIdx.x, 2 * width);
    float gate[EIGHT], up[EIGHT];
    load_up_to_8(gate_row, at, width, gate);
    load_up_to_8(gate_row + width, at, width, up);
    if (bias) {
        float gate_bias[EIGHT], up_bias[EIGHT];
        load_up_to_8(bias, at, width, gate_bias);
        load_up_to_8(bias + width, at, width, up_bias);
#pragma unroll
        for (u32 i = 0; i < EIGHT; i++) {
            gate[i] += gate_bias[i];
            up[i] += up_bias[i];
        }
    }
#pragma unroll
    for (u32 i = 0; i < EIGHT; i++) up[i] *= __fdividef(gate[i], 1.0f + __expf(-gate[i]));
    store_up_to_8(row_of(out, blockIdx.x, width), at, width, up);
}

#define SILU_MUL(NAME, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(const T* __restrict__ gate_up, const T* __restrict__ bias, T* __restrict__ out, u32 width) {              \
        silu_mul(gate_up, bias, out, width);                                                                           \
    }
SILU_MUL(silu_mul_bf16, __nv_bfloat16)
SILU_MUL(silu_mul_f16, __half)
