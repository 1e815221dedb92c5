// What the two kernels of sample.cu share: how a row is asked for, what they leave each other of it, and what its tokens
// weigh. The steps named here are those of src/ops/sample.rs.
#pragma once
#include "numbers.cuh"
#include "reduce.cuh"

constexpr u32 THREADS = 512;
constexpr u32 WARPS = THREADS / WARP;
// Tokens that a lane takes at a time.
constexpr u32 FOUR = 4;
// Tokens that a block takes at a time, and how many loads of a thread that is.
constexpr u32 PART = 2048;
constexpr u32 LOADS = PART / (THREADS * FOUR);
// Tokens whose best key is kept: half a warp's.
constexpr u32 TILE = WARP / 2 * FOUR;
constexpr u32 DIGITS = 2048;
// No token here: below every key.
constexpr u32 NONE = 0;
// As in src/engine/cuda/kernels/sample.rs: no token is so high.
constexpr u32 NO_NUMBER = 1u << 31;
// From so many halvings on a weight is 0.
constexpr float OUT = 41.0f;

// As `SampleRow` of src/engine/cuda/kernels/sample.rs.
struct SampleRow {
    u64 random;     // the 64 random bits of (seed, position)
    float scale;    // c of step 5
    u32 top_k;      // 0: all; 1: greedy
    u32 parts;      // P of step 7; 0: all
    float penalty;
    u32 history_begin, history_end;
};
static_assert(sizeof(SampleRow) == 32, "the host writes rows of 32 bytes");

// What is known of the block's row, `width` u64 of `work`: as `work_len` of src/engine/cuda/kernels/sample.rs.
struct Work {
    u64* sums;      // [DIGITS]: weights by digit, if nothing but top-p cuts
    u64* best;      // [blocks]: the best of each block's tokens; there are no more blocks than parts
    u64* weights;   // [parts]: of the tokens above the cut
    u32* tiles;     // [tile_count]: best keys
    u32* ties;      // [parts]: tokens of the cut's key
    u32* done;      // blocks that have weighed theirs
    u32 parts, tile_count;

    __device__ __forceinline__ Work(u64* work, u32 vocab) {
        parts = (vocab + PART - 1) / PART, tile_count = (vocab + TILE - 1) / TILE;
        const u32 width = DIGITS + 2 * parts + (tile_count + parts + 2) / 2;
        sums = row_of(work, blockIdx.y, width), best = sums + DIGITS, weights = best + parts;
        tiles = reinterpret_cast<u32*>(weights + parts), ties = tiles + tile_count, done = ties + parts;
    }
};

// Steps 2 and 3: a logit's bits, cleaned, as an integer that orders as it does.
__device__ __forceinline__ u32 key_of(float logit) {
    u32 bits = __float_as_uint(logit);
    if ((bits & 0x7fffffffu) > 0x7f800000u) bits = 0xff800000u;
    if (bits == 0x7f800000u) bits = 0x7f7fffffu;
    if (bits == 0x80000000u) bits = 0;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float logit_of(u32 key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

// A token as one number, of which the higher is the better: of equal keys that of the lower id.
__device__ __forceinline__ u64 key_and_id(u32 key, u32 id) { return static_cast<u64>(key) << 32 | ~id; }

// The warp's highest.
__device__ __forceinline__ u64 warp_max(u64 value) {
    const u32 high = value >> 32, highest = __reduce_max_sync(ALL_LANES, high);
    const u32 low = high == highest ? static_cast<u32>(value) : 0;
    return static_cast<u64>(highest) << 32 | __reduce_max_sync(ALL_LANES, low);
}

// The keys of the FOUR tokens of a row from `id` on, a multiple of 4; NONE from `end` on, which is one too or the row's end.
__device__ __forceinline__ void load_keys(const float* logits, u32 vocab, u32 id, u32 end, u32 (&keys)[FOUR]) {
    float four[FOUR] = {};
    if (vocab % FOUR == 0 && id < end) {
        const float4 loaded = *reinterpret_cast<const float4*>(logits + id);
        four[0] = loaded.x, four[1] = loaded.y, four[2] = loaded.z, four[3] = loaded.w;
    } else {
        for (u32 i = 0; i < FOUR; i++) four[i] = id + i < end ? logits[id + i] : 0.0f;
    }
#pragma unroll
    for (u32 i = 0; i < FOUR; i++) keys[i] = id + i < end ? key_of(four[i]) : NONE;
}

// The same for what this thread takes of a part, or of none behind the last.
__device__ __forceinline__ void load_part(const float* logits, u32 vocab, u32 part, u32 (&keys)[LOADS][FOUR]) {
    const u32 first = part * PART, end = min(first + PART, vocab);
#pragma unroll
    for (u32 l = 0; l < LOADS; l++) load_keys(logits, vocab, first + (l * THREADS + threadIdx.x) * FOUR, end, keys[l]);
}

// Step 5: halvings to the weight, 0 for OUT.
__device__ __forceinline__ u64 weight_of(float halvings) {
    if (halvings >= OUT) return 0;
    const u32 polynomial[6] = {2977044080u, 1031757278u, 238337602u, 41155296u, 5486705u, 472172u};
    const u32 fixed = static_cast<u32>(__fmul_rn(halvings, 16777216.0f)), whole = fixed >> 24, rest = fixed << 8;
    u32 sum = 0;
#pragma unroll
    for (int i = 5; i >= 0; i--) sum = polynomial[i] - __umulhi(rest, sum);
    const u64 power = max((1ull << 32) - __umulhi(rest, sum), 1ull << 31);
    return (((power << 9) >> whole) + 1) >> 1;
}

// How far a token is from the best: falls with the halvings, by 128 for each power of two of them; 0 for OUT.
__device__ __forceinline__ u32 digit_of(float halvings) {
    // Of 2^-10, below which all have the highest digit; OUT is less than DIGITS steps above it.
    constexpr u32 FIRST = 0x3a80;
    return halvings >= OUT ? 0 : DIGITS - 1 + FIRST - max(__float_as_uint(halvings) >> 16, FIRST);
}

// A row and what weighs its tokens.
struct Row {
    const float* logits;
    u32 vocab;
    float highest, scale;

    __device__ __forceinline__ void load(u32 id, u32 end, u32 (&keys)[FOUR]) const {
        load_keys(logits, vocab, id, end, keys);
    }

    // Calls `f(key)` for the tokens from `begin` to `end`, whole warps together, with NONE where there is no token.
    template <typename F> __device__ __forceinline__ void each(u32 begin, u32 end, u32 stride, F f) const {
        constexpr u32 AT_ONCE = 2;
        for (; begin < end; begin += AT_ONCE * stride) {
            u32 keys[AT_ONCE][FOUR];
#pragma unroll
            for (u32 a = 0; a < AT_ONCE; a++) load(begin + a * stride + threadIdx.x % WARP * FOUR, end, keys[a]);
#pragma unroll
            for (u32 a = 0; a < AT_ONCE; a++) {
#pragma unroll
                for (u32 i = 0; i < FOUR; i++) f(keys[a][i]);
            }
        }
    }

    // The same for all tokens, shared among the block's warps.
    template <typename F> __device__ __forceinline__ void each(F f) const {
        each(threadIdx.x / WARP * WARP * FOUR, vocab, THREADS * FOUR, f);
    }

    // Step 5, OUT for a token that is out and for NONE.
    __device__ __forceinline__ float halvings(u32 key) const {
        const float distance = __fsub_rn(highest, logit_of(key));
        const float halvings = distance > 0.0f ? __fmul_rn(distance, scale) : 0.0f;
        return key != NONE && halvings < OUT ? halvings : OUT;
    }
    __device__ __forceinline__ u64 weight(u32 key) const { return weight_of(halvings(key)); }
    __device__ __forceinline__ u32 digit(u32 key) const { return digit_of(halvings(key)); }
};
