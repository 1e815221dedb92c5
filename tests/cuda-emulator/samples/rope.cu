// RoPE on q in place and on k, then k and v into a paged cache. Grid (tokens, heads + kv_heads), block head_dim / 2.
#include <cuda_bf16.h>
#include <stdint.h>

struct RopeShape {
    int heads, kv_heads, head_dim, page;
    float base;
};

extern "C" __global__ void rope_into_cache(__nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v,
                                           __nv_bfloat16* k_cache, __nv_bfloat16* v_cache, const int32_t* positions,
                                           const int64_t* slots, RopeShape d) {
    int t = blockIdx.x, h = blockIdx.y, i = threadIdx.x, half = d.head_dim / 2;
    if (i >= half) return;
    float angle = positions[t] * powf(d.base, -2.0f * i / d.head_dim), c = cosf(angle), s = sinf(angle);
    if (h < d.heads) {
        __nv_bfloat16* p = q + ((size_t)t * d.heads + h) * d.head_dim;
        float x0 = __bfloat162float(p[i]), x1 = __bfloat162float(p[i + half]);
        p[i] = __float2bfloat16(x0 * c - x1 * s);
        p[i + half] = __float2bfloat16(x0 * s + x1 * c);
        return;
    }
    int64_t slot = slots[t];
    if (slot < 0) return;
    int kv = h - d.heads;
    size_t from = ((size_t)t * d.kv_heads + kv) * d.head_dim, to = (slot * d.kv_heads + kv) * d.head_dim;
    float x0 = __bfloat162float(k[from + i]), x1 = __bfloat162float(k[from + i + half]);
    k_cache[to + i] = __float2bfloat16(x0 * c - x1 * s);
    k_cache[to + i + half] = __float2bfloat16(x0 * s + x1 * c);
    v_cache[to + i] = v[from + i];
    v_cache[to + i + half] = v[from + i + half];
}
