// Sums over a warp and over a block. Their order depends on the block's size alone.
#pragma once
#include <stdint.h>

constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// The warp's sum, in every lane.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

// The warp's sums of `COUNT` values, a power of two up to 32: lanes i * 32 / COUNT and up get the i-th. At each step a lane
// gives half of its values away and takes its partner's of the other half, which is COUNT - 1 shuffles and not 5 * COUNT.
// Each sum is added up in the order of `warp_sum`, whatever COUNT is.
template <unsigned STEP = WARP / 2, unsigned COUNT>
__device__ __forceinline__ float warp_sums(const float (&values)[COUNT]) {
    if constexpr (STEP == 0) {
        static_assert(COUNT == 1, "a power of two, at most one value a lane");
        return values[0];
    } else if constexpr (COUNT == 1) {
        const float sum[1] = {values[0] + __shfl_xor_sync(ALL_LANES, values[0], STEP)};
        return warp_sums<STEP / 2>(sum);
    } else {
        constexpr unsigned LEFT = COUNT / 2;
        const bool upper = threadIdx.x & STEP;
        float sums[LEFT];
#pragma unroll
        for (unsigned i = 0; i < LEFT; i++) {
            const float kept = upper ? values[i + LEFT] : values[i], given = upper ? values[i] : values[i + LEFT];
            sums[i] = kept + __shfl_xor_sync(ALL_LANES, given, STEP);
        }
        return warp_sums<STEP / 2>(sums);
    }
}

// The block's sum, in every thread; the block is whole warps. To be called once in a kernel: a second call would write what
// slow warps still read of the first.
__device__ __forceinline__ float block_sum(float value) {
    __shared__ float of_warp[WARP];
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    value = warp_sum(value);
    if (lane == 0) of_warp[warp] = value;
    __syncthreads();
    // Every warp adds up all of them, which spares a second barrier.
    return warp_sum(lane < blockDim.x / WARP ? of_warp[lane] : 0.0f);
}
