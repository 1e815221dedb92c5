// What one block makes of a row in shared memory: the tokens that may be drawn, and the cut that top-k and top-p make among
// them. Part of sample.cu; the steps named here are those of src/ops/sample.rs.
//
// A prefix of the order (top-k, top-p) is a `Cut`: its least key and how many tokens of that key it has, by rising id. The
// key is found by its own digits, from the highest: one pass sums the measures by digit, and the sums say in which digit the
// cut lies.
#pragma once
#include "digit_sums.cuh"
#include "sampling.cuh"

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
