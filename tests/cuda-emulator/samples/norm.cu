// Residual add and RMS norm: res += x; out = res * rsqrt(mean(res^2) + eps) * w. One block a row.
#include <cuda_bf16.h>

__device__ __forceinline__ float load(const __nv_bfloat16* p, int i) { return __bfloat162float(p[i]); }
__device__ __forceinline__ void store(__nv_bfloat16* p, int i, float v) { p[i] = __float2bfloat16(v); }

__device__ __forceinline__ float block_sum(float v) {
    __shared__ float part[32];
    __shared__ float total;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    if (lane == 0) part[warp] = v;
    __syncthreads();
    if (warp == 0) {
        v = lane < warps ? part[lane] : 0.f;
        for (int o = 16; o > 0; o >>= 1) v += __shfl_down_sync(0xffffffffu, v, o);
        if (lane == 0) total = v;
    }
    __syncthreads();
    return total;
}

extern "C" __global__ void __launch_bounds__(1024)
    add_rms_norm(__nv_bfloat16* res, const __nv_bfloat16* x, const __nv_bfloat16* w, __nv_bfloat16* out, int n, float eps) {
    __nv_bfloat16 *r = res + (size_t)blockIdx.x * n, *o = out + (size_t)blockIdx.x * n;
    const __nv_bfloat16* a = x + (size_t)blockIdx.x * n;
    float s = 0.f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        store(r, i, load(r, i) + load(a, i));
        float v = load(r, i);
        s += v * v;
    }
    float k = rsqrtf(block_sum(s) / n + eps);
    for (int i = threadIdx.x; i < n; i += blockDim.x) store(o, i, load(r, i) * k * load(w, i));
}
