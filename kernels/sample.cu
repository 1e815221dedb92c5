// Turns rows of logits into tokens. The head of src/ops/sample.rs is the specification (its steps are named below), and the
// token is the same to the bit: floating point only in single operations that are never fused, sums of integers.
//
//   logits [rows, vocab] f32, the penalty is written into them    rows [rows] SampleRow    history: ids, of all rows
//   tokens [rows] u32, written, with NO_NUMBER if no logit of the row is above -inf    vocab 1 to 2^23
//   work [rows, see `Work`] u64, of any content
//
// Two kernels, in which many blocks share a row, PART tokens at a time: one multiprocessor of an H100 alone takes 26 us to
// find the best of 128k tokens, all of them together 4. Only what is few is left to one block.
//   sample_best: the penalty, then the best token of each block and the best key of each TILE.
//   sample_draw: a greedy row's token is the best of the blocks'. For top-k one block of the row goes on: tiles' best tokens
//     are tokens, so where k of them are, the cut is no lower. Else every block weighs its parts, and the last one to finish
//     goes on: it knows the weight of each part, for a draw from all, or of each digit, for top-p.
// A digit says how many halvings a token is from the best, the higher the nearer. Tokens at or above the cut's digit are
// gathered in shared memory, from tiles that have one; there the cut is found (include/cut.cuh), and the token drawn. If too
// many are (flat rows, ties), top-p gathers only those of the cut's digit; if these are too many as well, or for top-k, the
// one block takes the whole row, which costs it up to a millisecond.
//
// To draw, the threads take a run of tokens (or parts) each; sums of runs say in which the running sum exceeds the target.
//
// Launch: both grid (blocks, rows), 512 threads. A row has as many parts as PART goes into it, rounded up, and at most as
// many blocks, each of which takes every blocks-th part: `blocks` of src/engine/cuda/kernels/sample.rs says how many.
// Oracle: src/ops/sample.rs `sample`. Tolerance: none.
// Bytes: reads rows * (vocab * 4 + 32) + ids of the histories * 4, writes rows * 4. `sample_best` reads the logits;
// `sample_draw` finds what it reads of them in the cache, as it does `work`, which is 5 % of the logits.
#include "include/chain.cuh"
#include "include/cut.cuh"

// Step 8 among `count` items: that at which the running sum exceeds `target(total)` is left in `shared`. `item(i, weight,
// tied)` adds the weight of item i above the cut, and how many tokens of the cut's key it has.
template <typename T, typename I>
__device__ __forceinline__ void place(u32 count, const Cut cut, u64 tie_weight, Shared& shared, T target, I item) {
    const u32 own = (count + THREADS - 1) / THREADS;
    const u32 begin = min(threadIdx.x * own, count), end = min(begin + own, count);
    u64 weight = 0, total;
    u32 tied = 0, ties = cut.ties, all_tied;
#pragma unroll 1
    for (u32 i = begin; i < end; i++) item(i, weight, tied);
    if (cut.ties > 0) {
        ties -= min(ties, shared.by_digit.run.before(tied, all_tied));
        weight += min(tied, ties) * tie_weight;
    }
    const u64 before = shared.by_digit.run.before(weight, total), goal = target(total);
    if (before <= goal && goal < before + weight) {
        u64 left = goal - before;
        for (u32 i = begin;; i++) {
            weight = 0, tied = 0;
            item(i, weight, tied);
            const u32 kept = min(tied, ties);
            weight += kept * tie_weight;
            if (left < weight) {
                shared.item = i, shared.ties = ties, shared.left = left;
                break;
            }
            left -= weight, ties -= kept;
        }
    }
    __syncthreads();
}

// Draws from what the cut leaves: of the gathered tokens, or, if it is true that they are not `all`, of the row, of whose parts
// the weights are known (and the ties, if the cut has any).
__device__ __forceinline__ u32 draw(const Row& row, const Work& work, bool all, u32 count, const Cut cut, u64 random,
                                    Shared& shared) {
    const u64 tie_weight = row.weight(cut.key);
    const auto of_random = [&](u64 total) { return __umul64hi(random, total); };
    Cut left = cut;
    if (!all) {
        place(work.parts, cut, tie_weight, shared, of_random, [&](u32 i, u64& weight, u32& tied) {
            weight += __ldcg(&work.weights[i]);
            if (cut.ties > 0) tied += work.ties[i];
        });
        // The part's tokens are all that is left.
        const u32 first = shared.item * PART;
        count = min(PART, row.vocab - first), left.ties = shared.ties;
        for (u32 i = threadIdx.x * FOUR; i < count; i += THREADS * FOUR) {
            u32 keys[FOUR];
            row.load(first + i, first + count, keys);
#pragma unroll
            for (u32 k = 0; k < FOUR; k++) shared.keys[i + k] = keys[k], shared.ids[i + k] = first + i + k;
        }
        __syncthreads();
    }
    const u64 goal = shared.left;
    const auto target = [&](u64 total) { return all ? of_random(total) : goal; };
    place(count, left, tie_weight, shared, target, [&](u32 i, u64& weight, u32& tied) {
        const u32 key = shared.keys[i];
        weight += key > cut.key ? row.weight(key) : 0;
        tied += key == cut.key;
    });
    return shared.ids[shared.item];
}

// Weighs the parts of the whole row, for a draw from what the cut leaves of it.
__device__ __forceinline__ void weigh_all(const Row& row, const Work& work, const Cut cut) {
    for (u32 part = threadIdx.x / WARP; part < work.parts; part += WARPS) {
        u64 weight = 0;
        u32 tied = 0;
        row.each(part * PART, min(part * PART + PART, row.vocab), WARP * FOUR, [&](u32 key) {
            weight += key > cut.key ? row.weight(key) : 0;
            tied += key == cut.key;
        });
        weight = sum_of(ALL_LANES, weight), tied = __reduce_add_sync(ALL_LANES, tied);
        if (threadIdx.x % WARP == 0) work.weights[part] = weight, work.ties[part] = tied;
    }
    __syncthreads();
}

// The token of a row that is not greedy, by one block.
__device__ __forceinline__ u32 drawn(const Row& row, const Work& work, const SampleRow& asked, Shared& shared) {
    Cut cut = {NONE, 0};
    u32 count = 0;
    bool all = false;
    if (asked.top_k > 0 || asked.parts > 0) {
        // The cut's digit, or one that is lower; that of all tokens that are not out, if nothing is found.
        u32 digit = 1;
        u64 missing = 0, enough = 0;
        if (asked.top_k > 0) {
            shared.by_digit.clear();
            for (u32 first = 0; first < work.tile_count; first += THREADS) {
                const u32 tile = first + threadIdx.x, of_tile = tile < work.tile_count ? row.digit(work.tiles[tile]) : 0;
                shared.by_digit.add(of_tile, of_tile > 0);
            }
        } else {
            for (u32 i = threadIdx.x; i < DIGITS; i += THREADS) shared.by_digit.sums[i].whole = __ldcg(&work.sums[i]);
        }
        __syncthreads();
        shared.by_digit.find(digit, missing, [&](u64 total) {
            return enough = asked.top_k > 0 ? asked.top_k : share(total, asked.parts);
        });
        // From it up, or, if these are too many, only of it: but then what lies above must be known.
        bool few;
#pragma unroll 1
        for (u32 to = DIGITS - 1;; to = digit) {
            count = gather(row, work, digit, to, shared);
            few = count <= MOST, all = few && to == DIGITS - 1;
            if (few || asked.top_k > 0 || to == digit) break;
        }
        if (few) cut = cut_of(Few{shared, count}, row, asked, all ? enough : missing, shared);
        if (!few) cut = cut_of(row, row, asked, enough, shared);
        if (!all) weigh_all(row, work, cut);
    }
    return draw(row, work, all, count, cut, asked.random, shared);
}

// What the last block must know of this block's parts: the weight of each, or of each digit. `keys`: of the first.
__device__ __forceinline__ void weigh(const Row& row, const Work& work, bool by_digit, u32 (&keys)[LOADS][FOUR],
                                      Shared& shared) {
    if (by_digit) shared.by_digit.clear();
    for (u32 part = blockIdx.x; part < work.parts; part += gridDim.x) {
        u32 next[LOADS][FOUR];
        load_part(row.logits, row.vocab, part + gridDim.x, next);
        u64 sum = 0;
#pragma unroll
        for (u32 i = 0; i < LOADS * FOUR; i++) {
            u32& key = keys[i / FOUR][i % FOUR];
            const float halvings = row.halvings(key);
            const u64 weight = weight_of(halvings);
            if (by_digit) shared.by_digit.add(digit_of(halvings), weight);
            sum += weight;
            key = next[i / FOUR][i % FOUR];
        }
        if (by_digit) continue;
        sum = shared.by_digit.run.sum(sum);
        if (threadIdx.x == 0) work.weights[part] = sum;
        __syncthreads();
    }
    if (!by_digit) return;
    __syncthreads();
    for (u32 i = threadIdx.x; i < DIGITS; i += THREADS) {
        const u64 sum = shared.by_digit.sums[i].whole;
        if (sum != 0) atomicAdd(&work.sums[i], sum);
    }
}

// Whether all other blocks of the row have come here before; what they wrote before can then be read.
__device__ __forceinline__ bool is_last(const Work& work) {
    __threadfence();
    __syncthreads();
    const bool last = __syncthreads_or(threadIdx.x == 0 && atomicAdd(work.done, 1) == gridDim.x - 1);
    __threadfence();
    return last;
}

// Step 1, of the `count` tokens from `first` on.
__device__ __forceinline__ void penalise(float* logits, u32 first, u32 count, const SampleRow& asked, const u32* history) {
    __shared__ u32 seen[PART / 32];
    for (u32 i = threadIdx.x; i < PART / 32; i += THREADS) seen[i] = 0;
    __syncthreads();
    for (u32 i = asked.history_begin + threadIdx.x; i < asked.history_end; i += THREADS) {
        const u32 at = history[i] - first, bit = 1u << at % 32;
        if (at >= count || atomicOr(&seen[at / 32], bit) & bit) continue;
        const float logit = logits[first + at];
        logits[first + at] = logit < 0.0f ? __fmul_rn(logit, asked.penalty) : __fdiv_rn(logit, asked.penalty);
    }
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sample_best(float* logits, const SampleRow* __restrict__ rows, const u32* __restrict__ history, u64* work, u32 vocab) {
    __shared__ u64 of_warps[WARPS];
    join_chain();
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float* row = row_of(logits, blockIdx.y, vocab);
    const Work at(work, vocab);
    // Most rows have no history, and to know that takes as long as to read the logits.
    u32 keys[LOADS][FOUR];
    load_part(row, vocab, blockIdx.x, keys);
    const SampleRow asked = rows[blockIdx.y];
    const bool penalised = asked.history_begin != asked.history_end;
    u64 best = 0;
    for (u32 part = blockIdx.x; part < at.parts; part += gridDim.x) {
        const u32 first = part * PART;
        u32 next[LOADS][FOUR];
        if (penalised) {
            penalise(row, first, min(PART, vocab - first), asked, history);
            load_part(row, vocab, part, keys);
        } else {
            load_part(row, vocab, part + gridDim.x, next);
        }
#pragma unroll
        for (u32 l = 0; l < LOADS; l++) {
            const u32 id = first + (l * THREADS + threadIdx.x) * FOUR;
            u64 of_four = 0;
#pragma unroll
            for (u32 i = 0; i < FOUR; i++) {
                of_four = max(of_four, key_and_id(keys[l][i], id + i));
                if (!penalised) keys[l][i] = next[l][i];
            }
            best = max(best, of_four);
            u32 key = of_four >> 32;
#pragma unroll
            for (u32 step = 1; step < TILE / FOUR; step *= 2) key = max(key, __shfl_xor_sync(ALL_LANES, key, step));
            if (id % TILE == 0 && id < vocab) at.tiles[id / TILE] = key;
        }
    }
    best = warp_max(best);
    if (lane == 0) of_warps[warp] = best;
    __syncthreads();
    best = warp_max(lane < WARPS ? of_warps[lane] : 0);
    if (threadIdx.x == 0) at.best[blockIdx.x] = best;
    // Where the other kernel's blocks add.
    if (threadIdx.x == 0 && blockIdx.x == 0) *at.done = 0;
    if (asked.top_k == 0 && asked.parts > 0) {
        for (u32 i = blockIdx.x * THREADS + threadIdx.x; i < DIGITS; i += gridDim.x * THREADS) at.sums[i] = 0;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sample_draw(const float* __restrict__ logits, const SampleRow* __restrict__ rows, u64* work, u32* __restrict__ tokens,
                u32 vocab) {
    __shared__ Shared shared;
    join_chain();
    const Work at(work, vocab);
    u64 best = 0;
    for (u32 i = threadIdx.x % WARP; i < gridDim.x; i += WARP) best = max(best, at.best[i]);
    const SampleRow asked = rows[blockIdx.y];
    // Only what needs every weight takes more than one block.
    if (asked.top_k > 0 && blockIdx.x > 0) return;
    Row row = {row_of(logits, blockIdx.y, vocab), vocab, 0.0f, asked.scale};
    u32 keys[LOADS][FOUR];
    if (asked.top_k == 0) load_part(row.logits, vocab, blockIdx.x, keys);
    best = warp_max(best);
    row.highest = logit_of(best >> 32);
    u32 token = ~static_cast<u32>(best);
    if (asked.top_k == 0) {
        weigh(row, at, asked.parts > 0, keys, shared);
        if (!is_last(at)) return;
    }
    if (asked.top_k != 1) token = drawn(row, at, asked, shared);
    if (threadIdx.x == 0) tokens[blockIdx.y] = token | (row.highest == -INFINITY ? NO_NUMBER : 0);
}
