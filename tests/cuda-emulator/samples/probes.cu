// Small kernels that the scenarios launch, right and wrong ones.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

// out[i] = value.
extern "C" __global__ void fill(uint32_t* out, uint32_t value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = value;
}

// 16 bytes a thread.
extern "C" __global__ void copy_wide(uint4* out, const uint4* in, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = __ldg(in + i);
}

__device__ uint32_t calls;
__constant__ uint32_t table[4];

// Uses what the module has beside its kernels.
extern "C" __global__ void look_up(uint32_t* out, int i) {
    atomicAdd(&calls, 1u);
    *out = table[i];
}

// Every thread reads all of `in`.
extern "C" __global__ void sum_all(uint32_t* out, const uint32_t* in, int n) {
    uint32_t sum = 0;
    for (int i = 0; i < n; i++) sum += in[i];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// Reads and writes at offsets of its pointers, in and out of bounds.
extern "C" __global__ void poke(uint32_t* out, long write_at, const uint32_t* in, long read_at) {
    if (threadIdx.x == 0) out[write_at] = in[read_at] + 1;
}

// Each block adds to one place: plainly, which races, or atomically.
extern "C" __global__ void add_to_one(uint32_t* out, int atomically) {
    if (threadIdx.x) return;
    if (atomically) atomicAdd(out, blockIdx.x + 1);
    else *out += blockIdx.x + 1;
}

// A block writes what the one before it reads.
extern "C" __global__ void shift(uint32_t* at) {
    if (threadIdx.x == 0) at[blockIdx.x] = at[blockIdx.x + 1];
}

// The last block sums up what all have written: a fence and an atomic order them.
extern "C" __global__ void last_block_sums(uint32_t* parts, uint32_t* ticket, uint32_t* out) {
    if (threadIdx.x) return;
    parts[blockIdx.x] = blockIdx.x + 1;
    __threadfence();
    if (atomicAdd(ticket, 1u) != gridDim.x - 1) return;
    uint32_t sum = 0;
    for (unsigned i = 0; i < gridDim.x; i++) sum += parts[i];
    *out = sum;
}

// out[i] = in[i] + by[i], of which `in` is what the kernel before has written: it is read only when that has ended.
extern "C" __global__ void add_in_chain(uint32_t* out, const uint32_t* in, const uint32_t* by, int how) {
    const bool reads_early = how == 1, writes_early = how == 2, never_waits = how == 3;
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t sum = by[i];
    if (reads_early) sum += in[i];
    if (writes_early) out[i] = sum;
    if (!never_waits) emu_await();
    if (!reads_early) sum += in[i];
    out[i] = sum;
}

struct alignas(16) Brought {
    uint32_t number, rest[15];
};
static void reverse(Brought* lanes) {
    for (int i = 0; i < 16; i++) std::swap(lanes[i], lanes[31 - i]);
}

// Lanes below `lanes` hand over what they have, twice: what lane 31 had comes to lane 0.
extern "C" __global__ void hand_over(uint32_t* out, int lanes) {
    if ((int)threadIdx.x % 32 >= lanes) return;
    Brought own{threadIdx.x, {}};
    emu_together<Brought, reverse>(own);
    own.number += 100;
    emu_together<Brought, reverse>(own);
    out[threadIdx.x] = own.number;
}

// out[i] = in[i], for all 16 bits.
extern "C" __global__ void widen(float* out, const __half* in) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = __half2float(in[i]);
}

template <int N> __device__ float through_shared(const float* in, int lane) {
    static __shared__ float tile[N];
    for (int i = lane; i < N; i += 32) tile[i] = in[i];
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < N; i++) sum += tile[i];
    __syncthreads();
    return sum;
}

// What CUDA C++ of hand-written kernels says. Each result is a number that the scenario knows. One block of 32.
extern "C" __global__ void words(float* out, uint32_t* counts, const float* in) {
    extern __shared__ float4 first_name[];
    extern __shared__ __align__(16) unsigned char second_name[];
    int lane = threadIdx.x;
    auto put = [&](int i, float v) {
        if (lane == 0) out[i] = v;
    };
    float4 four = *reinterpret_cast<const float4*>(in);
    put(0, four.x + four.y + four.z + four.w); // 0 + 1 + 2 + 3
    __nv_bfloat162 pair = __float22bfloat162_rn(make_float2(1.5f, -2.f));
    float2 back = __bfloat1622float2(__halves2bfloat162(pair.y, pair.x));
    put(1, back.x - back.y); // -2 - 1.5
    __half2 halves = __floats2half2_rn(0.5f, 0.25f);
    put(2, __low2float(halves) + __half2float(__high2half(halves)));
    put(3, through_shared<64>(in, lane) + through_shared<32>(in, lane)); // 2016 + 496
    int from_right = __shfl_down_sync(0xffffffffu, lane, 1, 8);
    put(4, (float)from_right);
    put(5, (float)__shfl_xor_sync(0xffffffffu, lane, 31));
    put(6, (float)__popc(__ballot_sync(0xffffffffu, lane % 3 == 0)));
    put(7, (float)(__ffs(8) + __clz(1) + __popc(0xff)));
    put(8, (float)__umulhi(0x80000000u, 6u) + (float)__umul64hi(1ull << 63, 4ull));
    put(9, __fadd_rn(__fmul_rn(3.f, 4.f), __fdiv_rn(1.f, 4.f)) - __fsqrt_rn(4.f));
    put(10, __uint_as_float(__float_as_uint(2.5f) ^ 0x80000000u));
    constexpr int eight = 8;
    put(11, exp2f(3.f) - eight + __expf(0.f) + cosf(0.f) + sinf(0.f));
    first_name[lane] = make_float4(lane, 0, 0, 0);
    __syncwarp();
    float seen; // one memory under both names
    memcpy(&seen, second_name + 16 * (31 - lane), 4);
    put(12, seen);
    atomicAdd(counts, 2u);
    atomicAdd(reinterpret_cast<unsigned long long*>(counts + 2), 1ull << 33);
    atomicMax(counts + 4, (uint32_t)lane);
    atomicMin(reinterpret_cast<int*>(counts + 5), -lane);
    atomicAdd(out + 13, 0.5f);
    __shared__ int in_shared;
    if (lane == 0) in_shared = 0;
    __syncthreads();
    atomicAdd(&in_shared, 1);
    int everyone = __syncthreads_count(lane < 20);
    put(14, (float)(in_shared + everyone));
    put(15, (float)__reduce_add_sync(0xffffffffu, lane));
}
