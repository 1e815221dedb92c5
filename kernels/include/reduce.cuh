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
