// The product itself. Every element is a sum of eight lanes in one order, whatever the shape and the processor: a row's
// bits do not depend on how many rows there are, and are the same with and without AVX2.
#include "gemm.h"
#include "../runtime/runtime.h"
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace emu {
namespace {

#define WITH_AVX2 __attribute__((target("avx2,f16c")))
typedef float Lanes __attribute__((vector_size(32), aligned(4)));
constexpr int lanes = 8, rows_at_once = 4, columns_at_once = 2, columns_packed = 64;

inline float half_at(const void* p) {
    _Float16 h;
    memcpy(&h, p, 2);
    return (float)h;
}

inline float bfloat_at(const void* p) {
    uint16_t bits;
    memcpy(&bits, p, 2);
    uint32_t wide = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &wide, 4);
    return f;
}

// `count` elements, `step` apart, as floats. Inlined into its callers, so that each has it for its instruction set.
[[gnu::always_inline]] inline void widen_any(float* to, const char* from, int type, int64_t count, int64_t step) {
    switch (type) {
    case F32: for (int64_t i = 0; i < count; i++) memcpy(to + i, from + 4 * i * step, 4); break;
    case F16: for (int64_t i = 0; i < count; i++) to[i] = half_at(from + 2 * i * step); break;
    default: for (int64_t i = 0; i < count; i++) to[i] = bfloat_at(from + 2 * i * step);
    }
}

// Sums of `columns_at_once` columns of B with `rows_at_once` rows of A, `k` floats each. The rest of k that does not fill
// the lanes is filled with 0 by who packs.
[[gnu::always_inline]] inline void sum_any(const float* a, int64_t a_pitch, const float* b, int64_t pitch, int64_t k,
                                           float* sums) {
    Lanes total[rows_at_once][columns_at_once] = {};
    for (int64_t l = 0; l < k; l += lanes) {
        Lanes columns[columns_at_once];
        for (int j = 0; j < columns_at_once; j++) columns[j] = *(const Lanes*)(b + j * pitch + l);
        for (int i = 0; i < rows_at_once; i++) {
            Lanes row = *(const Lanes*)(a + i * a_pitch + l);
            for (int j = 0; j < columns_at_once; j++) total[i][j] += row * columns[j];
        }
    }
    for (int i = 0; i < rows_at_once; i++)
        for (int j = 0; j < columns_at_once; j++) {
            const Lanes& t = total[i][j];
            sums[i * columns_at_once + j] = ((t[0] + t[4]) + (t[1] + t[5])) + ((t[2] + t[6]) + (t[3] + t[7]));
        }
}

void widen_plain(float* to, const char* from, int type, int64_t count, int64_t step) {
    step == 1 ? widen_any(to, from, type, count, 1) : widen_any(to, from, type, count, step);
}
WITH_AVX2 void widen_avx2(float* to, const char* from, int type, int64_t count, int64_t step) {
    step == 1 ? widen_any(to, from, type, count, 1) : widen_any(to, from, type, count, step);
}
void sum_plain(const float* a, int64_t a_pitch, const float* b, int64_t pitch, int64_t k, float* sums) {
    sum_any(a, a_pitch, b, pitch, k, sums);
}
WITH_AVX2 void sum_avx2(const float* a, int64_t a_pitch, const float* b, int64_t pitch, int64_t k, float* sums) {
    sum_any(a, a_pitch, b, pitch, k, sums);
}

const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
const auto widen = has_avx2 ? widen_avx2 : widen_plain;
const auto sum = has_avx2 ? sum_avx2 : sum_plain;

double load(uint64_t begin, int64_t i, int type) {
    const char* p = (const char*)begin;
    switch (type) {
    case F32: return ((const float*)p)[i];
    case F64: return ((const double*)p)[i];
    case F16: return half_at(p + 2 * i);
    default: return bfloat_at(p + 2 * i);
    }
}

void store(uint64_t begin, int64_t i, int type, double value) {
    char* p = (char*)begin;
    float f = (float)value;
    if (type == F64) {
        ((double*)p)[i] = value;
    } else if (type == F32) {
        ((float*)p)[i] = f;
    } else if (type == F16) {
        _Float16 h = (_Float16)f;
        memcpy(p + 2 * i, &h, 2);
    } else {
        uint32_t u;
        memcpy(&u, &f, 4);
        ((uint16_t*)p)[i] = (u & 0x7fffffff) > 0x7f800000 ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16;
    }
}

// `Real` is what the product is computed in: all steps round to it.
template <class Real> void finish(const Gemm& g, int z, int64_t i, int64_t j, Real product) {
    Real value = (Real)g.alpha * product;
    uint64_t c = g.c.begin + z * g.c.stride * bytes_of(g.c.type), d = g.d.begin + z * g.d.stride * bytes_of(g.d.type);
    if (g.beta != 0) value += (Real)g.beta * (Real)load(c, i + j * g.c.leading, g.c.type);
    if (g.epilogue & BIAS)
        value += (Real)load(g.bias + z * g.bias_stride * bytes_of(g.bias_type), i, g.bias_type);
    if (g.epilogue & RELU) value = value > 0 ? value : 0;
    if (g.epilogue & GELU)
        value = Real(0.5) * value * (1 + std::tanh(Real(0.7978845608) * (value + Real(0.044715) * value * value * value)));
    store(d, i + j * g.d.leading, g.d.type, value);
}

// Where k is cut: `parts` pieces, whole lanes each. Each is packed by itself, so that its end is filled with 0.
struct Cut {
    int64_t from, count, room;
};
std::vector<Cut> cuts(const Gemm& g) {
    std::vector<Cut> all;
    int64_t piece = ((g.k + g.parts - 1) / g.parts + lanes - 1) / lanes * lanes;
    for (int64_t from = 0; from < g.k; from += piece) {
        int64_t count = std::min(piece, g.k - from);
        all.push_back({from, count, (count + lanes - 1) / lanes * lanes});
    }
    return all;
}

// `count` rows of op(A), or columns of op(B), each as `pitch` floats: its cuts, one behind the other.
void pack(float* to, const Matrix& matrix, uint64_t begin, bool contiguous, int64_t first, int64_t count, int64_t pitch,
          const std::vector<Cut>& all) {
    size_t size = bytes_of(matrix.type);
    memset(to, 0, count * pitch * sizeof(float));
    for (int64_t i = 0; i < count; i++) {
        float* at = to + i * pitch;
        for (const Cut& cut : all) {
            int64_t offset = contiguous ? (first + i) * matrix.leading + cut.from : first + i + cut.from * matrix.leading;
            widen(at, (const char*)begin + offset * size, matrix.type, cut.count, contiguous ? 1 : matrix.leading);
            at += cut.room;
        }
    }
}

void multiply_floats(const Gemm& g) {
    auto all = cuts(g);
    int64_t pitch = 0;
    for (const Cut& cut : all) pitch += cut.room;
    auto up = [](int64_t n, int64_t to) { return (n + to - 1) / to * to; };
    // Rows of floats one behind the other are read where they are.
    bool in_place = g.a.type == F32 && g.a.transposed && g.k == pitch && all.size() == 1;
    std::vector<float> columns(up(columns_packed, columns_at_once) * pitch), rows(rows_at_once * pitch);
    for (int z = 0; z < g.batch; z++) {
        uint64_t a = g.a.begin + z * g.a.stride * bytes_of(g.a.type), b = g.b.begin + z * g.b.stride * bytes_of(g.b.type);
        for (int64_t j0 = 0; j0 < g.n; j0 += columns_packed) {
            int64_t n = std::min<int64_t>(columns_packed, g.n - j0);
            pack(columns.data(), g.b, b, !g.b.transposed, j0, n, pitch, all);
            for (int64_t i0 = 0; i0 < g.m; i0 += rows_at_once) {
                int64_t m = std::min<int64_t>(rows_at_once, g.m - i0);
                const float* row = rows.data();
                int64_t row_pitch = pitch;
                if (in_place && m == rows_at_once) row = (const float*)a + i0 * g.a.leading, row_pitch = g.a.leading;
                else pack(rows.data(), g.a, a, g.a.transposed, i0, m, pitch, all);
                for (int64_t j = 0; j < n; j += columns_at_once) {
                    float product[rows_at_once * columns_at_once] = {}, part[rows_at_once * columns_at_once];
                    int64_t at = 0;
                    for (const Cut& cut : all) {
                        sum(row + at, row_pitch, &columns[j * pitch + at], pitch, cut.room, part);
                        for (int x = 0; x < rows_at_once * columns_at_once; x++) product[x] += part[x];
                        at += cut.room;
                    }
                    for (int64_t i = 0; i < m; i++)
                        for (int64_t jj = 0; jj < std::min<int64_t>(columns_at_once, n - j); jj++)
                            finish<float>(g, z, i0 + i, j0 + j + jj, product[i * columns_at_once + jj]);
                }
            }
        }
    }
}

void multiply_doubles(const Gemm& g) {
    for (int z = 0; z < g.batch; z++) {
        uint64_t a = g.a.begin + z * g.a.stride * 8, b = g.b.begin + z * g.b.stride * 8;
        for (int64_t j = 0; j < g.n; j++)
            for (int64_t i = 0; i < g.m; i++) {
                double product = 0;
                for (int64_t l = 0; l < g.k; l++)
                    product += load(a, g.a.transposed ? l + i * g.a.leading : i + l * g.a.leading, F64)
                             * load(b, g.b.transposed ? j + l * g.b.leading : l + j * g.b.leading, F64);
                finish<double>(g, z, i, j, product);
            }
    }
}

void multiply(void* argument) {
    auto& gemm = *(const Gemm*)argument;
    gemm.a.type == F64 ? multiply_doubles(gemm) : multiply_floats(gemm);
}

} // namespace

size_t bytes_of(int type) {
    switch (type) {
    case F32: return 4;
    case F64: return 8;
    case F16: case BF16: return 2;
    default: emu_fail("a matrix of the data type %d is not emulated", type);
    }
}

double scalar(const void* at, int type) {
    return load((uint64_t)at, 0, type);
}

Status enqueue(void* stream, const char* what, const Gemm& g) {
    int64_t a_rows = g.a.transposed ? g.k : g.m, a_columns = g.a.transposed ? g.m : g.k;
    int64_t b_rows = g.b.transposed ? g.n : g.k, b_columns = g.b.transposed ? g.k : g.n;
    if (g.m < 0 || g.n < 0 || g.k < 0 || g.batch < 0) return INVALID;
    if (g.a.leading < a_rows || g.b.leading < b_rows || g.c.leading < g.m || g.d.leading < g.m) return INVALID;
    if ((g.a.type == F64) != (g.b.type == F64)) return UNSUPPORTED;
    if (!g.m || !g.n || !g.batch) return SUCCESS;
    auto extent = [&](const Matrix& matrix, int64_t rows, int64_t columns) {
        if (!rows || !columns) return size_t(0);
        return size_t((g.batch - 1) * matrix.stride + matrix.leading * (columns - 1) + rows) * bytes_of(matrix.type);
    };
    uint64_t begins[] = {g.a.begin, g.b.begin, g.c.begin, g.d.begin, g.bias};
    size_t lengths[] = {extent(g.a, a_rows, a_columns), extent(g.b, b_rows, b_columns),
                        g.beta != 0 ? extent(g.c, g.m, g.n) : 0, extent(g.d, g.m, g.n),
                        g.epilogue & BIAS ? ((g.batch - 1) * g.bias_stride + g.m) * bytes_of(g.bias_type) : 0};
    return emu_enqueue(stream, what, multiply, &g, sizeof g, begins, lengths, 5) ? EXECUTION_FAILED : SUCCESS;
}

} // namespace emu
