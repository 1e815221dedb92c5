// What happens to a layer's queries, keys and values before attention: bias, norm of each head, rotation, and the keys' and
// values' way into the paged cache. For each head of a row, in f32:
//   v += bias    v = v * (1 / sqrt(mean(v^2) + eps)) * norm (queries, keys)
//   (v[i], v[i + h]) = (v[i] cos - v[i + h] sin, v[i + h] cos + v[i] sin), h = head_dim / 2 (queries, keys)
//
//   qkv [rows, (heads + 2 kv_heads) * head_dim] T: queries, keys, values    bias the same for one row, or null
//   q_norm, k_norm [head_dim] T, or null    rotations [max_positions, head_dim / 2] f32 pairs (cos, sin)
//   positions [rows] u32, each below max_positions    slots [rows] i32, each below blocks * block_size
//   k_cache, v_cache [blocks, kv_heads, block_size, head_dim] T; slot = block * block_size + place
// Queries are written back into qkv. Keys and values go to the caches only, and nowhere if the slot is below 0.
//
// Launch: grid (rows, blocks of 128 threads); a head takes as many lanes as it has pairs / 8, rounded up to a power of two
// (head_dim is even and at most 512), each 8 pairs.
// Oracle: src/engine/cuda/kernels/rope_kv.rs `oracle`. Tolerance: one rounding to T and 4e-6 of the larger of the head's
// largest number and 1; exact where nothing is computed.
// Bytes: reads rows * ((heads + 2 kv_heads) * head_dim * 2 + head_dim * 4 + 8) and, where given, bias and norms once,
//        writes rows * (heads + 2 kv_heads) * head_dim * 2.
#include "include/chain.cuh"
#include "include/numbers.cuh"
#include "include/reduce.cuh"

constexpr u32 THREADS = 128;

// The turns of pairs `at` to `at` + 7 of a row of `half`; past its end, of none.
__device__ __forceinline__ void load_turns(const float* row, u32 at, u32 half, float (&cos)[EIGHT], float (&sin)[EIGHT]) {
    if (half % EIGHT == 0) {
        float first[EIGHT], second[EIGHT];
        load8(row + 2 * at, first);
        load8(row + 2 * at + EIGHT, second);
#pragma unroll
        for (u32 i = 0; i < EIGHT / 2; i++) {
            cos[i] = first[2 * i], sin[i] = first[2 * i + 1];
            cos[i + EIGHT / 2] = second[2 * i], sin[i + EIGHT / 2] = second[2 * i + 1];
        }
        return;
    }
    for (u32 i = 0; i < EIGHT; i++) {
        cos[i] = at + i < half ? row[2 * (at + i)] : 1.0f;
        sin[i] = at + i < half ? row[2 * (at + i) + 1] : 0.0f;
    }
}

template <typename T>
__device__ __forceinline__ void rope_kv(T* qkv, const T* bias, const T* q_norm, const T* k_norm, const float* rotations,
                                        const u32* positions, const int* slots, T* k_cache, T* v_cache, u32 heads,
                                        u32 kv_heads, u32 head_dim, u32 block_size, float eps) {
    join_chain();
    const u32 half = head_dim / 2, row = blockIdx.x;
    u32 lanes = 1;
    while (lanes * EIGHT < half) lanes *= 2;
    const u32 head = (blockIdx.y * THREADS + threadIdx.x) / lanes;
    const u32 at = threadIdx.x % lanes * EIGHT;
    const bool is_query = head < heads, is_key = !is_query && head < heads + kv_heads;
    const bool here = head < heads + 2 * kv_heads && at < half;

    T* from = row_of(qkv, row, (heads + 2 * kv_heads) * head_dim) + head * head_dim;
    float low[EIGHT] = {}, high[EIGHT] = {};
    if (here) {
        load_up_to_8(from, at, half, low);
        load_up_to_8(from + half, at, half, high);
        if (bias) {
            float low_bias[EIGHT], high_bias[EIGHT];
            load_up_to_8(bias + head * head_dim, at, half, low_bias);
            load_up_to_8(bias + head * head_dim + half, at, half, high_bias);
#pragma unroll
            for (u32 i = 0; i < EIGHT; i++) low[i] += low_bias[i], high[i] += high_bias[i];
        }
    }

    if (q_norm || k_norm) {
        // Every lane of the warp takes part in the sums, also those without a head or whose head has no norm.
        float squares = 0.0f;
#pragma unroll
        for (u32 i = 0; i < EIGHT; i++) squares += low[i] * low[i] + high[i] * high[i];
        for (u32 step = lanes / 2; step > 0; step /= 2) squares += __shfl_xor_sync(ALL_LANES, squares, step);
        const T* norm = is_query ? q_norm : is_key ? k_norm : nullptr;
        if (here && norm) {
            const float scale = 1.0f / sqrtf(squares / head_dim + eps);
            float low_norm[EIGHT], high_norm[EIGHT];
            load_up_to_8(norm, at, half, low_norm);
            load_up_to_8(norm + half, at, half, high_norm);
#pragma unroll
            for (u32 i = 0; i < EIGHT; i++) low[i] *= scale * low_norm[i], high[i] *= scale * high_norm[i];
        }
    }

    const int slot = slots[row];
    if (!here || (!is_query && slot < 0)) return;
    if (is_query || is_key) {
        float cos[EIGHT], sin[EIGHT];
        load_turns(row_of(rotations, positions[row], head_dim), at, half, cos, sin);
#pragma unroll
        for (u32 i = 0; i < EIGHT; i++) {
            const float a = low[i], b = high[i];
            low[i] = a * cos[i] - b * sin[i];
            high[i] = b * cos[i] + a * sin[i];
        }
    }
    T* to = from;
    if (!is_query) {
        const u32 kv_head = (head - heads) % kv_heads;
        const u32 block = slot / block_size, place = slot % block_size;
        to = row_of(is_key ? k_cache : v_cache, (block * kv_heads + kv_head) * block_size + place, head_dim);
    }
    store_up_to_8(to, at, half, low);
    store_up_to_8(to + half, at, half, high);
}

#define ROPE_KV(NAME, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(T* __restrict__ qkv, const T* __restrict__ bias, const T* __restrict__ q_norm,                            \
             const T* __restrict__ k_norm, const float* __restrict__ rotations, const u32* __restrict__ positions,     \
             const int* __restrict__ slots, T* __restrict__ k_cache, T* __restrict__ v_cache, u32 heads, u32 kv_heads, \
             u32 head_dim, u32 block_size, float eps) {                                                                \
        rope_kv(qkv, bias, q_norm, k_norm, rotations, positions, slots, k_cache, v_cache, heads, kv_heads, head_dim,   \
                block_size, eps);                                                                                      \
    }
ROPE_KV(rope_kv_bf16, __nv_bfloat16)
ROPE_KV(rope_kv_f16, __half)
