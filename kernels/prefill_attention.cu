// Causal attention of many rows, of any sequences, to keys and values in a paged cache.
//
//   out[r][h] = sum_k w[k] V[k] / sum_k w[k],  w[k] = e^(scale * q[r][h] . K[k])
//   over the positions k <= that of row r, of which a window > 0 leaves the last `window`.
//
//   qkv [rows, (heads + 2 kv_heads) * head_dim] T    k_cache, v_cache [blocks, kv_heads, block_size, head_dim] T
//   tables [members, table_stride] i32: the blocks of each sequence    out [rows, heads * head_dim] T
//   tiles [n, 4] u32: row of `tables`, first row in qkv, rows (up to 64), position of that first row.
//   The rows of a tile are consecutive positions of one sequence. All its keys and values are in the cache, its own too.
//
// Head h goes with head h / (heads / kv_heads) of keys. block_size is a power of two, head_dim is WIDTH.
//
// Launch: grid (tiles, heads), 128 threads. A warp takes 16 rows of the tile, all of it goes through its keys 64 at a time:
// from the first that a row may see to the last. Scores and weights stay in registers. Products are tensor cores'
// (include/mma.cuh), whose order of calculation is their own; sums of weights are f32. Weights are rounded to T before
// they meet the values, since the tensor cores take nothing else.
//
// Two choices make all loads 16 bytes and let a lane's part of one product be its part of the next:
// - A dot product's dimensions may come in any order. In each 32 of them lane c of four takes 8 that lie together, of query
//   and key alike; the first four are its share of one product, the others of the next.
// - The columns of a product may come in any order. Of each 32 dimensions of the values, column g of product t is
//   dimension 4g + t, so a lane ends with 8 dimensions that lie together. Values are stored as pairs of keys, which is how
//   tensor cores take them.
// Rows of keys and of pairs are as long as lets 8 lanes meet all 32 banks of shared memory.
//
// Oracle: src/engine/cuda/kernels/prefill_attention.rs `oracle`. Tolerance: twice the rounding of T times the largest value.
// Bytes: reads what each tile sees of keys and values (once, if the cache of the device holds it for all heads and tiles),
// the blocks' numbers, the queries, the tiles; writes out.
#include "include/chain.cuh"
#include "include/mma.cuh"
#include "include/paged_cache.cuh"

constexpr u32 WARPS = 4;
constexpr u32 ROWS = 16; // of a warp
constexpr u32 KEYS = 64; // of a step
constexpr u32 CHUNK = 32; // dimensions that 4 lanes load at once

// Shared memory, in 16-byte words.
template <u32 WIDTH> struct Stage {
    static constexpr u32 KEY = (WIDTH + (WIDTH % 64 == 0 ? 32 : 0)) / EIGHT;
    static constexpr u32 PAIR = (WIDTH + 8) / 4;
    uint4 keys[KEYS * KEY];
    uint4 pairs[KEYS / 2 * PAIR];
};

// Two keys' values, dimension by dimension.
__device__ __forceinline__ u32 lower(u32 a, u32 b) { return (a & 0xffff) | (b << 16); }
__device__ __forceinline__ u32 upper(u32 a, u32 b) { return (a >> 16) | (b & 0xffff0000u); }

template <typename T, u32 WIDTH>
__device__ __forceinline__ void fill(Stage<WIDTH>& stage, const T* k_cache, const T* v_cache, const PagedHead& head,
                                     u32 first, u32 end) {
    constexpr u32 PIECES = WIDTH / EIGHT;
    // What lies beyond the end is never read: it may be anything, and 0 * NaN is NaN.
    auto piece = [&](const T* cache, u32 position, u32 i) -> uint4 {
        if (position >= end) return {};
        return *reinterpret_cast<const uint4*>(cache + head.at(position) + i * EIGHT);
    };
#pragma unroll
    for (u32 i = threadIdx.x; i < KEYS * PIECES; i += WARPS * 32) {
        stage.keys[i / PIECES * Stage<WIDTH>::KEY + i % PIECES] = piece(k_cache, first + i / PIECES, i % PIECES);
    }
#pragma unroll
    for (u32 i = threadIdx.x; i < KEYS / 2 * PIECES; i += WARPS * 32) {
        const u32 pair = i / PIECES, position = first + 2 * pair;
        const uint4 a = piece(v_cache, position, i % PIECES), b = piece(v_cache, position + 1, i % PIECES);
        uint4* to = stage.pairs + pair * Stage<WIDTH>::PAIR + i % PIECES * 2;
        to[0] = {lower(a.x, b.x), upper(a.x, b.x), lower(a.y, b.y), upper(a.y, b.y)};
        to[1] = {lower(a.z, b.z), upper(a.z, b.z), lower(a.w, b.w), upper(a.w, b.w)};
    }
}

template <typename T, u32 WIDTH>
__device__ __forceinline__ void prefill_attention(const T* qkv, const T* k_cache, const T* v_cache,
                                                  const int32_t* tables, const u32* tiles, T* out, u32 heads,
                                                  u32 kv_heads, u32 block_size, u32 table_stride, u32 window,
                                                  float scale) {
    constexpr u32 CHUNKS = WIDTH / CHUNK;
    constexpr u32 GROUPS = KEYS / 8; // of keys, each the columns of one product
    __shared__ Stage<WIDTH> stage;

    join_chain();
    const u32 head = blockIdx.y;
    const u32* tile = tiles + static_cast<size_t>(blockIdx.x) * 4;
    const u32 member = tile[0], first_row = tile[1], rows = tile[2], position = tile[3];
    if (rows == 0) return;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    const PagedHead paged = {tables + static_cast<size_t>(member) * table_stride, log2_of(block_size),
                             head / (heads / kv_heads), kv_heads, WIDTH};

    // A lane's two rows of the tile. Rows beyond its last are zeros and written nowhere.
    const u32 own[2] = {warp * ROWS + g, warp * ROWS + g + 8};
    const size_t row_width = static_cast<size_t>(heads + 2 * kv_heads) * WIDTH;
    uint4 query[2][CHUNKS] = {};
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        if (own[r] >= rows) continue;
        const T* from = qkv + (first_row + own[r]) * row_width + static_cast<size_t>(head) * WIDTH + c * EIGHT;
#pragma unroll
        for (u32 i = 0; i < CHUNKS; i++) query[r][i] = *reinterpret_cast<const uint4*>(from + i * CHUNK);
    }

    float mix[CHUNKS][4][4] = {}, sum[2] = {}, top[2] = {-INFINITY, -INFINITY};
    const u32 end = position + rows; // of the positions that the tile sees
    const u32 begin = window != 0 && position + 1 > window ? position + 1 - window : 0;
    // The first and last position of the warp's rows.
    const u32 low = position + warp * ROWS, high = low + ROWS - 1;
    for (u32 step = begin; step < end; step += KEYS) {
        __syncthreads(); // all warps are done with the step before
        fill<T, WIDTH>(stage, k_cache, v_cache, paged, step, end);
        __syncthreads();
        if (low >= end || step > high) continue; // no rows, or all keys are after them

        float score[GROUPS][4] = {};
#pragma unroll
        for (u32 n = 0; n < GROUPS; n++) {
#pragma unroll
            for (u32 i = 0; i < CHUNKS; i++) {
                const uint4 key = stage.keys[(8 * n + g) * Stage<WIDTH>::KEY + 4 * i + c];
                const u32 a[4] = {query[0][i].x, query[1][i].x, query[0][i].y, query[1][i].y}, b[2] = {key.x, key.y};
                mma<T>(score[n], a, b);
                const u32 a2[4] = {query[0][i].z, query[1][i].z, query[0][i].w, query[1][i].w}, b2[2] = {key.z, key.w};
                mma<T>(score[n], a2, b2);
            }
        }

        // Only steps at an edge have keys that some row of the warp does not see.
        const bool edge = step + KEYS - 1 > low || (window != 0 && step + window <= high);
#pragma unroll
        for (u32 n = 0; n < GROUPS; n++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u32 key = step + 8 * n + 2 * c + i % 2, at = position + own[i / 2];
                score[n][i] *= scale * LOG2_E;
                if (edge && (key > at || (window != 0 && key + window <= at))) score[n][i] = -INFINITY;
            }
        }
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            float largest = top[r];
#pragma unroll
            for (u32 n = 0; n < GROUPS; n++) {
                largest = fmaxf(largest, fmaxf(score[n][2 * r], score[n][2 * r + 1]));
            }
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
            // A number: of the first 64 keys that a tile's first row may see, every row sees one, since 64 rows are most.
            const float less = exp2f(top[r] - largest);
            top[r] = largest;
            sum[r] *= less;
#pragma unroll
            for (u32 i = 0; i < CHUNKS; i++) {
#pragma unroll
                for (u32 t = 0; t < 4; t++) mix[i][t][2 * r] *= less, mix[i][t][2 * r + 1] *= less;
            }
#pragma unroll
            for (u32 n = 0; n < GROUPS; n++) {
                score[n][2 * r] = exp2f(score[n][2 * r] - largest);
                score[n][2 * r + 1] = exp2f(score[n][2 * r + 1] - largest);
                sum[r] += score[n][2 * r] + score[n][2 * r + 1];
            }
        }

        // A lane's part of two groups of scores is its part of 16 keys of weights.
#pragma unroll
        for (u32 n = 0; n < GROUPS; n += 2) {
            const u32 a[4] = {pack2<T>(score[n][0], score[n][1]), pack2<T>(score[n][2], score[n][3]),
                              pack2<T>(score[n + 1][0], score[n + 1][1]), pack2<T>(score[n + 1][2], score[n + 1][3])};
#pragma unroll
            for (u32 i = 0; i < CHUNKS; i++) {
                const uint4 even = stage.pairs[(4 * n + c) * Stage<WIDTH>::PAIR + 8 * i + g];
                const uint4 odd = stage.pairs[(4 * n + 4 + c) * Stage<WIDTH>::PAIR + 8 * i + g];
                const u32 b[4][2] = {{even.x, odd.x}, {even.y, odd.y}, {even.z, odd.z}, {even.w, odd.w}};
#pragma unroll
                for (u32 t = 0; t < 4; t++) mma<T>(mix[i][t], a, b[t]);
            }
        }
    }

#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
        if (own[r] >= rows) continue;
        T* to = out + (static_cast<size_t>(first_row + own[r]) * heads + head) * WIDTH + c * EIGHT;
#pragma unroll
        for (u32 i = 0; i < CHUNKS; i++) {
            float numbers[EIGHT];
#pragma unroll
            for (u32 e = 0; e < EIGHT; e++) numbers[e] = mix[i][e % 4][2 * r + e / 4] / sum[r];
            store8(to + i * CHUNK, numbers);
        }
    }
}

#define PREFILL_ATTENTION(NAME, T, WIDTH)                                                                              \
    extern "C" __global__ void __launch_bounds__(128, 2)                                                               \
        NAME(const T* __restrict__ qkv, const T* __restrict__ k_cache, const T* __restrict__ v_cache,                  \
             const int32_t* __restrict__ tables, const u32* __restrict__ tiles, T* __restrict__ out, u32 heads,        \
             u32 kv_heads, u32 block_size, u32 table_stride, u32 window, float scale) {                                \
        prefill_attention<T, WIDTH>(qkv, k_cache, v_cache, tables, tiles, out, heads, kv_heads, block_size,            \
                                    table_stride, window, scale);                                                      \
    }
#define OF_BOTH_TYPES(WIDTH)                                                                                           \
    PREFILL_ATTENTION(prefill_attention_##WIDTH##_bf16, __nv_bfloat16, WIDTH)                                          \
    PREFILL_ATTENTION(prefill_attention_##WIDTH##_f16, __half, WIDTH)
OF_BOTH_TYPES(32)
OF_BOTH_TYPES(64)
OF_BOTH_TYPES(96)
OF_BOTH_TYPES(128)
