// Turns rows of logits into tokens. The head of src/ops/sample.rs is the specification (its steps are named below), and the
// token is the same to the bit: floating point only in single operations that are never fused, sums of integers.
//
//   logits [rows, vocab] f32, the penalty is written into them    rows [rows] SampleRow    history: ids, of all rows
//   tokens [rows] u32, written    vocab 1 to 2^23
//
// A prefix of the order (top-k, top-p) is a `Cut`: its least key and how many tokens of that key it has, by rising id. The
// key is found digit by digit, from the highest: one pass over the row sums the measures by digit in shared memory, and the
// sums say in which digit the cut lies. The draw divides the row among the warps, finds the part in which the running sum
// exceeds the target, and divides that, until 32 tokens are left.
//
// Launch: grid (rows), 1024 threads. A row stays in one multiprocessor's reach: 1 pass over it if greedy, else 2, 3 more for
// top-k and 3 more for top-p, at 512 KB a pass for 128k tokens; only the first must come from device memory.
// Oracle: src/ops/sample.rs `sample`. Tolerance: none.
// Bytes: reads rows * (vocab * 4 + 32) + ids of the histories * 4, writes rows * 4.
#include "include/chain.cuh"
#include "include/numbers.cuh"
#include "include/reduce.cuh"

constexpr u32 THREADS = 1024;
constexpr u32 WARPS = THREADS / WARP;
// Tokens that a warp takes at a time, and a lane.
constexpr u32 TILE = 128;
constexpr u32 FOUR = 4;
constexpr u32 DIGITS = 2048;
// Ids whose bits fit the memory of the sums.
constexpr u32 WINDOW = DIGITS * 64;
// No token here: below every key.
constexpr u32 NONE = 0;

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

struct Shared {
    union {
        u64 sums[DIGITS];
        u32 seen[WINDOW / 32];
    };
    u64 of_warp[WARPS];
    u32 tied[WARPS];
    u64 missing;
    u32 digit;
};

// The tokens whose key is above `key`, and the first `ties` of those whose key it is.
struct Cut {
    u32 key, ties;
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

// The running sum over the warp's lanes, the lane's own value included.
template <typename N> __device__ __forceinline__ N running(N value) {
#pragma unroll
    for (u32 step = 1; step < WARP; step *= 2) {
        const N before = __shfl_up_sync(ALL_LANES, value, step);
        if (threadIdx.x % WARP >= step) value += before;
    }
    return value;
}

// The block's running sum before this thread's value; `total` is all of it.
__device__ __forceinline__ u64 sum_before(u64 value, Shared& shared, u64& total) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u64 in_warp = running(value);
    if (lane == WARP - 1) shared.of_warp[warp] = in_warp;
    __syncthreads();
    const u64 of_warp = shared.of_warp[lane], warps = running(of_warp);
    __syncthreads();
    total = __shfl_sync(ALL_LANES, warps, WARP - 1);
    return __shfl_sync(ALL_LANES, warps - of_warp, warp) + in_warp - value;
}

// A row and what weighs its tokens.
struct Row {
    const float* logits;
    u32 vocab;
    float highest, scale;

    // Calls `f(id, key)` for the tokens from `begin` to `end`, TILE by TILE, `stride` apart; whole warps call it together,
    // with NONE where there is no token. `begin` and `stride` are multiples of 4 and the warp's own.
    template <typename F> __device__ __forceinline__ void each(u32 begin, u32 end, u32 stride, F f) const {
        for (u32 tile = begin; tile < end; tile += stride) {
            const u32 id = tile + threadIdx.x % WARP * FOUR;
            float four[FOUR] = {};
            if (vocab % FOUR == 0 && id < end) {
                const float4 loaded = *reinterpret_cast<const float4*>(logits + id);
                four[0] = loaded.x, four[1] = loaded.y, four[2] = loaded.z, four[3] = loaded.w;
            } else {
                for (u32 i = 0; i < FOUR; i++) four[i] = id + i < end ? logits[id + i] : 0.0f;
            }
#pragma unroll
            for (u32 i = 0; i < FOUR; i++) f(id + i, id + i < end ? key_of(four[i]) : NONE);
        }
    }

    // The same for all tokens, shared among the block's warps.
    template <typename F> __device__ __forceinline__ void each(F f) const {
        each(threadIdx.x / WARP * TILE, vocab, WARPS * TILE, f);
    }

    // Step 5: the weight, 0 for a token that is out and for NONE.
    __device__ __forceinline__ u64 weight(u32 key) const {
        const float distance = __fsub_rn(highest, logit_of(key));
        const float halvings = distance > 0.0f ? __fmul_rn(distance, scale) : 0.0f;
        if (key == NONE || !(halvings < 41.0f)) return 0;
        const u32 polynomial[6] = {2977044080u, 1031757278u, 238337602u, 41155296u, 5486705u, 472172u};
        const u32 fixed = static_cast<u32>(__fmul_rn(halvings, 16777216.0f)), whole = fixed >> 24, rest = fixed << 8;
        u32 sum = 0;
#pragma unroll
        for (int i = 5; i >= 0; i--) sum = polynomial[i] - __umulhi(rest, sum);
        const u64 power = max((1ull << 32) - __umulhi(rest, sum), 1ull << 31);
        return (((power << 9) >> whole) + 1) >> 1;
    }
};

// Adds `amount`, at most 2^40, to the digit's sum; whole warps call it together. Lanes of the same digit add up among
// themselves first; else the threads of a row of equal logits would all queue at one address.
__device__ __forceinline__ void add(u64* sums, u32 digit, u64 amount) {
    const u32 adding = __ballot_sync(ALL_LANES, amount != 0);
    if (amount == 0) return;
    const u32 peers = __match_any_sync(adding, digit);
    // Halves that 32 lanes cannot make overflow.
    const u64 low = __reduce_add_sync(peers, static_cast<u32>(amount) & 0xfffffu);
    const u64 high = __reduce_add_sync(peers, static_cast<u32>(amount >> 20));
    if (threadIdx.x % WARP == __ffs(peers) - 1u) atomicAdd(&sums[digit], (high << 20) + low);
}

// Steps 6 and 7: the shortest prefix of `kept` whose measures sum to enough, or `kept` if there is none. Top-k measures every
// token that is not out as 1, and `amount` is enough; top-p takes the weights, of whose sum `amount` is the 2^-24ths.
template <bool BY_WEIGHT>
__device__ __forceinline__ Cut prefix(const Row& row, const Cut kept, const u32 amount, Shared& shared) {
    const auto measure = [&](u32 key) -> u64 {
        const u64 weight = row.weight(key);
        return BY_WEIGHT ? weight : weight != 0;
    };
    u32 known = 0, cut = 0;
    u64 missing = amount;
#pragma unroll 1
    for (u32 d = 0; d < 3; d++) {
        const u32 shift = d == 0 ? 21 : d == 1 ? 10 : 0, mask = d < 2 ? 0x7ff : 0x3ff;
        for (u32 i = threadIdx.x; i < DIGITS; i += THREADS) shared.sums[i] = 0;
        __syncthreads();
        row.each([&](u32, u32 key) {
            const bool counts = key > kept.key && (key & known) == cut;
            add(shared.sums, key >> shift & mask, counts ? measure(key) : 0);
        });
        // Which tokens are the kept ties does not matter here, only how many.
        if (threadIdx.x == 0 && kept.ties > 0 && (kept.key & known) == cut) {
            atomicAdd(&shared.sums[kept.key >> shift & mask], kept.ties * measure(kept.key));
        }
        __syncthreads();
        // Two digits a thread, from the highest.
        const u32 higher = DIGITS - 1 - 2 * threadIdx.x;
        const u64 first = shared.sums[higher], second = shared.sums[higher - 1];
        u64 total;
        const u64 before = sum_before(first + second, shared, total);
        if (BY_WEIGHT && d == 0) {
            const u64 low = total * amount, high = __umul64hi(total, amount);
            missing = (high << 40 | low >> 24) + ((low & 0xffffffu) != 0);
        }
        if (total < missing) return kept;
        if (before < missing && missing <= before + first + second) {
            const bool in_first = missing <= before + first;
            shared.digit = in_first ? higher : higher - 1;
            shared.missing = missing - before - (in_first ? 0 : first);
        }
        __syncthreads();
        cut |= shared.digit << shift;
        known |= mask << shift;
        missing = shared.missing;
    }
    const u64 tie = measure(cut);
    return {cut, static_cast<u32>((missing + tie - 1) / tie)};
}

// Step 8. Every warp comes to the same end.
__device__ __forceinline__ u32 draw(const Row& row, const Cut cut, u64 random, Shared& shared) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u64 tie_weight = row.weight(cut.key);
    // The token is one of these; so much weight lies before them, and so many ties are kept from there on.
    u32 first = 0, count = row.vocab, ties = cut.ties;
    u64 below = 0, target = 0;
    u32 part;
    do {
        part = (count + WARPS * WARP - 1) / (WARPS * WARP) * WARP;
        u64 weight = 0;
        u32 tied = 0;
        row.each(first + warp * part, min(first + warp * part + part, first + count), TILE, [&](u32, u32 key) {
            weight += key > cut.key ? row.weight(key) : 0;
            tied += key == cut.key;
        });
        weight = running(weight);
        tied = running(tied);
        if (lane == WARP - 1) shared.of_warp[warp] = weight, shared.tied[warp] = tied;
        __syncthreads();
        // A lane a part.
        weight = shared.of_warp[lane], tied = shared.tied[lane];
        __syncthreads();
        const u32 tied_before = running(tied) - tied;
        weight += min(tied, ties - min(ties, tied_before)) * tie_weight;
        const u64 up_to = running(weight);
        // Only the first time is it all of them.
        if (count == row.vocab) target = __umul64hi(random, __shfl_sync(ALL_LANES, up_to, WARP - 1));
        const u32 chosen = __ffs(__ballot_sync(ALL_LANES, below + up_to > target)) - 1;
        below += __shfl_sync(ALL_LANES, up_to - weight, chosen);
        ties -= min(ties, __shfl_sync(ALL_LANES, tied_before, chosen));
        first += chosen * part;
        count = min(part, count - chosen * part);
    } while (part > WARP);
    // A lane a token.
    const u32 key = lane < count ? key_of(row.logits[first + lane]) : NONE;
    const bool tie = key == cut.key;
    const u32 ties_before = __popc(__ballot_sync(ALL_LANES, tie) & ((1u << lane) - 1));
    const bool kept = key > cut.key || (tie && ties_before < ties);
    const u64 up_to = running(kept ? row.weight(key) : 0);
    return first + __ffs(__ballot_sync(ALL_LANES, below + up_to > target)) - 1;
}

// Step 1. Ids are marked as they are met, a window of them at a time.
__device__ __forceinline__ void penalise(float* logits, u32 vocab, const SampleRow& row, const u32* history,
                                         Shared& shared) {
    if (row.history_begin == row.history_end) return;
    for (u32 window = 0; window < vocab; window += WINDOW) {
        for (u32 i = threadIdx.x; i < WINDOW / 32; i += THREADS) shared.seen[i] = 0;
        __syncthreads();
        for (u32 i = row.history_begin + threadIdx.x; i < row.history_end; i += THREADS) {
            const u32 id = history[i], at = id - window;
            if (id < window || id >= vocab || at >= WINDOW) continue;
            const u32 bit = 1u << at % 32;
            if (atomicOr(&shared.seen[at / 32], bit) & bit) continue;
            const float logit = logits[id];
            logits[id] = logit < 0.0f ? __fmul_rn(logit, row.penalty) : __fdiv_rn(logit, row.penalty);
        }
        __syncthreads();
    }
}

// The best token and its key.
__device__ __forceinline__ void best(const Row& row, Shared& shared, u32& id, u32& key) {
    // Of equal keys the lower id, the higher of its complements.
    u64 best = 0;
    row.each([&](u32 id, u32 key) { best = max(best, static_cast<u64>(key) << 32 | ~id); });
    const auto of_warp = [&] {
#pragma unroll
        for (u32 step = WARP / 2; step > 0; step /= 2) best = max(best, __shfl_xor_sync(ALL_LANES, best, step));
    };
    of_warp();
    if (threadIdx.x % WARP == 0) shared.of_warp[threadIdx.x / WARP] = best;
    __syncthreads();
    best = shared.of_warp[threadIdx.x % WARP];
    of_warp();
    __syncthreads();
    id = ~static_cast<u32>(best), key = best >> 32;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    sample(float* logits, const SampleRow* __restrict__ rows, const u32* __restrict__ history, u32* __restrict__ tokens,
           u32 vocab) {
    __shared__ Shared shared;
    join_chain();
    const SampleRow asked = rows[blockIdx.x];
    float* of_row = row_of(logits, blockIdx.x, vocab);
    penalise(of_row, vocab, asked, history, shared);
    Row row = {of_row, vocab, 0.0f, asked.scale};
    u32 token, key;
    best(row, shared, token, key);
    if (asked.top_k != 1) {
        row.highest = logit_of(key);
        Cut cut = {NONE, 0};
        if (asked.top_k > 0) cut = prefix<false>(row, cut, asked.top_k, shared);
        if (asked.parts > 0) cut = prefix<true>(row, cut, asked.parts, shared);
        token = draw(row, cut, asked.random, shared);
    }
    if (threadIdx.x == 0) tokens[blockIdx.x] = token;
}
