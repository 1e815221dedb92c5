// Causal attention of many rows, of any sequences, to keys and values in a paged cache.
//
//   out[r][h] = sum_k w[k] V[k] / sum_k w[k],  w[k] = e^(scale * q[r][h] . K[k])
//   over the positions k <= that of row r, of which a window > 0 leaves the last `window`. scale is above 0.
//
//   qkv [rows, (heads + 2 kv_heads) * head_dim] T    k_cache, v_cache [blocks, kv_heads, block_size, head_dim] T
//   tables [blocks, table_stride] i32: column m has member m's    out [rows, heads * head_dim] T
//   tiles [n, 4] u32: column of `tables`, first row in qkv, rows (up to 64), position of that first row.
//   The rows of a tile are consecutive positions of one sequence. All its keys and values are in the cache, its own too.
//
// Head h goes with head h / (heads / kv_heads) of keys. block_size is a power of two, head_dim is WIDTH.
//
// Launch: grid (kv_heads * (heads / kv_heads / HEADS, rounded up), tiles), 4 warps, dynamic shared memory for HEADS * 64
// rows of queries and twice 64 of keys and of values. A block takes HEADS heads of one head of keys for a tile. It goes through
// the tile's keys 64 at a time, from the first that a row may see to the last. Of HEADS there are two plans:
// - wide, for much work: two heads share keys and values, and a warp takes 32 rows of one, so that what it loads from shared
//   memory serves two products each.
// - narrow, for few tiles: one head, and a warp takes 16 rows. Where there are few blocks, the longest of them is the
//   kernel's time, and a step is shorter here.
// Either leaves a multiprocessor of 228 KiB room for two blocks. They start in the order of their tiles, so the tiles of most
// keys should come first.
//
// While a step's keys and values are used, the next step's are on their way (include/async_copy.cuh), and what says where
// those of the step behind it lie. Scores, weights and sums stay in registers, and queries if there is room. Products are
// tensor cores' (include/mma.cuh), whose order of calculation is their own, fed by ldmatrix; sums of weights are f32. Weights
// are rounded to T before they meet the values, since the tensor cores take nothing else.
//
// A row's weights are 2^(score - top), where scores are in powers of 2 and `top` is the largest score of some step so far.
// It follows the largest only if that is above it by more than SLACK: so weights are 2^SLACK at most, which costs no digits,
// and few steps need to correct what the steps before have added up.
//
// Oracle: src/engine/cuda/kernels/prefill_attention.rs `oracle`. Tolerance: twice the rounding of T times the largest value.
// Bytes: reads what each tile sees of keys and values (once, if the cache of the device holds it for all heads and tiles),
// the blocks' numbers, the queries, the tiles; writes out.
#include "include/async_copy.cuh"
#include "include/chain.cuh"
#include "include/ldmatrix.cuh"
#include "include/mma.cuh"
#include "include/paged_cache.cuh"
#include "include/power.cuh"

constexpr u32 ROWS = 64;  // of a tile
constexpr u32 KEYS = 64;  // of a step
constexpr u32 STRIP = 16; // rows that one product takes
constexpr u32 WARPS = 4;  // of a block
constexpr float SLACK = 8.0f;
static_assert(KEYS >= ROWS, "each row sees a key of the first step");

// A block's share of the work, and how its shared memory is laid out, in pieces of 16 bytes: queries, then two stages of a
// step's keys and values.
template <u32 WIDTH_, u32 HEADS_> struct Plan {
    static constexpr u32 WIDTH = WIDTH_;
    static constexpr u32 HEADS = HEADS_;
    static constexpr u32 STRIPS = HEADS * ROWS / STRIP / WARPS; // of a warp
    static constexpr u32 WARPS_OF_HEAD = WARPS / HEADS;
    static constexpr bool HELD = HEADS * WIDTH <= 128; // registers have room for the queries
    static constexpr u32 PIECES = WIDTH / EIGHT; // of a row
    static constexpr u32 QUERIES = HEADS * ROWS * PIECES;
    static constexpr u32 VALUES = KEYS * PIECES; // behind a stage's keys
    static constexpr u32 STAGE = 2 * VALUES;

    // Where a piece of a row lies. Each row has its own order of pieces, so that the eight rows of one matrix that ldmatrix
    // loads lie in different banks.
    __device__ static constexpr u32 place(u32 row, u32 piece) {
        return row * PIECES + (piece ^ (TURNS == 8 ? row % 8 : row / 2 % 4));
    }
    // The place of a piece further on in the same row, by a multiple of 2, from that of piece 0 or 1.
    __device__ static constexpr u32 further(u32 place, u32 pieces) {
        return (place ^ pieces % TURNS) + pieces / TURNS * TURNS;
    }

private:
    static constexpr u32 TURNS = PIECES % 8 == 0 ? 8 : 4; // pieces that change places with each other
};

// What a lane holds of its rows, two of each strip: see mma_c.
template <typename P> struct Rows {
    float top[P::STRIPS][2], sum[P::STRIPS][2], mix[P::STRIPS][P::WIDTH / 8][4];
};
template <typename P> using Scores = float[P::STRIPS][KEYS / 8][4];

// A lane's part of the warp's queries, by 16 dimensions, which a product takes; `query` is the lane's place.
template <typename P> using Queries = u32[P::PIECES / 2][P::STRIPS][4];

template <typename P>
__device__ __forceinline__ void load_queries(Queries<P>& queries, u32 k, const uint4* shared, u32 query) {
#pragma unroll
    for (u32 s = 0; s < P::STRIPS; s++) {
        ldmatrix(queries[k][s], shared + P::further(query, 2 * k) + STRIP * s * P::PIECES);
    }
}

// Products of a warp's queries with a step's keys; `key` is the lane's place.
template <typename T, typename P>
__device__ __forceinline__ void products(Scores<P>& scores, Queries<P>& queries, const uint4* shared, u32 query, u32 key) {
#pragma unroll
    for (u32 k = 0; k < P::PIECES / 2; k++) {
        if constexpr (!P::HELD) load_queries<P>(queries, k, shared, query);
#pragma unroll
        for (u32 n = 0; n < KEYS / 16; n++) {
            u32 b[4];
            ldmatrix(b, shared + P::further(key, 2 * k) + 16 * n * P::PIECES);
            const u32 low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
#pragma unroll
            for (u32 s = 0; s < P::STRIPS; s++) {
                mma<T>(scores[s][2 * n], queries[k][s], low);
                mma<T>(scores[s][2 * n + 1], queries[k][s], high);
            }
        }
    }
}

// Takes out what a row does not see, of keys from `first` on. The warp's first row is at position `low`.
template <typename P>
__device__ __forceinline__ void hide(Scores<P>& scores, u32 first, u32 low, u32 window) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 s = 0; s < P::STRIPS; s++) {
#pragma unroll
        for (u32 n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u32 key = first + 8 * n + mma_c(lane, i).column, at = low + STRIP * s + mma_c(lane, i).row;
                if (key > at || (window != 0 && key + window <= at)) scores[s][n][i] = -INFINITY;
            }
        }
    }
}

// Makes weights of scores, which are yet to be multiplied with `factor`, and corrects what the rows hold where their tops have
// changed. Each row sees a key of the first step, as below, so its top is a number from there on.
template <typename P> __device__ __forceinline__ void weigh(Rows<P>& rows, Scores<P>& scores, float factor) {
    float largest[P::STRIPS][2];
    bool grown = false;
#pragma unroll
    for (u32 s = 0; s < P::STRIPS; s++) {
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            float most = -INFINITY;
#pragma unroll
            for (u32 n = 0; n < KEYS / 8; n++) most = fmaxf(most, fmaxf(scores[s][n][2 * r], scores[s][n][2 * r + 1]));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            largest[s][r] = most;
            grown |= (most - rows.top[s][r]) * factor > SLACK;
        }
    }
    if (__any_sync(0xffffffffu, grown)) {
#pragma unroll
        for (u32 s = 0; s < P::STRIPS; s++) {
#pragma unroll
            for (u32 r = 0; r < 2; r++) {
                const float top = fmaxf(largest[s][r], rows.top[s][r]);
                const float less = power_of_2((rows.top[s][r] - top) * factor);
                rows.top[s][r] = top;
                rows.sum[s][r] *= less;
#pragma unroll
                for (u32 d = 0; d < P::WIDTH / 8; d++) {
                    rows.mix[s][d][2 * r] *= less;
                    rows.mix[s][d][2 * r + 1] *= less;
                }
            }
        }
    }
#pragma unroll
    for (u32 s = 0; s < P::STRIPS; s++) {
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            const float less = rows.top[s][r] * factor;
#pragma unroll
            for (u32 n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (u32 i = 2 * r; i < 2 * r + 2; i++) {
                    scores[s][n][i] = power_of_2(scores[s][n][i] * factor - less);
                    rows.sum[s][r] += scores[s][n][i];
                }
            }
        }
    }
}

// Adds a step's values, each times its weight; `value` is the lane's place.
template <typename T, typename P>
__device__ __forceinline__ void add_values(Rows<P>& rows, const Scores<P>& weights, const uint4* shared, u32 value) {
#pragma unroll
    for (u32 n = 0; n < KEYS / 16; n++) {
        // A lane's part of two groups of scores is its part of 16 keys of weights.
        u32 a[P::STRIPS][4];
#pragma unroll
        for (u32 s = 0; s < P::STRIPS; s++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const float* two = weights[s][2 * n + i / 2] + i % 2 * 2;
                a[s][i] = pack2<T>(two[0], two[1]);
            }
        }
#pragma unroll
        for (u32 d = 0; d < P::PIECES; d += 2) {
            u32 b[4];
            ldmatrix_transposed(b, shared + P::further(value, d) + 16 * n * P::PIECES);
            const u32 low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
#pragma unroll
            for (u32 s = 0; s < P::STRIPS; s++) {
                mma<T>(rows.mix[s][d], a[s], low);
                mma<T>(rows.mix[s][d + 1], a[s], high);
            }
        }
    }
}

template <typename T, typename P>
__device__ __forceinline__ void prefill_attention(const T* qkv, const T* k_cache, const T* v_cache,
                                                  const int32_t* tables, const u32* tiles, T* out, u32 heads,
                                                  u32 kv_heads, u32 block_size, u32 table_stride, u32 window,
                                                  float scale) {
    constexpr u32 WIDTH = P::WIDTH, PIECES = P::PIECES;
    extern __shared__ uint4 shared[];

    join_chain();
    const u32* tile = tiles + static_cast<size_t>(blockIdx.y) * 4;
    const u32 member = tile[0], first_row = tile[1], rows = tile[2], position = tile[3];
    if (rows == 0) return;
    const u32 group = heads / kv_heads, blocks_of_group = (group + P::HEADS - 1) / P::HEADS;
    const u32 kv_head = blockIdx.x / blocks_of_group, of_group = blockIdx.x % blocks_of_group * P::HEADS;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 head = warp / P::WARPS_OF_HEAD, own_row = warp % P::WARPS_OF_HEAD * STRIP * P::STRIPS;
    const u32 end = position + rows; // of the positions that the tile sees
    const u32 begin = window != 0 && position + 1 > window ? position + 1 - window : 0;
    // The first and last position of the warp's rows.
    const u32 low = position + own_row, high = low + STRIP * P::STRIPS - 1;
    const bool idle = low >= end || of_group + head >= group;

    // Calls what(whether the tile has the row, place, offset in rows of `width` heads) of each piece of the warp's rows.
    auto each_piece = [&](u32 width, auto what) {
#pragma unroll
        for (u32 i = lane; i < STRIP * P::STRIPS * PIECES; i += 32) {
            const u32 row = own_row + i / PIECES, piece = i % PIECES;
            const size_t of_head = static_cast<size_t>(first_row + row) * width + kv_head * group + of_group + head;
            what(row < rows, shared + P::place(head * ROWS + row, piece), of_head * WIDTH + piece * EIGHT);
        }
    };
    // Queries of rows beyond the tile's last are zeros.
    if (!idle) {
        each_piece(heads + 2 * kv_heads, [&](bool there, uint4* to, size_t from) { copy_async(to, qkv + from, there); });
    }
    copies_end();

    // Each warp copies its share of a step's keys and values, and some lanes together those of one position. A lane knows
    // where those of one lie, which the others in the same place get from it. What is beyond the end is never read, since
    // it may be anything: the last position takes its place.
    constexpr u32 COPIED = KEYS / WARPS, LANES = PIECES % 16 == 0 ? 16 : PIECES % 8 == 0 ? 8 : 4, AT_ONCE = 32 / LANES;
    const PagedHead paged = {tables + member, table_stride, log2_of(block_size), kv_head, kv_heads, WIDTH};
    const u32 known = warp * COPIED + (lane % LANES * AT_ONCE + lane / LANES) % COPIED;
    auto copied = [&](u32 step) { return min(step + known, end - 1); };
    auto copy = [&](u32 step, u32 block, u32 stage) {
        const u32 row = paged.row(block, copied(step));
        uint4* keys = shared + P::QUERIES + stage * P::STAGE;
#pragma unroll
        for (u32 i = 0; i < COPIED / AT_ONCE; i++) {
            const u32 key = warp * COPIED + i * AT_ONCE + lane / LANES;
            const size_t from = static_cast<size_t>(__shfl_sync(0xffffffffu, row, i, LANES)) * WIDTH + lane % LANES * EIGHT;
#pragma unroll
            for (u32 more = 0; more < PIECES; more += LANES) {
                uint4* to = keys + P::place(key, lane % LANES + more);
                copy_async(to, k_cache + from + more * EIGHT, true);
                copy_async(to + P::VALUES, v_cache + from + more * EIGHT, true);
            }
        }
    };
    u32 block = paged.block(copied(begin));
    copy(begin, block, 0);
    block = paged.block(copied(begin + KEYS));
    copies_end();

    // What ldmatrix wants of a lane: of queries and values, matrices 1 and 3 are 8 rows below 0 and 2, which are 8
    // dimensions before 2 and 3. Of keys it is the other way round.
    const u32 query = P::place(head * ROWS + own_row + lane % 16, lane / 16);
    const u32 key = P::QUERIES + P::place(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    const u32 value = P::QUERIES + P::VALUES + P::place(lane % 16, lane / 16);
    Queries<P> queries;
    if constexpr (P::HELD) {
        wait_copies<1>();
        __syncwarp(); // the warp's queries are there
#pragma unroll
        for (u32 k = 0; k < PIECES / 2; k++) load_queries<P>(queries, k, shared, query);
    }
    const float factor = scale * LOG2_E;
    Rows<P> found = {};
#pragma unroll
    for (u32 s = 0; s < P::STRIPS; s++) found.top[s][0] = found.top[s][1] = -INFINITY;
    u32 stage = 0;
    for (u32 step = begin; step < end; step += KEYS) {
        const u32 next = step + KEYS;
        wait_copies<0>();
        __syncthreads(); // this step's keys are there, and all warps are done with the step before
        if (next < end) copy(next, block, 1 - stage);
        copies_end();
        block = paged.block(copied(next + KEYS));

        const u32 last = step + KEYS - 1, at = stage * P::STAGE;
        stage = 1 - stage;
        // No rows, or none that sees one of the keys. None comes too late for them: the first step reaches beyond the first key of
        // the tile's last row, since it has as many keys as a tile has rows.
        if (idle || step > high) continue;
        Scores<P> scores = {};
        products<T, P>(scores, queries, shared, query, key + at);
        // Only steps at an edge have keys that some row of the warp does not see.
        if (last > low || (window != 0 && step + window <= high)) hide<P>(scores, step, low, window);
        weigh<P>(found, scores, factor);
        add_values<T, P>(found, scores, shared, value + at);
    }
    if (idle) return;

    // Results go to where the queries were, of which these rows are the warp's own, and from there 16 bytes at a time. A lane's are
    // where the words were that ldmatrix gave it; that no other lane is taken for their reader, the barrier sees to.
    __syncwarp();
#pragma unroll
    for (u32 s = 0; s < P::STRIPS; s++) {
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            float sum = found.sum[s][r];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            const float share = 1.0f / sum;
            const u32 row = head * ROWS + own_row + STRIP * s + mma_c(lane, 2 * r).row;
#pragma unroll
            for (u32 d = 0; d < PIECES; d++) {
                u32* piece = reinterpret_cast<u32*>(shared + P::place(row, d));
                piece[lane % 4] = pack2<T>(found.mix[s][d][2 * r] * share, found.mix[s][d][2 * r + 1] * share);
            }
        }
    }
    __syncwarp();
    each_piece(heads, [&](bool there, uint4* from, size_t to) {
        if (there) *reinterpret_cast<uint4*>(out + to) = *from;
    });
}

#define PREFILL_ATTENTION(NAME, T, WIDTH, HEADS)                                                                       \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, 2)                                                        \
        prefill_attention_##NAME(const T* __restrict__ qkv, const T* __restrict__ k_cache,                             \
                                 const T* __restrict__ v_cache, const int32_t* __restrict__ tables,                    \
                                 const u32* __restrict__ tiles, T* __restrict__ out, u32 heads, u32 kv_heads,          \
                                 u32 block_size, u32 table_stride, u32 window, float scale) {                          \
        prefill_attention<T, Plan<WIDTH, HEADS>>(qkv, k_cache, v_cache, tables, tiles, out, heads, kv_heads,           \
                                                 block_size, table_stride, window, scale);                             \
    }
#define OF_BOTH_TYPES(NAME, WIDTH, HEADS)                                                                              \
    PREFILL_ATTENTION(NAME##_bf16, __nv_bfloat16, WIDTH, HEADS)                                                        \
    PREFILL_ATTENTION(NAME##_f16, __half, WIDTH, HEADS)
#define BOTH_PLANS(WIDTH) OF_BOTH_TYPES(WIDTH##_narrow, WIDTH, 1) OF_BOTH_TYPES(WIDTH##_wide, WIDTH, 2)
BOTH_PLANS(32)
BOTH_PLANS(64)
BOTH_PLANS(96)
BOTH_PLANS(128)
