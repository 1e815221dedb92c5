// A block's sums in shared memory: running sums over its threads, and sums by digit, which say at which digit a running sum
// comes to some amount.
#pragma once
#include "numbers.cuh"
#include "reduce.cuh"

// The warp's sum of what `lanes` have, below 2^51 each.
__device__ __forceinline__ u64 sum_of(u32 lanes, u64 value) {
    // Halves that 32 lanes cannot make overflow.
    const u64 low = __reduce_add_sync(lanes, static_cast<u32>(value) & 0xffffffu);
    const u64 high = __reduce_add_sync(lanes, static_cast<u32>(value >> 24));
    return (high << 24) + low;
}

// The running sum over the warp's lanes, the lane's own value included.
template <typename N> __device__ __forceinline__ N running(N value) {
#pragma unroll
    for (u32 step = 1; step < WARP; step *= 2) {
        const N before = __shfl_up_sync(ALL_LANES, value, step);
        if (threadIdx.x % WARP >= step) value += before;
    }
    return value;
}

// Of blocks of THREADS, whole warps.
template <u32 THREADS> struct RunningSum {
    u64 of_warps[THREADS / WARP];

    // The sum before this thread's value; `total` is all of it.
    template <typename N> __device__ __forceinline__ N before(N value, N& total) {
        const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const N in_warp = running(value);
        if (lane == WARP - 1) of_warps[warp] = in_warp;
        __syncthreads();
        const N of_warp = lane < THREADS / WARP ? static_cast<N>(of_warps[lane]) : 0, warps = running(of_warp);
        __syncthreads();
        total = __shfl_sync(ALL_LANES, warps, WARP - 1);
        return __shfl_sync(ALL_LANES, warps - of_warp, warp) + in_warp - value;
    }

    // The sum of values below 2^46, for thread 0. To be called once: a second call would write what slow warps still read.
    __device__ __forceinline__ u64 sum(u64 value) {
        value = sum_of(ALL_LANES, value);
        if (threadIdx.x % WARP == 0) of_warps[threadIdx.x / WARP] = value;
        __syncthreads();
        return sum_of(ALL_LANES, threadIdx.x < THREADS / WARP ? of_warps[threadIdx.x] : 0);
    }
};

// Sums by digit.
template <u32 THREADS, u32 DIGITS> struct DigitSums {
    // Added to by halves, the low one first: shared memory adds no u64 by itself.
    union {
        u64 whole;
        u32 halves[2];
    } sums[DIGITS];
    RunningSum<THREADS> run;
    u64 left;
    u32 found;

    __device__ __forceinline__ void clear() {
        for (u32 i = threadIdx.x; i < DIGITS; i += THREADS) sums[i].whole = 0;
        __syncthreads();
    }

    // For one thread.
    __device__ __forceinline__ void add_alone(u32 digit, u64 amount) {
        const u32 low = static_cast<u32>(amount), before = atomicAdd(&sums[digit].halves[0], low);
        const u32 high = static_cast<u32>(amount >> 32) + (before + low < low);
        if (high != 0) atomicAdd(&sums[digit].halves[1], high);
    }

    // For whole warps. Lanes that all have the same digit add up among themselves first: else those of a row of equal
    // numbers would queue at one address.
    __device__ __forceinline__ void add(u32 digit, u64 amount) {
        const u32 adding = __ballot_sync(ALL_LANES, amount != 0);
        if (amount == 0) return;
        const u32 first = __ffs(adding) - 1;
        const bool alike = __all_sync(adding, digit == __shfl_sync(adding, digit, first));
        if (alike) amount = sum_of(adding, amount);
        if (!alike || threadIdx.x % WARP == first) add_alone(digit, amount);
    }

    // The digit at which the running sum, from the highest, comes to `enough(total)`, and what is missing before it. False
    // if it never does.
    template <typename E> __device__ __forceinline__ bool find(u32& digit, u64& missing, E enough) {
        constexpr u32 EACH = DIGITS / THREADS;
        const u32 highest = DIGITS - 1 - EACH * threadIdx.x;
        u64 sum = 0, total;
#pragma unroll
        for (u32 i = 0; i < EACH; i++) sum += sums[highest - i].whole;
        const u64 before = run.before(sum, total);
        missing = enough(total);
        if (total < missing) return false;
        if (before < missing && missing <= before + sum) {
            u32 here = highest;
            missing -= before;
#pragma unroll 1
            for (; missing > sums[here].whole; here--) missing -= sums[here].whole;
            found = here, left = missing;
        }
        __syncthreads();
        digit = found, missing = left;
        return true;
    }
};
