// Attention of one row a sequence to all positions of its sequence, of which keys and values lie in a paged cache.
//
//   out[s][h] = sum_p w[p] V[p] / sum_p w[p],  w[p] = e^(scale * q[s][h] . K[p])
//   over the positions p < lengths[s], of which a window > 0 leaves the last `window`. Length 0: zeros.
//
//   qkv [seqs, (heads + 2 kv_heads) * head_dim] T    k_cache, v_cache [blocks, kv_heads, block_size, head_dim] T
//   tables [blocks, table_stride] i32: column s has sequence s's    lengths [seqs] u32    out [seqs, heads * head_dim] T
//   partial [gridDim.x, 2, min(heads / kv_heads, 8), 4 + head_dim] f32, turns [gridDim.x] u32, all 0 before and after.
//
// Head h goes with head h / (heads / kv_heads) of keys. block_size is a power of two, head_dim a multiple of 8 up to WIDTH.
//
// All bytes are keys and values, each read once, so what counts is that the memory never waits:
// - Blocks have equal shares. An item is what up to 8 heads that share keys do for a sequence. Items lie behind one another,
//   in units of UNIT positions, and each block finds its share of all units from the lengths: a recorded launch serves every
//   length, and sequences of any lengths keep all blocks busy to the end.
// - A block that has all of an item writes `out`. An item that several have parts of is merged by the block that is done
//   last, in the order of positions, which spares a launch. Part 0 is slot 1 of its block in `partial`, other parts are slot
//   0 of theirs: largest score, sum of weights, two numbers without meaning, weighted sum of values, where scores are in
//   powers of 2 (times log2 e) and weights are 2^(score - largest). `turns` of the block that has part 0 counts who is done.
// - A warp takes KEYS positions a step, and while it calculates one, the next is on its way to its ring in shared memory. It
//   copies whole rows: memory is read fastest in long runs, the 256 bytes of a head of 128, and not in each lane's pieces.
// - The tensor cores (include/mma.cuh) make keys x queries and values x weights; 8 heads are the columns of their products.
//   Weights are rounded to T, since they take nothing else, before they are summed too. Dimensions and keys may come in any
//   order, so a lane's part of a product is 16 bytes of a row: of the keys of rows g and g + 8, 8 dimensions of each CHUNK;
//   of the values of keys 2c, 2c + 1, 2c + 8, 2c + 9, 8 dimensions of each SLAB.
//
// Launch: grid (any number: 2 a multiprocessor read as fast as can be, see `Blocks`), 32 WARPS threads.
// Oracle: src/engine/cuda/kernels/decode_attention.rs `oracle`. Tolerance: twice the rounding of T times the largest value.
// Bytes: reads what each sequence sees of its keys and values once, the blocks' numbers, the queries, the lengths; writes
// out; writes and reads each part of an item that has several, and a word of `turns` for each such item.
#include "include/async_copy.cuh"
#include "include/chain.cuh"
#include "include/mma.cuh"
#include "include/paged_cache.cuh"
#include "include/reduce.cuh"
#include "include/transpose.cuh"

constexpr u32 UNIT = 64;   // positions
constexpr u32 HEADS = 8;   // of an item at most
constexpr u32 KEYS = 16;   // of a warp's step
constexpr u32 CHUNK = 32;  // dimensions of a key that 4 lanes take at once
constexpr u32 SLAB = 64;   // dimensions of a value that 8 lanes take at once
constexpr u32 AT_ONCE = 8; // parts that the last block merges at once

// What a sequence sees: positions from `first` to `end`, in units from `begin` on. An empty one has a unit that writes zeros.
struct Seen {
    u32 first, begin, end, units;

    __device__ __forceinline__ Seen(u32 length, u32 window) {
        first = window != 0 && length > window ? length - window : 0;
        begin = first / KEYS * KEYS;
        end = length;
        units = max((end - begin + UNIT - 1) / UNIT, 1u);
    }
    __device__ __forceinline__ bool has(u32 position) const { return position >= first && position < end; }
};

// A block's share of all units: from `unit` to `end`. Its first is of sequence `seq`, before which lie `before`.
struct Share {
    u32 size, unit, end, seq, before;

    __device__ __forceinline__ Share(const u32* lengths, u32 seqs, u32 items, u32 window) {
        const u32 lane = threadIdx.x % WARP;
        u32 total = 0;
        for (u32 s = lane; s < seqs; s += WARP) total += Seen(lengths[s], window).units * items;
        total = __reduce_add_sync(ALL_LANES, total);
        size = (total + gridDim.x - 1) / gridDim.x;
        unit = min(blockIdx.x * size, total);
        end = min(unit + size, total);
        seq = before = 0;
        for (u32 base = 0; unit < end; base += WARP) {
            const u32 units = base + lane < seqs ? Seen(lengths[base + lane], window).units * items : 0;
            u32 up_to = before + units;
#pragma unroll
            for (u32 step = 1; step < WARP; step *= 2) {
                const u32 lower = __shfl_up_sync(ALL_LANES, up_to, step);
                if (lane >= step) up_to += lower - before;
            }
            const u32 beyond = __ballot_sync(ALL_LANES, up_to > unit);
            seq = base + __ffs(beyond) - 1;
            before = __shfl_sync(ALL_LANES, beyond ? up_to - units : up_to, beyond ? __ffs(beyond) - 1 : WARP - 1);
            if (beyond) break;
        }
    }
};

// A warp's keys and values, on their way through shared memory. An entry is the keys or the values of a step, row by row.
template <typename T, u32 WIDTH> struct Feed {
    static constexpr u32 PIECES = WIDTH / EIGHT;          // of a row, of 16 bytes
    static constexpr u32 ROWS = WARP / PIECES;            // that the warp copies at once
    static constexpr u32 ENTRIES = 3;                     // one that is read, two on their way
    static constexpr u32 WORDS = ENTRIES * KEYS * PIECES; // of 16 bytes
    static constexpr u32 NONE = ~0u;

    uint4* ring;
    PagedHead head;
    Seen seen;
    u32 lane;
    u32 filled = 0, taken = 0; // entries

    // Piece i of row `key`. A row's pieces change places from row to row, so that the 8 that 8 lanes read together, 4 of each
    // of 2 rows or 2 of each of 4, lie in different banks.
    __device__ __forceinline__ uint4& piece(u32 entry, u32 key, u32 i) const {
        return ring[(entry * KEYS + key) * PIECES + (i ^ (key & 6) ^ (key & 1) * 4)];
    }
    static __device__ __forceinline__ u32 next(u32 entry) { return entry + 1 == ENTRIES ? 0 : entry + 1; }

    // The block of key lane % KEYS of a step. What lies beyond the end is never read: it may be anything.
    __device__ __forceinline__ u32 block(u32 step) const {
        const u32 position = step + lane % KEYS;
        return seen.has(position) ? head.block(position) : 0;
    }
    // The key's row in the cache, if it is seen.
    __device__ __forceinline__ u32 row(u32 step, u32 block) const {
        const u32 position = step + lane % KEYS;
        return seen.has(position) ? head.row(block, position) : NONE;
    }
    // Fills the next entry, of which each lane knows the row of key lane % KEYS.
    __device__ __forceinline__ void fetch(const T* cache, u32 step, u32 row) {
        if (step < seen.end) {
            const u32 i = lane % PIECES;
            const bool of_head = i * EIGHT < head.head_dim;
#pragma unroll
            for (u32 r = 0; r < KEYS; r += ROWS) {
                const u32 key = r + lane / PIECES, from = __shfl_sync(ALL_LANES, row, key);
                copy_async(&piece(filled, key, i), cache + static_cast<size_t>(from) * head.head_dim + i * EIGHT,
                           of_head && from != NONE);
            }
        }
        copies_end();
        filled = next(filled);
    }
    // Waits for the oldest entry that is on its way. All lanes are done with the one before, which may be filled again.
    __device__ __forceinline__ void await() const {
        wait_copies<1>();
        __syncwarp();
    }
};

// What a warp finds: of heads 2c and 2c + 1, of dimensions 8g to 8g + 7 of each SLAB.
template <u32 WIDTH> struct Found {
    float mix[WIDTH / 16][4] = {};
    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
};

template <typename T, u32 WIDTH, u32 WARPS>
__device__ __forceinline__ Found<WIDTH> attend(Feed<T, WIDTH>& feed, const T* k_cache, const T* v_cache,
                                               const T* queries, u32 count, float scale, u32 begin, u32 end) {
    constexpr u32 STRIDE = WARPS * KEYS;
    constexpr u32 CHUNKS = WIDTH / CHUNK, SLABS = WIDTH / SLAB;
    const u32 lane = feed.lane, g = lane / 4, c = lane % 4, head_dim = feed.head.head_dim;
    const u32 first = begin + threadIdx.x / WARP * KEYS;

    u32 block = feed.block(first);
    const u32 block_after = feed.block(first + STRIDE);
    u32 row = feed.row(first, block);
    feed.fetch(k_cache, first, row);
    feed.fetch(v_cache, first, row);
    block = block_after;

    uint4 query[CHUNKS] = {};
#pragma unroll
    for (u32 i = 0; i < CHUNKS; i++) {
        const u32 dim = i * CHUNK + c * EIGHT;
        if (g < count && dim < head_dim && begin < end) {
            query[i] = *reinterpret_cast<const uint4*>(queries + g * head_dim + dim);
        }
    }

    Found<WIDTH> found;
    for (u32 step = first; step < end; step += STRIDE) {
        const u32 later = step + STRIDE;
        row = feed.row(later, block);
        block = feed.block(later + STRIDE);

        feed.await();
        feed.fetch(k_cache, later, row);
        float score[2][4] = {}; // two sums, so that a product need not wait for the one before
#pragma unroll
        for (u32 i = 0; i < CHUNKS; i++) {
            if (i * CHUNK >= head_dim) continue;
            const uint4 key = feed.piece(feed.taken, g, 4 * i + c), key8 = feed.piece(feed.taken, g + 8, 4 * i + c);
            const u32 a[4] = {key.x, key8.x, key.y, key8.y}, b[2] = {query[i].x, query[i].y};
            mma<T>(score[0], a, b);
            const u32 a2[4] = {key.z, key8.z, key.w, key8.w}, b2[2] = {query[i].z, query[i].w};
            mma<T>(score[1], a2, b2);
        }
        feed.taken = feed.next(feed.taken);

        float weight[4];
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            float largest = found.top[h];
#pragma unroll
            for (u32 i = h; i < 4; i += 2) {
                const bool there = feed.seen.has(step + g + i / 2 * 8);
                weight[i] = there ? (score[0][i] + score[1][i]) * (scale * LOG2_E) : -INFINITY;
                largest = fmaxf(largest, weight[i]);
            }
#pragma unroll
            for (u32 away = 4; away < WARP; away *= 2) {
                largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, away));
            }
            // A number: a step has a position.
            const float less = exp2f(found.top[h] - largest);
            found.top[h] = largest;
            found.sum[h] *= less;
#pragma unroll
            for (u32 t = 0; t < WIDTH / 16; t++) found.mix[t][h] *= less, found.mix[t][h + 2] *= less;
#pragma unroll
            for (u32 i = h; i < 4; i += 2) weight[i] = exp2f(weight[i] - largest);
        }
        const u32 packed[2] = {pack2<T>(weight[0], weight[1]), pack2<T>(weight[2], weight[3])};
        const u32 b[2] = {transposed(packed[0]), transposed(packed[1])};
        // Of the weights as they are rounded, so that `out` is a mean of values, whatever rounding took from all weights.
        const float2 kept = unpack2<T>(packed[0]), kept8 = unpack2<T>(packed[1]);
        found.sum[0] += kept.x + kept8.x, found.sum[1] += kept.y + kept8.y;

        feed.await();
        feed.fetch(v_cache, later, row);
#pragma unroll
        for (u32 i = 0; i < SLABS; i++) {
            if (i * SLAB >= head_dim) continue;
            uint4 v[4];
#pragma unroll
            for (u32 r = 0; r < 4; r++) {
                v[r] = feed.piece(feed.taken, 2 * c + r % 2 + r / 2 * 8, i * EIGHT + g);
            }
            const u32 words[4][4] = {{v[0].x, v[1].x, v[2].x, v[3].x},
                                     {v[0].y, v[1].y, v[2].y, v[3].y},
                                     {v[0].z, v[1].z, v[2].z, v[3].z},
                                     {v[0].w, v[1].w, v[2].w, v[3].w}};
#pragma unroll
            for (u32 t = 0; t < 4; t++) {
                const u32* w = words[t];
                const u32 a[4] = {lower(w[0], w[1]), upper(w[0], w[1]), lower(w[2], w[3]), upper(w[2], w[3])};
                mma<T>(found.mix[4 * i + t], a, b);
            }
        }
        feed.taken = feed.next(feed.taken);
    }
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
#pragma unroll
        for (u32 away = 4; away < WARP; away *= 2) found.sum[h] += __shfl_xor_sync(ALL_LANES, found.sum[h], away);
    }
    return found;
}

// Four numbers, rounded and together.
template <typename T> __device__ __forceinline__ void store4(T* to, const float (&from)[4], float divisor) {
    const float part = divisor > 0.0f ? 1.0f / divisor : 0.0f;
    *reinterpret_cast<uint2*>(to) = {pack2<T>(from[0] * part, from[1] * part), pack2<T>(from[2] * part, from[3] * part)};
}

template <typename T, u32 WIDTH, u32 WARPS>
__device__ __forceinline__ void decode_attention(const T* qkv, const T* k_cache, const T* v_cache,
                                                 const int32_t* tables, const u32* lengths, T* out, float* partial,
                                                 u32* turns, u32 seqs, u32 heads, u32 kv_heads, u32 head_dim,
                                                 u32 block_size, u32 table_stride, u32 window, float scale) {
    typedef Feed<T, WIDTH> FeedT;
    __shared__ uint4 rings[WARPS][FeedT::WORDS];
    join_chain();
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;
    const u32 group = heads / kv_heads, of_group = (group + HEADS - 1) / HEADS, items = kv_heads * of_group;
    const u32 most = min(group, HEADS), quads = head_dim / 4;

    Share share(lengths, seqs, items, window);
    while (share.unit < share.end) {
        const u32 seq = share.seq;
        const Seen seen(lengths[seq], window);
        const u32 item = (share.unit - share.before) / seen.units;
        const u32 item_unit = share.before + item * seen.units, item_end = item_unit + seen.units;
        const u32 unit_end = min(item_end, share.end);
        const u32 begin = seen.begin + (share.unit - item_unit) * UNIT;
        const u32 end = min(seen.begin + (unit_end - item_unit) * UNIT, seen.end);
        const u32 kv_head = item / of_group, first_head = kv_head * group + item % of_group * HEADS;
        const u32 count = min(HEADS, (kv_head + 1) * group - first_head);
        const u32 first_block = item_unit / share.size, parts = (item_end - 1) / share.size + 1 - first_block;

        const PagedHead head = {tables + seq, table_stride, log2_of(block_size), kv_head, kv_heads, head_dim};
        FeedT feed{rings[warp], head, {0, 0}, lane};
        feed.seen = seen, feed.seen.end = end;
        const T* queries = qkv + (static_cast<size_t>(seq) * (heads + 2 * kv_heads) + first_head) * head_dim;
        const Found<WIDTH> found =
            attend<T, WIDTH, WARPS>(feed, k_cache, v_cache, queries, count, scale, begin, end);

        // The warps become one. What a warp found takes the place of its keys and values.
        struct Warp {
            float mix[HEADS][WIDTH], top[HEADS], sum[HEADS];
        };
        static_assert(sizeof(Warp) <= sizeof(rings[0]), "what a warp found fits its ring");
        __syncwarp();
        Warp& own = *reinterpret_cast<Warp*>(rings[warp]);
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            if (2 * c + h >= count) continue;
#pragma unroll
            for (u32 i = 0; i < WIDTH / SLAB; i++) {
                float numbers[EIGHT];
#pragma unroll
                for (u32 e = 0; e < EIGHT; e++) numbers[e] = found.mix[4 * i + e / 2][e % 2 * 2 + h];
                store8(&own.mix[2 * c + h][i * SLAB + g * EIGHT], numbers);
            }
            if (g == 0) own.top[2 * c + h] = found.top[h], own.sum[2 * c + h] = found.sum[h];
        }
        __syncthreads();
        const size_t out_head = static_cast<size_t>(seq) * heads + first_head;
        auto part_of = [&](u32 block, u32 slot, u32 h) {
            return partial + (static_cast<size_t>(2 * block + slot) * most + h) * (4 + head_dim);
        };
        for (u32 i = threadIdx.x; i < count * quads; i += WARPS * WARP) {
            const u32 h = i / quads, dim = i % quads * 4;
            const Warp* warps[WARPS];
            float largest = -INFINITY;
#pragma unroll
            for (u32 w = 0; w < WARPS; w++) {
                warps[w] = reinterpret_cast<const Warp*>(rings[w]);
                largest = fmaxf(largest, warps[w]->top[h]);
            }
            float total = 0.0f, mixed[4] = {};
#pragma unroll
            for (u32 w = 0; w < WARPS; w++) {
                // A warp without positions counts for nothing, and if none has any, -inf - -inf is no number.
                const float part = warps[w]->top[h] == -INFINITY ? 0.0f : exp2f(warps[w]->top[h] - largest);
                const float4 mix = *reinterpret_cast<const float4*>(&warps[w]->mix[h][dim]);
                total += part * warps[w]->sum[h];
                mixed[0] += part * mix.x, mixed[1] += part * mix.y, mixed[2] += part * mix.z, mixed[3] += part * mix.w;
            }
            if (parts == 1) {
                store4(out + (out_head + h) * head_dim + dim, mixed, total);
                continue;
            }
            float* to = part_of(blockIdx.x, share.unit == item_unit, h);
            if (dim == 0) *reinterpret_cast<float2*>(to) = {largest, total};
            *reinterpret_cast<float4*>(to + 4 + dim) = {mixed[0], mixed[1], mixed[2], mixed[3]};
        }
        __syncthreads();

        if (parts > 1) {
            bool last = false;
            if (threadIdx.x == 0) {
                __threadfence();
                last = atomicInc(&turns[first_block], parts - 1) == parts - 1; // which makes it 0 again
                __threadfence();
            }
            last = __syncthreads_or(last);
            for (u32 i = threadIdx.x; last && i < count * quads; i += WARPS * WARP) {
                const u32 h = i / quads, dim = i % quads * 4;
                float largest = -INFINITY, total = 0.0f, mixed[4] = {};
                for (u32 p = 0; p < parts; p += AT_ONCE) {
                    float2 state[AT_ONCE];
                    float4 mix[AT_ONCE];
                    float most_of_all = largest;
#pragma unroll
                    for (u32 j = 0; j < AT_ONCE; j++) {
                        const u32 part = min(p + j, parts - 1);
                        const float* from = part_of(first_block + part, part == 0, h);
                        state[j] = *reinterpret_cast<const float2*>(from);
                        mix[j] = *reinterpret_cast<const float4*>(from + 4 + dim);
                        if (p + j >= parts) state[j].x = -INFINITY;
                        most_of_all = fmaxf(most_of_all, state[j].x);
                    }
                    const float less = exp2f(largest - most_of_all);
                    largest = most_of_all;
                    total *= less;
#pragma unroll
                    for (u32 e = 0; e < 4; e++) mixed[e] *= less;
#pragma unroll
                    for (u32 j = 0; j < AT_ONCE; j++) {
                        const float w = exp2f(state[j].x - largest);
                        total += w * state[j].y;
                        mixed[0] += w * mix[j].x, mixed[1] += w * mix[j].y;
                        mixed[2] += w * mix[j].z, mixed[3] += w * mix[j].w;
                    }
                }
                store4(out + (out_head + h) * head_dim + dim, mixed, total);
            }
        }
        share.unit = unit_end;
        if (share.unit == share.before + items * seen.units) share.before = share.unit, share.seq++;
    }
}

#define DECODE_ATTENTION(NAME, T, WIDTH, WARPS)                                                                        \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 3)                                                        \
        NAME(const T* __restrict__ qkv, const T* __restrict__ k_cache, const T* __restrict__ v_cache,                  \
             const int32_t* __restrict__ tables, const u32* __restrict__ lengths, T* __restrict__ out,                 \
             float* __restrict__ partial, u32* __restrict__ turns, u32 seqs, u32 heads, u32 kv_heads, u32 head_dim,    \
             u32 block_size, u32 table_stride, u32 window, float scale) {                                              \
        decode_attention<T, WIDTH, WARPS>(qkv, k_cache, v_cache, tables, lengths, out, partial, turns, seqs, heads,    \
                                          kv_heads, head_dim, block_size, table_stride, window, scale);                \
    }
#define OF_BOTH_TYPES(WIDTH, WARPS)                                                                                    \
    DECODE_ATTENTION(decode_attention_##WIDTH##_bf16, __nv_bfloat16, WIDTH, WARPS)                                     \
    DECODE_ATTENTION(decode_attention_##WIDTH##_f16, __half, WIDTH, WARPS)
OF_BOTH_TYPES(64, 4)
OF_BOTH_TYPES(128, 4)
OF_BOTH_TYPES(256, 2)
