// Attention of one new token over a paged cache. Grid (heads, batch), block 128: four warps. Dynamic shared memory:
// scores[max_len], sums[4][head_dim].
#include <cuda_bf16.h>
#include <stdint.h>

struct AttentionShape {
    int heads, kv_heads, head_dim, page, max_pages, max_len;
    float scale;
};

extern "C" __global__ void __launch_bounds__(128)
    paged_attention(const __nv_bfloat16* q, const __nv_bfloat16* k_cache, const __nv_bfloat16* v_cache, __nv_bfloat16* out,
                    const int32_t* table, const int32_t* lengths, AttentionShape d) {
    extern __shared__ float dynamic[];
    __shared__ float part[4];
    __shared__ float query[256];
    float *scores = dynamic, *sums = dynamic + d.max_len;
    int h = blockIdx.x, b = blockIdx.y, tid = threadIdx.x, lane = tid & 31, w = tid >> 5, hd = d.head_dim;
    int kv = h / (d.heads / d.kv_heads), len = lengths[b];
    auto place = [&](int p) {
        size_t slot = (size_t)table[b * d.max_pages + p / d.page] * d.page + p % d.page;
        return (slot * d.kv_heads + kv) * hd;
    };
    for (int i = tid; i < hd; i += blockDim.x) query[i] = __bfloat162float(q[((size_t)b * d.heads + h) * hd + i]);
    __syncthreads();
    float most = -INFINITY;
    for (int p = w; p < len; p += 4) { // one warp a position
        size_t at = place(p);
        float s = 0.f;
        for (int i = lane; i < hd; i += 32) s += query[i] * __bfloat162float(k_cache[at + i]);
        for (int o = 16; o > 0; o >>= 1) s += __shfl_xor_sync(0xffffffffu, s, o);
        s *= d.scale;
        if (lane == 0) scores[p] = s;
        most = fmaxf(most, s);
    }
    if (lane == 0) part[w] = most;
    __syncthreads();
    most = fmaxf(fmaxf(part[0], part[1]), fmaxf(part[2], part[3]));
    __syncthreads(); // part is used again
    float sum = 0.f;
    for (int p = tid; p < len; p += blockDim.x) {
        float e = __expf(scores[p] - most);
        scores[p] = e;
        sum += e;
    }
    for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    if (lane == 0) part[w] = sum;
    __syncthreads();
    sum = part[0] + part[1] + part[2] + part[3];
    for (int i = lane; i < hd; i += 32) {
        float a = 0.f;
        for (int p = w; p < len; p += 4) a += scores[p] * __bfloat162float(v_cache[place(p) + i]);
        sums[w * hd + i] = a;
    }
    __syncthreads();
    for (int i = tid; i < hd; i += blockDim.x) {
        float a = sums[i] + sums[hd + i] + sums[2 * hd + i] + sums[3 * hd + i];
        out[((size_t)b * d.heads + h) * hd + i] = __float2bfloat16(a / sum);
    }
}
