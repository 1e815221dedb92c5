// A linear layer for few rows: out[r][j] = O(sum over i of weight[j][i] * input[r][i] + bias[j]).
//
//   weight [n, k] T    input [rows, k] T    bias [n] T, or null    out [rows, n] O, which is T or f32
//   k a multiple of 8; rows 1 for `one`, 1 to 8 for `few_8`, 1 to 16 for `few_16`
//
// Decoding reads every weight once a step and does little with it, so what counts is bytes in flight: the weights go past the
// first-level cache, several loads of a lane at a time. The first, which are nobody's result, are asked for before the kernel waits
// for those before it (include/chain.cuh): the memory works while those end.
//
// One row: a block makes 8 outputs, two groups of 4 warps 4 each. A lane loads 16 bytes of each of 4 weight rows and multiplies
// them with the input at the same place, in f32.
//
// More rows: multiplying them one by one takes longer than reading the weights, and tensor cores do it by the way
// (include/mma.cuh). A block makes 16 outputs, each of its 8 warps over an eighth of the inputs, 128 at a time. Lane c of four
// loads 8 inputs in a row of each 32, of weights and input alike; the first four of them are its share of one product, the others
// of the next, since the inputs of a sum may come in any order.
//
// The lanes' and warps' sums meet in shared memory. The order of a row's sum depends neither on the rows beside it nor, from two
// rows on, on how many there are.
//
// Launch: grid (ceil(n / 8)) for one row, else (ceil(n / 16)); 256 threads.
// Oracle: src/engine/cuda/kernels/gemv.rs `oracle`. Tolerance: one rounding to O and 8e-6 of the sum of the products'
// magnitudes.
// Bytes: reads n * k * 2 + rows * k * 2 + (bias ? n * 2 : 0), writes rows * n * sizeof(O).
#include "include/chain.cuh"
#include "include/mma.cuh"
#include "include/reduce.cuh"

constexpr u32 THREADS = 256;

// Of one row: outputs of a warp, warps that share them, and such groups of a block.
constexpr u32 OUTPUTS = 4;
constexpr u32 SPLIT = 4;
constexpr u32 GROUPS = 2;
static_assert(GROUPS * SPLIT * WARP == THREADS, "a block is its groups");

template <typename T, typename O>
__device__ __forceinline__ void one(const T* weight, const T* input, const T* bias, O* out, u32 n, u32 k) {
    const u32 lane = threadIdx.x % WARP, part = threadIdx.x / WARP % SPLIT, group = threadIdx.x / WARP / SPLIT;
    const u32 first = (blockIdx.x * GROUPS + group) * OUTPUTS;
    const uint4* weights[OUTPUTS];
#pragma unroll
    for (u32 o = 0; o < OUTPUTS; o++) {
        // Past the last output, its weights once more: their sums are not written.
        weights[o] = reinterpret_cast<const uint4*>(row_of(weight, min(first + o, n - 1), k));
    }
    constexpr u32 STRIDE = SPLIT * WARP;
    const u32 eighths = k / EIGHT, begin = part * WARP + lane;
    const auto load = [&](u32 eighth, uint4 (&to)[OUTPUTS]) {
#pragma unroll
        for (u32 o = 0; o < OUTPUTS; o++) to[o] = eighth < eighths ? load_once(weights[o] + eighth) : uint4{};
    };
    let_next_begin();
    uint4 first_two[2][OUTPUTS];
    load(begin, first_two[0]);
    load(begin + STRIDE, first_two[1]);
    await_previous_behind_loads(k == 0);

    float sums[OUTPUTS] = {};
    const auto add = [&](u32 eighth, const uint4 (&loaded)[OUTPUTS]) {
        if (eighth >= eighths) return;
        float x[EIGHT];
        load8(input + eighth * EIGHT, x);
#pragma unroll
        for (u32 o = 0; o < OUTPUTS; o++) {
            float w[EIGHT];
            unpack8<T>(loaded[o], w);
#pragma unroll
            for (u32 i = 0; i < EIGHT; i++) sums[o] += w[i] * x[i];
        }
    };
    add(begin, first_two[0]);
    add(begin + STRIDE, first_two[1]);
#pragma unroll 2
    for (u32 eighth = begin + 2 * STRIDE; eighth < eighths; eighth += STRIDE) {
        uint4 loaded[OUTPUTS];
        load(eighth, loaded);
        add(eighth, loaded);
    }

    __shared__ float of_warps[GROUPS][SPLIT][OUTPUTS];
    const float sum = warp_sums(sums);
    if (lane % (WARP / OUTPUTS) == 0) of_warps[group][part][lane / (WARP / OUTPUTS)] = sum;
    __syncthreads();
    if (part == 0 && lane < OUTPUTS && first + lane < n) {
        float total = bias ? to_f32(bias[first + lane]) : 0.0f;
#pragma unroll
        for (u32 p = 0; p < SPLIT; p++) total += of_warps[group][p][lane];
        out[first + lane] = rounded<O>(total);
    }
}

// Of more rows: outputs of a block, rows of one product, its warps, and how often four lanes load 32 inputs at a time.
constexpr u32 TILE = 16;
constexpr u32 TILE_ROWS = 8;
constexpr u32 WARPS = THREADS / WARP;
constexpr u32 PIECES = 4;
constexpr u32 PIECE = 4 * EIGHT;

template <u32 TILES, typename T, typename O>
__device__ __forceinline__ void few(const T* weight, const T* input, const T* bias, O* out, u32 rows, u32 n, u32 k) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    const u32 first = blockIdx.x * TILE;
    // A lane's two outputs.
    const T* const weights[2] = {row_of(weight, min(first + g, n - 1), k), row_of(weight, min(first + g + 8, n - 1), k)};
    const auto load = [&](const T* row, u32 at, bool there) -> uint4 {
        return there && at < k ? load_once(reinterpret_cast<const uint4*>(row + at)) : uint4{};
    };
    let_next_begin();
    u32 begin = warp * PIECES * PIECE;
    uint4 next[2][PIECES];
    const auto ask = [&](u32 from) {
#pragma unroll
        for (u32 p = 0; p < PIECES; p++) {
#pragma unroll
            for (u32 half = 0; half < 2; half++) next[half][p] = load(weights[half], from + p * PIECE + c * EIGHT, true);
        }
    };
    ask(begin);
    await_previous_behind_loads(k == 0);

    float sums[TILES][4] = {};
    for (; begin < k; begin += WARPS * PIECES * PIECE) {
        uint4 in[TILES][PIECES], loaded[2][PIECES];
#pragma unroll
        for (u32 p = 0; p < PIECES; p++) {
            const u32 at = begin + p * PIECE + c * EIGHT;
#pragma unroll
            for (u32 t = 0; t < TILES; t++) {
                const u32 row = t * TILE_ROWS + g;
                in[t][p] = row < rows && at < k ? *reinterpret_cast<const uint4*>(row_of(input, row, k) + at) : uint4{};
            }
            loaded[0][p] = next[0][p], loaded[1][p] = next[1][p];
        }
        ask(begin + WARPS * PIECES * PIECE);
#pragma unroll
        for (u32 p = 0; p < PIECES; p++) {
            const uint4 low = loaded[0][p], high = loaded[1][p];
            const u32 a[4] = {low.x, high.x, low.y, high.y}, a2[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
            for (u32 t = 0; t < TILES; t++) {
                const u32 b[2] = {in[t][p].x, in[t][p].y}, b2[2] = {in[t][p].z, in[t][p].w};
                mma<T>(sums[t], a, b);
                mma<T>(sums[t], a2, b2);
            }
        }
    }

    // A column more, so that the lanes of a warp write to different banks.
    __shared__ float of_warps[WARPS][TILES * TILE_ROWS][TILE + 1];
#pragma unroll
    for (u32 t = 0; t < TILES; t++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) of_warps[warp][t * TILE_ROWS + 2 * c + i % 2][g + i / 2 * 8] = sums[t][i];
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < rows * TILE; i += THREADS) {
        const u32 row = i / TILE, output = i % TILE;
        if (first + output >= n) continue;
        float total = bias ? to_f32(bias[first + output]) : 0.0f;
#pragma unroll
        for (u32 w = 0; w < WARPS; w++) total += of_warps[w][row][output];
        row_of(out, row, n)[first + output] = rounded<O>(total);
    }
}

#define GEMV(NAME, BLOCKS, T, O, CALL)                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                      \
        NAME(const T* __restrict__ weight, const T* __restrict__ input, const T* __restrict__ bias,                    \
             O* __restrict__ out, u32 rows, u32 n, u32 k) {                                                            \
        CALL;                                                                                                          \
    }
#define GEMV_ALL_ROWS(NAME, T, O)                                                                                      \
    GEMV(NAME##_one, 3, T, O, one(weight, input, bias, out, n, k))                                                     \
    GEMV(NAME##_few_8, 2, T, O, few<1>(weight, input, bias, out, rows, n, k))                                          \
    GEMV(NAME##_few_16, 2, T, O, few<2>(weight, input, bias, out, rows, n, k))
GEMV_ALL_ROWS(gemv_bf16, __nv_bfloat16, __nv_bfloat16)
GEMV_ALL_ROWS(gemv_f16, __half, __half)
GEMV_ALL_ROWS(gemv_bf16_f32, __nv_bfloat16, float)
GEMV_ALL_ROWS(gemv_f16_f32, __half, float)
