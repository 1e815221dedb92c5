// Merges what decode_attention found of each part of a sequence's positions.
//
//   out[s][h] = sum_i w[i] mix[i] / sum_i w[i] sum[i],  w[i] = 2^(largest[i] - the largest of all)
//   Parts without positions (-inf, 0, zeros) count for nothing; if all are, zeros.
//
//   partial [seqs, heads, splits, 2 + head_dim] f32: largest, sum, mix    out [seqs, heads * head_dim] T
//
// Launch: grid (heads, seqs), one thread a number of a head, rounded up to whole warps, 256 at most. head_dim up to 256.
// Oracle: src/engine/cuda/kernels/combine_attention.rs `oracle`. Tolerance: the rounding of T, plus 1e-5 of the largest.
// Bytes: reads partial, writes out.
#include "include/chain.cuh"
#include "include/numbers.cuh"

template <typename T>
__device__ __forceinline__ void combine_attention(const float* partial, T* out, u32 heads, u32 head_dim, u32 splits) {
    join_chain();
    const size_t head = static_cast<size_t>(blockIdx.y) * heads + blockIdx.x;
    const float* parts = partial + head * splits * (2 + head_dim);
    const u32 dim = threadIdx.x;
    if (dim >= head_dim) return;
    float largest = -INFINITY;
    for (u32 i = 0; i < splits; i++) largest = fmaxf(largest, parts[i * (2 + head_dim)]);
    float total = 0.0f, mixed = 0.0f;
#pragma unroll 4
    for (u32 i = 0; i < splits; i++) {
        const float* part = parts + i * (2 + head_dim);
        const float weight = exp2f(part[0] - largest);
        total += weight * part[1];
        mixed += weight * part[2 + dim];
    }
    // If all parts are empty, weights are 2^(-inf - -inf), which is no number, and no number is above 0.
    out[head * head_dim + dim] = rounded<T>(total > 0.0f ? mixed / total : 0.0f);
}

#define COMBINE_ATTENTION(NAME, T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        NAME(const float* __restrict__ partial, T* __restrict__ out, u32 heads, u32 head_dim, u32 splits) {            \
        combine_attention<T>(partial, out, heads, head_dim, splits);                                                   \
    }
COMBINE_ATTENTION(combine_attention_bf16, __nv_bfloat16)
COMBINE_ATTENTION(combine_attention_f16, __half)
