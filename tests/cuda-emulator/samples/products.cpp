// Products by cuBLAS and cuBLASLt, of all types, shapes and algorithms, against sums in double; and how long one takes.
// With the argument `freed`, one of what was declared freed, which has to abort.
#include "cuda_calls.h"
#include <chrono>
#include <cmath>
#include <cstring>
#include <set>

extern "C" {
int cublasCreate_v2(void**);
int cublasSetStream_v2(void*, void*);
int cublasGemmStridedBatchedEx(void*, int, int, int, int, int, const void*, const void*, int, int, long long, const void*,
                               int, int, long long, const void*, void*, int, int, long long, int, int, int);
int cublasLtCreate(void**);
int cublasLtMatmulDescCreate(void**, int, int);
int cublasLtMatmulDescSetAttribute(void*, int, const void*, size_t);
int cublasLtMatrixLayoutCreate(void**, int, uint64_t, uint64_t, int64_t);
int cublasLtMatrixLayoutSetAttribute(void*, int, const void*, size_t);
int cublasLtMatmulPreferenceCreate(void**);
int cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t);
int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void*, int*);
int cublasLtMatmul(void*, void*, const void*, const void*, void*, const void*, void*, const void*, const void*, void*, void*,
                   void*, const void*, void*, size_t, void*);
}

namespace {

enum Type { F32 = 0, F16 = 2, BF16 = 14 };

size_t size_of(Type type) { return type == F32 ? 4 : 2; }

void store(std::vector<char>& to, size_t i, Type type, float v) {
    if (type == F32) {
        memcpy(&to[4 * i], &v, 4);
    } else if (type == F16) {
        _Float16 h = (_Float16)v;
        memcpy(&to[2 * i], &h, 2);
    } else {
        uint32_t u;
        memcpy(&u, &v, 4);
        uint16_t bits = (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
        memcpy(&to[2 * i], &bits, 2);
    }
}
float load(const std::vector<char>& from, size_t i, Type type) {
    float v;
    if (type == F32) {
        memcpy(&v, &from[4 * i], 4);
    } else if (type == F16) {
        _Float16 h;
        memcpy(&h, &from[2 * i], 2);
        v = (float)h;
    } else {
        uint16_t bits;
        memcpy(&bits, &from[2 * i], 2);
        uint32_t u = (uint32_t)bits << 16;
        memcpy(&v, &u, 4);
    }
    return v;
}

struct Matrix {
    Type type;
    int rows, columns, leading;
    std::vector<char> host;
    uint64_t at;

    Matrix(Type type, int rows, int columns, int batch = 1)
        : type(type), rows(rows), columns(columns), leading(rows + 3), host(stride() * batch * size_of(type)) {
        static uint64_t state = 7;
        for (size_t i = 0; i < host.size() / size_of(type); i++) {
            state = state * 6364136223846793005ull + 1442695040888963407ull;
            store(host, i, type, float(state >> 40) / float(1 << 24) - 0.5f);
        }
        at = upload(host);
    }
    long long stride() const { return (long long)leading * columns; }
    float value(int z, int r, int c) const { return load(host, z * stride() + r + (size_t)c * leading, type); }
};

struct Shape {
    int m, n, k, batch;
    bool at, bt;
};

// The largest difference of what `out` holds from alpha * op(a) * op(b) + beta * out + bias, rounded to its type.
float difference(const Shape& s, const Matrix& a, const Matrix& b, const Matrix& out, float alpha, float beta,
                 const Matrix* bias, bool relu) {
    auto got = download<char>(out.at, out.host.size());
    float most = 0;
    for (int z = 0; z < s.batch; z++)
        for (int j = 0; j < s.n; j++)
            for (int i = 0; i < s.m; i++) {
                double sum = 0;
                for (int l = 0; l < s.k; l++)
                    sum += (double)(s.at ? a.value(z, l, i) : a.value(z, i, l))
                         * (s.bt ? b.value(z, j, l) : b.value(z, l, j));
                double wanted = alpha * sum + beta * out.value(z, i, j) + (bias ? bias->value(0, i, 0) : 0);
                if (relu && wanted < 0) wanted = 0;
                float v = load(got, z * out.stride() + i + (size_t)j * out.leading, out.type);
                most = std::max(most, float(std::fabs(v - wanted) / (1 + std::fabs(wanted))));
            }
    return most;
}

void check(const char* what, const Shape& s, Type type, float by) {
    float most = type == F32 ? 2e-6f : type == F16 ? 1e-3f : 8e-3f;
    if (!(by < most)) wrong("%s, m %d n %d k %d batch %d, type %d: off by %g", what, s.m, s.n, s.k, s.batch, type, by);
}

struct Lt {
    void *handle, *description, *layouts[3], *preference;

    Lt(const Shape& s, const Matrix& a, const Matrix& b, const Matrix& out) {
        int transposed[2] = {s.at, s.bt};
        OK(cublasLtCreate(&handle));
        OK(cublasLtMatmulDescCreate(&description, 68, F32));
        OK(cublasLtMatmulDescSetAttribute(description, 3, &transposed[0], 4));
        OK(cublasLtMatmulDescSetAttribute(description, 4, &transposed[1], 4));
        const Matrix* all[3] = {&a, &b, &out};
        for (int i = 0; i < 3; i++) {
            int64_t stride = all[i]->stride();
            OK(cublasLtMatrixLayoutCreate(&layouts[i], all[i]->type, all[i]->rows, all[i]->columns, all[i]->leading));
            OK(cublasLtMatrixLayoutSetAttribute(layouts[i], 5, &s.batch, 4));
            OK(cublasLtMatrixLayoutSetAttribute(layouts[i], 6, &stride, 8));
        }
        uint64_t most = 1 << 20;
        OK(cublasLtMatmulPreferenceCreate(&preference));
        OK(cublasLtMatmulPreferenceSetAttribute(preference, 1, &most, 8));
    }
};

struct Found {
    uint64_t algorithm[8];
    size_t workspace;
    int rest[6];
};

void lt(const Shape& s, Type type, const Matrix& a, const Matrix& b) {
    Matrix out(type, s.m, s.n, s.batch), bias(type, s.m, 1);
    Lt lt(s, a, b, out);
    auto c = lt.layouts[2];
    Found found[4];
    int number;
    OK(cublasLtMatmulAlgoGetHeuristic(lt.handle, lt.description, lt.layouts[0], lt.layouts[1], c, c, lt.preference, 4, found,
                                      &number));
    if (number < 2) wrong("only %d algorithms", number);
    uint64_t workspace = device(1 << 20);
    std::set<std::vector<char>> results;
    for (int i = 0; i < number; i++)
        for (int epilogue : {1, 4, 6}) {
            float alpha = 0.5f, beta = epilogue == 1 ? 0.f : 2.f;
            OK(cublasLtMatmulDescSetAttribute(lt.description, 7, &epilogue, 4));
            OK(cublasLtMatmulDescSetAttribute(lt.description, 8, &bias.at, 8));
            OK(cuMemcpyHtoD_v2(out.at, out.host.data(), out.host.size()));
            OK(cublasLtMatmul(lt.handle, lt.description, &alpha, (void*)a.at, lt.layouts[0], (void*)b.at, lt.layouts[1],
                              &beta, (void*)out.at, c, (void*)out.at, c, found[i].algorithm, (void*)workspace,
                              found[i].workspace, nullptr));
            check("cublasLt", s, type, difference(s, a, b, out, alpha, beta, epilogue & 4 ? &bias : nullptr, epilogue & 2));
            if (epilogue == 1) results.insert(download<char>(out.at, out.host.size()));
        }
    if (s.k > 100 && type == F32 && results.size() < 2) wrong("all algorithms have the same bits");
}

void products(const Shape& s, Type type) {
    Matrix a(type, s.at ? s.k : s.m, s.at ? s.m : s.k, s.batch), b(type, s.bt ? s.n : s.k, s.bt ? s.k : s.n, s.batch);
    Matrix out(type, s.m, s.n, s.batch);
    void* handle;
    float alpha = 1.5f, beta = 0.5f;
    OK(cublasCreate_v2(&handle));
    OK(cublasGemmStridedBatchedEx(handle, s.at, s.bt, s.m, s.n, s.k, &alpha, (void*)a.at, type, a.leading, a.stride(),
                                  (void*)b.at, type, b.leading, b.stride(), &beta, (void*)out.at, type, out.leading,
                                  out.stride(), s.batch, 68, -1));
    check("cublas", s, type, difference(s, a, b, out, alpha, beta, nullptr, false));
    lt(s, type, a, b);
}

int square(void* handle, const Matrix& a, const Matrix& b, const Matrix& out) {
    float alpha = 1, beta = 0;
    return cublasGemmStridedBatchedEx(handle, 0, 0, 16, 16, 16, &alpha, (void*)a.at, F32, a.leading, 0, (void*)b.at, F32,
                                      b.leading, 0, &beta, (void*)out.at, F32, out.leading, 0, 1, 68, -1);
}

void failing(bool freed) {
    Matrix a(F32, 16, 16), b(F32, 16, 16), out(F32, 16, 16);
    void* handle;
    OK(cublasCreate_v2(&handle));
    OK(square(handle, a, b, out));
    emu_counts counts;
    emu_counters(&counts);
    if (counts.blas_calls == 0) wrong("products are not counted");
    if (freed) emu_declare(b.at, b.host.size(), EMU_FREED);
    OK(square(handle, a, b, out));
    emu_fail_next("cublasGemmStridedBatchedEx", 2, 14);
    OK(square(handle, a, b, out));
    RETURNS(14, square(handle, a, b, out));
    emu_fail_next("cublasGemmStridedBatchedEx", 1, 700); // the context is lost
    RETURNS(13, square(handle, a, b, out));
    RETURNS(13, square(handle, a, b, out));
    RETURNS(700, cuCtxSynchronize());
    emu_fail_next(nullptr, 0, 0);
    OK(cuCtxSynchronize());
}

// As a vocabulary of 49,152 and 40 rows of 576: weights as a language model has them, row by row.
void timed() {
    Shape s{49152, 40, 576, 1, true, false};
    Matrix a(BF16, s.k, s.m), b(BF16, s.k, s.n), out(BF16, s.m, s.n);
    void* handle;
    float alpha = 1, beta = 0;
    OK(cublasCreate_v2(&handle));
    auto began = std::chrono::steady_clock::now();
    OK(cublasGemmStridedBatchedEx(handle, 1, 0, s.m, s.n, s.k, &alpha, (void*)a.at, BF16, a.leading, 0, (void*)b.at, BF16,
                                  b.leading, 0, &beta, (void*)out.at, BF16, out.leading, 0, 1, 68, -1));
    OK(cuCtxSynchronize());
    double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    printf("%.1f billion products a second\n", (double)s.m * s.n * s.k / took / 1e9);
}

} // namespace

int main(int count, char**) {
    open_device();
    failing(count > 1);
    for (Type type : {F32, F16, BF16})
        for (Shape s : {Shape{7, 5, 19, 1, true, false}, {1, 1, 1, 1, false, false}, {64, 66, 130, 1, false, true},
                        {33, 3, 64, 3, true, true}, {5, 129, 40, 2, false, false}})
            products(s, type);
    timed();
    printf("as expected\n");
}
