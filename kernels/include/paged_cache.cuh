// Where the keys or values of a sequence lie in a paged cache `[blocks, kv_heads, block_size, head_dim]`.
#pragma once
#include "numbers.cuh"

struct PagedHead {
    const int32_t* blocks; // of the sequence, in the order of its positions, among less than 2^31 of all sequences
    u32 stride;            // between two of them: one for each sequence
    u32 shift;             // a block has 2^shift places
    u32 kv_head, kv_heads, head_dim;

    // The block of `position`.
    __device__ __forceinline__ u32 block(u32 position) const { return blocks[(position >> shift) * stride]; }

    // The row of a position in `block`, among all rows of the cache, which has less than 2^31.
    __device__ __forceinline__ u32 row(u32 block, u32 position) const {
        const u32 place = position & ((1u << shift) - 1);
        return ((block * kv_heads + kv_head) << shift) + place;
    }

    // The first number of `position`, counted from the start of the cache.
    __device__ __forceinline__ size_t at(u32 position) const { return in_block(block(position), position); }

    // The same, of a position in `block`.
    __device__ __forceinline__ size_t in_block(u32 block, u32 position) const {
        return static_cast<size_t>(row(block, position)) * head_dim;
    }
};

// The logarithm of a power of two.
__device__ __forceinline__ u32 log2_of(u32 power) { return __ffs(static_cast<int>(power)) - 1; }

// Softmax in powers of 2: e^x = 2^(x * LOG2_E), and 2^x is what the hardware has.
constexpr float LOG2_E = 1.4426950408889634f;
