// Token embeddings: x[r][i] = f32(table[ids[r]][i]).
//
//   table [vocab, hidden] T    ids [rows] u32, each below vocab    x [rows, hidden] f32
//
// Launch: grid (rows), 256 threads, each 8 numbers at a time.
// Oracle: src/engine/cuda/kernels/embed.rs `oracle`. Tolerance: none, widening is exact.
// Bytes: reads rows * (4 + hidden * 2), writes rows * hidden * 4.
#include "include/chain.cuh"
#include "include/numbers.cuh"

template <typename T> __device__ __forceinline__ void embed(const T* table, const u32* ids, float* x, u32 hidden) {
    join_chain();
    const T* from = row_of(table, ids[blockIdx.x], hidden);
    float* to = row_of(x, blockIdx.x, hidden);
    for (u32 i = threadIdx.x * EIGHT; i < hidden; i += blockDim.x * EIGHT) {
        float numbers[EIGHT];
        load_up_to_8(from, i, hidden, numbers);
        store_up_to_8(to, i, hidden, numbers);
    }
}

#define EMBED(NAME, T)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        NAME(const T* __restrict__ table, const u32* __restrict__ ids, float* __restrict__ x, u32 hidden) {            \
        embed(table, ids, x, hidden);                                                                                  \
    }
EMBED(embed_bf16, __nv_bfloat16)
EMBED(embed_f16, __half)
