// Attention of one row a sequence to all positions of its sequence, of which keys and values lie in a paged cache.
//
//   out[s][h] = sum_p w[p] V[p] / sum_p w[p],  w[p] = e^(scale * q[s][h] . K[p])
//   over the positions p < lengths[s], of which a window > 0 leaves the last `window`. Length 0: zeros.
//
//   qkv [seqs, (heads + 2 kv_heads) * head_dim] T    k_cache, v_cache [blocks, kv_heads, block_size, head_dim] T
//   tables [seqs, table_stride] i32: the blocks of each sequence    lengths [seqs] u32    out [seqs, heads * head_dim] T
//   partial [seqs, heads, splits, 2 + head_dim] f32: largest score, sum of weights, weighted sum of values, where scores
//   are in powers of 2 (times log2 e) and weights are 2^(score - largest); -inf, 0 and zeros for no positions.
//
// Head h goes with head h / (heads / kv_heads) of keys. block_size is a power of two, head_dim a multiple of 8 up to WIDTH.
//
// Launch: grid (splits, kv_heads, seqs), 128 threads. A block takes one of `splits` equal parts of a sequence's positions,
// found here from the length, so that a recorded launch serves every length. It takes all query heads of its kv_head,
// HEADS at a time. With one split it writes `out`, else `partial`, which combine_attention merges.
//
// A warp takes 8 positions a step. Scores: 4 lanes share a key, of which each takes every fourth 16 bytes, so a score costs
// two shuffles. Values: WIDTH / 8 lanes share one, so a lane sums 8 numbers a head. The 16-byte loads of a step go out
// together. All in f32: no weight is rounded.
//
// Oracle: src/engine/cuda/kernels/decode_attention.rs `oracle`. Tolerance: the rounding of T, plus 2e-5 of the largest value.
// Bytes: reads what each sequence sees of its keys and values once for each group of HEADS (once: a group is 8 heads or
// fewer in most models), the blocks' numbers, the queries, the lengths; writes out, or partial.
#include "include/chain.cuh"
#include "include/paged_cache.cuh"

constexpr u32 WARPS = 4;
constexpr u32 KEYS = 8; // of a warp's step

template <typename T, u32 WIDTH, u32 HEADS>
__device__ __forceinline__ void decode_attention(const T* qkv, const T* k_cache, const T* v_cache,
                                                 const int32_t* tables, const u32* lengths, T* out, float* partial,
                                                 u32 heads, u32 kv_heads, u32 head_dim, u32 block_size,
                                                 u32 table_stride, u32 splits, u32 window, float scale) {
    constexpr u32 PIECES = WIDTH / (4 * EIGHT);      // of a key, that each of its 4 lanes takes
    constexpr u32 LANES = WIDTH / EIGHT;             // that share a value
    constexpr u32 AT_ONCE = 32 / LANES;              // values that a warp loads at once
    constexpr u32 VALUES = KEYS / AT_ONCE;           // that a lane takes a step
    __shared__ __align__(16) float queries[HEADS][WIDTH];
    __shared__ __align__(16) float mixes[WARPS][HEADS][WIDTH];
    __shared__ float tops[WARPS][HEADS], sums[WARPS][HEADS];

    join_chain();
    const u32 split = blockIdx.x, kv_head = blockIdx.y, seq = blockIdx.z;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 group = heads / kv_heads;
    const u32 length = lengths[seq];
    const u32 first = window != 0 && length > window ? length - window : 0;
    const u32 share = ((length - first + splits - 1) / splits + KEYS - 1) / KEYS * KEYS;
    const u32 begin = min(first + split * share, length), end = min(begin + share, length);
    const PagedHead head = {tables + static_cast<size_t>(seq) * table_stride, log2_of(block_size), kv_head, kv_heads,
                            head_dim};

    for (u32 of_group = 0; of_group < group; of_group += HEADS) {
        const u32 first_head = kv_head * group + of_group, count = min(HEADS, group - of_group);
        const T* row = qkv + (static_cast<size_t>(seq) * (heads + 2 * kv_heads) + first_head) * head_dim;
        for (u32 i = threadIdx.x; i < HEADS * LANES; i += blockDim.x) {
            const u32 h = i / LANES, dim = i % LANES * EIGHT;
            float numbers[EIGHT] = {};
            if (begin < end && h < count && dim < head_dim) load8(row + h * head_dim + dim, numbers);
#pragma unroll
            for (u32 e = 0; e < EIGHT; e++) numbers[e] *= scale * LOG2_E;
            store8(&queries[h][dim], numbers);
        }
        __syncthreads();

        float mix[HEADS][EIGHT] = {}, sum[HEADS] = {}, top[HEADS];
#pragma unroll
        for (u32 h = 0; h < HEADS; h++) top[h] = -INFINITY;
        for (u32 step = begin + warp * KEYS; step < end; step += WARPS * KEYS) {
            // What lies beyond the end is never read: it may be anything, and 0 * NaN is NaN.
            uint4 key[PIECES] = {}, value[VALUES] = {};
            const u32 own = step + lane / 4;
            if (own < end) {
                const T* from = k_cache + head.at(own);
#pragma unroll
                for (u32 i = 0; i < PIECES; i++) {
                    const u32 dim = (4 * i + lane % 4) * EIGHT;
                    if (dim < head_dim) key[i] = *reinterpret_cast<const uint4*>(from + dim);
                }
            }
#pragma unroll
            for (u32 v = 0; v < VALUES; v++) {
                const u32 position = step + v * AT_ONCE + lane / LANES, dim = lane % LANES * EIGHT;
                if (position < end && dim < head_dim) {
                    value[v] = *reinterpret_cast<const uint4*>(v_cache + head.at(position) + dim);
                }
            }

            float weight[HEADS] = {};
#pragma unroll
            for (u32 i = 0; i < PIECES; i++) {
                float numbers[EIGHT], query[EIGHT];
                unpack8<T>(key[i], numbers);
#pragma unroll
                for (u32 h = 0; h < HEADS; h++) {
                    load8(&queries[h][(4 * i + lane % 4) * EIGHT], query);
#pragma unroll
                    for (u32 e = 0; e < EIGHT; e++) weight[h] += query[e] * numbers[e];
                }
            }
#pragma unroll
            for (u32 h = 0; h < HEADS; h++) {
                float score = weight[h];
                score += __shfl_xor_sync(0xffffffffu, score, 1);
                score += __shfl_xor_sync(0xffffffffu, score, 2);
                if (own >= end) score = -INFINITY;
                float largest = score;
#pragma unroll
                for (u32 away = 4; away < 32; away *= 2) {
                    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, away));
                }
                // The same in all lanes: a step has at least one position, so `largest` is a number.
                if (largest > top[h]) {
                    const float less = exp2f(top[h] - largest);
                    top[h] = largest;
                    sum[h] *= less;
#pragma unroll
                    for (u32 e = 0; e < EIGHT; e++) mix[h][e] *= less;
                }
                weight[h] = exp2f(score - top[h]);
                sum[h] += weight[h];
            }
#pragma unroll
            for (u32 v = 0; v < VALUES; v++) {
                float numbers[EIGHT];
                unpack8<T>(value[v], numbers);
#pragma unroll
                for (u32 h = 0; h < HEADS; h++) {
                    const float w = __shfl_sync(0xffffffffu, weight[h], 4 * (v * AT_ONCE + lane / LANES));
#pragma unroll
                    for (u32 e = 0; e < EIGHT; e++) mix[h][e] += w * numbers[e];
                }
            }
        }

        // The warp's lanes become one: lanes of one key have summed the same weights, those of other keys others.
#pragma unroll
        for (u32 h = 0; h < HEADS; h++) {
#pragma unroll
            for (u32 away = 4; away < 32; away *= 2) sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], away);
#pragma unroll
            for (u32 e = 0; e < EIGHT; e++) {
#pragma unroll
                for (u32 away = LANES; away < 32; away *= 2) {
                    mix[h][e] += __shfl_xor_sync(0xffffffffu, mix[h][e], away);
                }
            }
            if (lane < LANES) store8(&mixes[warp][h][lane * EIGHT], mix[h]);
            if (lane == 0) tops[warp][h] = top[h], sums[warp][h] = sum[h];
        }
        __syncthreads();

        // The warps become one.
        for (u32 i = threadIdx.x; i < count * head_dim; i += blockDim.x) {
            const u32 h = i / head_dim, dim = i % head_dim;
            float largest = tops[0][h];
#pragma unroll
            for (u32 w = 1; w < WARPS; w++) largest = fmaxf(largest, tops[w][h]);
            float total = 0.0f, mixed = 0.0f;
#pragma unroll
            for (u32 w = 0; w < WARPS; w++) {
                // A warp without positions counts for nothing, and if none has any, -inf - -inf is no number.
                const float part = tops[w][h] == -INFINITY ? 0.0f : exp2f(tops[w][h] - largest);
                total += part * sums[w][h];
                mixed += part * mixes[w][h][dim];
            }
            const size_t head_of_seq = static_cast<size_t>(seq) * heads + first_head + h;
            if (splits == 1) {
                out[head_of_seq * head_dim + dim] = rounded<T>(total > 0.0f ? mixed / total : 0.0f);
                continue;
            }
            float* to = partial + (head_of_seq * splits + split) * (2 + head_dim);
            if (dim == 0) to[0] = largest, to[1] = total;
            to[2 + dim] = mixed;
        }
    }
}

#define DECODE_ATTENTION(NAME, T, WIDTH, HEADS)                                                                        \
    extern "C" __global__ void __launch_bounds__(128, 2)                                                               \
        NAME(const T* __restrict__ qkv, const T* __restrict__ k_cache, const T* __restrict__ v_cache,                  \
             const int32_t* __restrict__ tables, const u32* __restrict__ lengths, T* __restrict__ out,                 \
             float* __restrict__ partial, u32 heads, u32 kv_heads, u32 head_dim, u32 block_size, u32 table_stride,     \
             u32 splits, u32 window, float scale) {                                                                    \
        decode_attention<T, WIDTH, HEADS>(qkv, k_cache, v_cache, tables, lengths, out, partial, heads, kv_heads,       \
                                          head_dim, block_size, table_stride, splits, window, scale);                  \
    }
#define OF_BOTH_TYPES(WIDTH, HEADS)                                                                                    \
    DECODE_ATTENTION(decode_attention_##WIDTH##_##HEADS##_bf16, __nv_bfloat16, WIDTH, HEADS)                           \
    DECODE_ATTENTION(decode_attention_##WIDTH##_##HEADS##_f16, __half, WIDTH, HEADS)
#define OF_ALL_GROUPS(WIDTH)                                                                                           \
    OF_BOTH_TYPES(WIDTH, 1) OF_BOTH_TYPES(WIDTH, 2) OF_BOTH_TYPES(WIDTH, 4) OF_BOTH_TYPES(WIDTH, 8)
OF_ALL_GROUPS(64)
OF_ALL_GROUPS(128)
OF_ALL_GROUPS(256)
