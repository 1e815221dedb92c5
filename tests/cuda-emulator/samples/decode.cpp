// One decode step of a small model with the three sample kernels, eagerly and by a captured graph, against a plain
// computation of the same. Prints the largest differences.
#include "cuda_calls.h"
#include <algorithm>
#include <cmath>
#include <cstring>

namespace {

constexpr int batch = 4, heads = 9, kv_heads = 3, head_dim = 64, page = 16, max_pages = 4, max_len = page * max_pages;
constexpr int hidden = heads * head_dim, pages = batch * max_pages, slot_size = kv_heads * head_dim;
constexpr int lengths[batch] = {1, 17, 40, 64};
constexpr float eps = 1e-5f, scale = 0.125f, base = 10000.f;

struct RopeShape {
    int heads, kv_heads, head_dim, page;
    float base;
};
struct AttentionShape {
    int heads, kv_heads, head_dim, page, max_pages, max_len;
    float scale;
};

uint16_t narrow(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
float widen(uint16_t bits) {
    uint32_t u = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
float rounded(float f) { return widen(narrow(f)); }

// Numbers of bfloat16 in (-1, 1), and where the device has them.
struct Tensor {
    std::vector<float> values;
    uint64_t at;

    explicit Tensor(int count) : values(count) {
        static uint64_t state = 88172645463325252ull;
        std::vector<uint16_t> bits;
        for (float& v : values) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            v = rounded(float(state >> 40) / float(1 << 23) - 1);
            bits.push_back(narrow(v));
        }
        at = upload(bits);
    }

    float difference() const {
        float most = 0;
        auto got = download<uint16_t>(at, values.size());
        for (size_t i = 0; i < got.size(); i++) {
            float d = std::fabs(widen(got[i]) - values[i]);
            most = std::isnan(d) ? INFINITY : std::max(most, d);
        }
        return most;
    }
};

struct Step {
    Tensor res{batch * hidden}, x{batch * hidden}, w{hidden}, normed{batch * hidden};
    Tensor q{batch * hidden}, k{batch * slot_size}, v{batch * slot_size};
    Tensor k_cache{pages * page * slot_size}, v_cache{pages * page * slot_size}, out{batch * hidden};
    std::vector<int32_t> table, positions;
    std::vector<int64_t> slots;
    uint64_t table_at, lengths_at, positions_at, slots_at;
    void* norm = kernel("norm", "add_rms_norm");
    void* rope = kernel("rope", "rope_into_cache");
    void* attention = kernel("attention", "paged_attention");

    Step() {
        for (int i = 0; i < pages; i++) table.push_back((i * 7 + 3) % pages);
        for (int i = 0; i < batch; i++) {
            positions.push_back(lengths[i] - 1);
            slots.push_back(slot(i, positions[i]));
        }
        table_at = upload(table), positions_at = upload(positions), slots_at = upload(slots);
        lengths_at = upload(std::vector<int32_t>(lengths, lengths + batch));
    }

    int64_t slot(int b, int p) const { return (int64_t)table[b * max_pages + p / page] * page + p % page; }

    void run(void* stream) const {
        OK(launch(norm, {batch}, 256, 0, stream, res.at, x.at, w.at, normed.at, hidden, eps));
        RopeShape r{heads, kv_heads, head_dim, page, base};
        OK(launch(rope, {batch, heads + kv_heads}, head_dim / 2, 0, stream, q.at, k.at, v.at, k_cache.at, v_cache.at,
                  positions_at, slots_at, r));
        AttentionShape a{heads, kv_heads, head_dim, page, max_pages, max_len, scale};
        OK(launch(attention, {heads, batch}, 128, (max_len + 4 * head_dim) * 4, stream, q.at, k_cache.at, v_cache.at,
                  out.at, table_at, lengths_at, a));
    }

    static void rotate(float* to, const float* from, int position) {
        constexpr int half = head_dim / 2;
        for (int i = 0; i < half; i++) {
            float angle = position * std::pow(base, -2.0f * i / head_dim), c = std::cos(angle), s = std::sin(angle);
            float x0 = from[i], x1 = from[i + half];
            to[i] = rounded(x0 * c - x1 * s), to[i + half] = rounded(x0 * s + x1 * c);
        }
    }

    void expect() {
        for (int b = 0; b < batch; b++) {
            float sum = 0;
            float* r = &res.values[b * hidden];
            for (int i = 0; i < hidden; i++) r[i] = rounded(r[i] + x.values[b * hidden + i]), sum += r[i] * r[i];
            float by = 1 / std::sqrt(sum / hidden + eps);
            for (int i = 0; i < hidden; i++) normed.values[b * hidden + i] = rounded(r[i] * by * w.values[i]);
            for (int h = 0; h < heads; h++) {
                float* at = &q.values[(b * heads + h) * head_dim];
                rotate(at, at, positions[b]);
            }
            for (int h = 0; h < kv_heads; h++) {
                int from = (b * kv_heads + h) * head_dim;
                int64_t to = (slots[b] * kv_heads + h) * head_dim;
                rotate(&k_cache.values[to], &k.values[from], positions[b]);
                std::copy_n(&v.values[from], head_dim, &v_cache.values[to]);
            }
            for (int h = 0; h < heads; h++) attend(b, h);
        }
    }

    void attend(int b, int h) {
        const float* query = &q.values[(b * heads + h) * head_dim];
        auto place = [&](int p) { return (slot(b, p) * kv_heads + h / (heads / kv_heads)) * head_dim; };
        std::vector<float> scores;
        float most = -INFINITY, sum = 0;
        for (int p = 0; p < lengths[b]; p++) {
            float s = 0;
            for (int i = 0; i < head_dim; i++) s += query[i] * k_cache.values[place(p) + i];
            scores.push_back(s * scale), most = std::max(most, s * scale);
        }
        for (float& s : scores) s = std::exp(s - most), sum += s;
        for (int i = 0; i < head_dim; i++) {
            float a = 0;
            for (int p = 0; p < lengths[b]; p++) a += scores[p] * v_cache.values[place(p) + i];
            out.values[(b * heads + h) * head_dim + i] = rounded(a / sum);
        }
    }
};

} // namespace

int main() {
    open_device();
    void* stream = new_stream();
    Step step;
    step.run(stream);
    step.expect();
    OK(cuStreamBeginCapture_v2(stream, 1));
    step.run(stream);
    void *graph, *executable;
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    for (int i = 0; i < 2; i++) OK(cuGraphLaunch(executable, stream));
    for (int i = 0; i < 2; i++) step.expect();
    OK(cuStreamSynchronize(stream));
    float norm = step.normed.difference(), attention = step.out.difference(), cache = step.k_cache.difference();
    printf("largest differences: norm %.4f, attention %.4f, cache %.4f\n", norm, attention, cache);
    float most = std::max({norm, attention, cache, step.v_cache.difference(), step.res.difference(), step.q.difference()});
    if (!(most < 0.02f)) wrong("more than rounding");
    printf("as expected\n");
}
