// Turns rows of logits into tokens. The head of src/ops/sample.rs is the specification (its steps are named below), and the
// token is the same to the bit: floating point only in single operations that are never fused, sums of integers.
//
//   logits [rows, vocab] f32, the penalty is written into them    rows [rows] SampleRow    history: ids, of all rows
//   tokens [rows] u32, written    work [rows, see `Work`] u64, of any content    vocab 1 to 2^23
//
// Two kernels, of a block for each PART tokens of each row. One multiprocessor alone takes six times as long for a pass over
// a row as all of it takes together, so only what is few is left to one.
//   sample_best: the penalty, then the best token of each part and the best key of each TILE.
//   sample_draw: a greedy row's token is the best of the parts'. For top-k one block of the row goes on: tiles' best tokens
//     are tokens, so where k of them are, the cut is no lower. Else every block weighs its part, and the last one to finish
//     goes on: it knows the weight of each part, for a draw from all, or of each digit, for top-p.
// A digit says how many halvings a token is from the best, the higher the nearer. Tokens at or above the cut's digit are
// gathered in shared memory, from tiles that have one; there the cut is found, and the token drawn. If too many are (flat
// rows, ties), the one block takes the whole row instead: only those of the cut's digit if these fit, which is most often.
//
// A prefix of the order (top-k, top-p) is a `Cut`: its least key and how many tokens of that key it has, by rising id. The
// key is found by its own digits, from the highest: one pass sums the measures by digit in shared memory, and the sums say
// in which digit the cut lies. To draw, the threads take a run of tokens (or parts) each; sums of runs say in which the
// running sum exceeds the target.
//
// Launch: both grid (parts, rows), 512 threads.
// Oracle: src/ops/sample.rs `sample`. Tolerance: none.
// Bytes: reads rows * (vocab * 4 + 32) + ids of the histories * 4, writes rows * 4. `sample_best` reads the logits;
// `sample_draw` finds what it reads of them in the cache, as it does `work`, which is 4 % of the logits.
#include "include/digit_sums.cuh"
#include "include/sampling.cuh"

// Tokens that are gathered, at most: at least those of a part.
constexpr u32 MOST = 2048;
// Tiles that are listed, at most.
constexpr u32 LISTED = 1024;

struct Shared {
    DigitSums<THREADS, DIGITS> by_digit;
    // Tokens by rising id, and the tiles that they are gathered from.
    u32 keys[MOST], ids[MOST], tiles[LISTED];
    // Where a draw ends: the item, and what of the target and of the kept ties is left there.
    u64 left;
    u32 item, ties;
};

// The tokens whose key is above `key`, and the first `ties` of those whose key it is.
struct Cut {
    u32 key, ties;
};

// The gathered tokens.
struct Few {
    const Shared& shared;
    u32 count;

    template <typename F> __device__ __forceinline__ void each(F f) const {
#pragma unroll 1
        for (u32 i = threadIdx.x; i < (count + WARP - 1) / WARP * WARP; i += THREADS) {
            f(i < count ? shared.keys[i] : NONE);
        }
    }
};

// Step 7's share of a sum.
__device__ __forceinline__ u64 share(u64 total, u32 parts) {
    const u64 low = total * parts, high = __umul64hi(total, parts);
    return (high << 40 | low >> 24) + ((low & 0xffffffu) != 0);
}

// Steps 6 and 7: the shortest prefix of `kept` whose measures sum to `enough(total)`, or `kept` if there is none. Top-k
// measures every token that is not out as 1, top-p takes the weights. `from`: a Row or Few.
template <typename S, typename E>
__device__ __forceinline__ Cut prefix(const S& from, const Row& row, bool by_weight, const Cut kept, Shared& shared,
                                      E enough) {
    const auto measure = [&](u32 key) -> u64 {
        const float halvings = row.halvings(key);
        return by_weight ? weight_of(halvings) : halvings < OUT;
    };
    u32 known = 0, cut = 0;
    u64 missing = 0;
#pragma unroll 1
    for (u32 d = 0; d < 3; d++) {
        const u32 shift = d == 0 ? 21 : d == 1 ? 10 : 0, mask = d < 2 ? 0x7ff : 0x3ff;
        shared.by_digit.clear();
        from.each([&](u32 key) {
            const bool counts = key > kept.key && (key & known) == cut;
            shared.by_digit.add(key >> shift & mask, counts ? measure(key) : 0);
        });
        // Which tokens are the kept ties does not matter here, only how many.
        if (threadIdx.x == 0 && kept.ties > 0 && (kept.key & known) == cut) {
            shared.by_digit.add_alone(kept.key >> shift & mask, kept.ties * measure(kept.key));
        }
        __syncthreads();
        u32 digit;
        const auto amount = [&](u64 total) { return d == 0 ? enough(total) : missing; };
        if (!shared.by_digit.find(digit, missing, amount)) return kept;
        cut |= digit << shift;
        known |= mask << shift;
    }
    const u64 tie = measure(cut);
    return {cut, static_cast<u32>((missing + tie - 1) / tie)};
}

// All that is asked for; `enough` is top-p's sum if nothing else cuts.
template <typename S>
__device__ __forceinline__ Cut cut_of(const S& from, const Row& row, const SampleRow& asked, u64 enough, Shared& shared) {
    Cut cut = {NONE, 0};
#pragma unroll 1
    for (u32 step = 6; step <= 7; step++) {
        const bool by_weight = step == 7;
        if ((by_weight ? asked.parts : asked.top_k) == 0) continue;
        cut = prefix(from, row, by_weight, cut, shared, [&](u64 total) -> u64 {
            return !by_weight ? asked.top_k : asked.top_k > 0 ? share(total, asked.parts) : enough;
        });
    }
    return cut;
}

// Gathers the tokens of the digits `from` to `to`, by rising id; gives how many there are. More than MOST are not gathered.
__device__ __forceinline__ u32 gather(const Row& row, const Work& work, u32 from, u32 to, Shared& shared) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    // The tiles that may have one, unless these are too many to list: then all.
    const u32 own = (work.tile_count + THREADS - 1) / THREADS;
    const u32 begin = min(threadIdx.x * own, work.tile_count), end = min(begin + own, work.tile_count);
    u32 mine = 0, total;
    for (u32 tile = begin; tile < end; tile++) mine += row.digit(work.tiles[tile]) >= from;
    u32 at = shared.by_digit.run.before(mine, total);
    const bool all = total > LISTED;
    for (u32 tile = begin; tile < end && !all; tile++) {
        if (row.digit(work.tiles[tile]) >= from) shared.tiles[at++] = tile;
    }
    __syncthreads();
    // A run of them for each warp, two at a time.
    const u32 count = all ? work.tile_count : total, run = (count + 2 * WARPS - 1) / (2 * WARPS) * 2;
    const u32 first = min(warp * run, count), last = min(first + run, count);
    const auto load = [&](u32 pair, u32& id, u32(&keys)[FOUR]) {
        const u32 of_pair = pair + lane / (WARP / 2), tile = of_pair >= last ? 0 : all ? of_pair : shared.tiles[of_pair];
        id = tile * TILE + lane % (WARP / 2) * FOUR;
        row.load(id, of_pair < last ? row.vocab : 0, keys);
        u32 wanted = 0;
#pragma unroll
        for (u32 i = 0; i < FOUR; i++) {
            const u32 digit = row.digit(keys[i]);
            wanted |= (digit >= from && digit <= to) << i;
        }
        return wanted;
    };
    mine = 0;
    u32 id, keys[FOUR];
#pragma unroll 2
    for (u32 pair = first; pair < last; pair += 2) mine += __popc(load(pair, id, keys));
    mine = __reduce_add_sync(ALL_LANES, mine);
    at = __shfl_sync(ALL_LANES, shared.by_digit.run.before(lane == 0 ? mine : 0, total), 0);
    if (total > MOST) return total;
#pragma unroll 1
    for (u32 pair = first; pair < last; pair += 2) {
        const u32 wanted = load(pair, id, keys);
        u32 to = at;
#pragma unroll
        for (u32 i = 0; i < FOUR; i++) {
            const u32 lanes = __ballot_sync(ALL_LANES, wanted >> i & 1);
            at += __popc(lanes), to += __popc(lanes & ((1u << lane) - 1));
        }
#pragma unroll
        for (u32 i = 0; i < FOUR; i++) {
            if (wanted >> i & 1) shared.keys[to] = keys[i], shared.ids[to++] = id + i;
        }
    }
    __syncthreads();
    return total;
}

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
    if (threadIdx.x == 0) tokens[blockIdx.y] = token;
}
