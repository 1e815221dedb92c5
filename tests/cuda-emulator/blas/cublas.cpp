// cuBLAS, as far as cudarc and candle use it: products of single matrices and of strided batches.
#include "gemm.h"

using namespace emu;

namespace {

struct Handle {
    void* stream = nullptr;
};

// The type of alpha and beta.
int scale_type(int compute) {
    switch (compute) {
    case 64: case 65: return F16;
    case 70: case 71: return F64;
    default: return F32;
    }
}

int product(Handle* handle, int at, int bt, int m, int n, int k, const void* alpha, Matrix a, Matrix b, const void* beta,
            Matrix c, int batch, int compute) {
    a.transposed = at != 0, b.transposed = bt != 0;
    int scale = scale_type(compute);
    return enqueue(handle->stream, "gemm",
                   Gemm{m, n, k, batch, a, b, c, c, scalar(alpha, scale), scalar(beta, scale)});
}

constexpr int compute_f32 = 68, compute_f64 = 70;

} // namespace

extern "C" {

int cublasCreate_v2(Handle** out) {
    CALL;
    *out = new Handle;
    return SUCCESS;
}
int cublasDestroy_v2(Handle* handle) {
    delete handle;
    return SUCCESS;
}
int cublasSetStream_v2(Handle* handle, void* stream) {
    handle->stream = stream;
    return SUCCESS;
}
int cublasGetStream_v2(Handle* handle, void** stream) {
    *stream = handle->stream;
    return SUCCESS;
}
int cublasSetWorkspace_v2(Handle*, void*, size_t) {
    return SUCCESS;
}
int cublasSetMathMode(Handle*, int) {
    return SUCCESS;
}
int cublasGetVersion_v2(Handle*, int* version) {
    *version = 130000;
    return SUCCESS;
}

int cublasGemmStridedBatchedEx(Handle* handle, int at, int bt, int m, int n, int k, const void* alpha, const void* a,
                               int a_type, int lda, long long a_stride, const void* b, int b_type, int ldb,
                               long long b_stride, const void* beta, void* c, int c_type, int ldc, long long c_stride,
                               int batch, int compute, int) {
    CALL;
    return product(handle, at, bt, m, n, k, alpha, {(uint64_t)a, a_type, lda, a_stride},
                   {(uint64_t)b, b_type, ldb, b_stride}, beta, {(uint64_t)c, c_type, ldc, c_stride}, batch, compute);
}
int cublasGemmEx(Handle* handle, int at, int bt, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda,
                 const void* b, int b_type, int ldb, const void* beta, void* c, int c_type, int ldc, int compute, int) {
    CALL;
    return product(handle, at, bt, m, n, k, alpha, {(uint64_t)a, a_type, lda, 0}, {(uint64_t)b, b_type, ldb, 0}, beta,
                   {(uint64_t)c, c_type, ldc, 0}, 1, compute);
}
int cublasSgemm_v2(Handle* handle, int at, int bt, int m, int n, int k, const float* alpha, const float* a, int lda,
                   const float* b, int ldb, const float* beta, float* c, int ldc) {
    CALL;
    return product(handle, at, bt, m, n, k, alpha, {(uint64_t)a, F32, lda, 0}, {(uint64_t)b, F32, ldb, 0}, beta,
                   {(uint64_t)c, F32, ldc, 0}, 1, compute_f32);
}
int cublasSgemmStridedBatched(Handle* handle, int at, int bt, int m, int n, int k, const float* alpha, const float* a,
                              int lda, long long a_stride, const float* b, int ldb, long long b_stride, const float* beta,
                              float* c, int ldc, long long c_stride, int batch) {
    CALL;
    return product(handle, at, bt, m, n, k, alpha, {(uint64_t)a, F32, lda, a_stride}, {(uint64_t)b, F32, ldb, b_stride},
                   beta, {(uint64_t)c, F32, ldc, c_stride}, batch, compute_f32);
}
int cublasDgemm_v2(Handle* handle, int at, int bt, int m, int n, int k, const double* alpha, const double* a, int lda,
                   const double* b, int ldb, const double* beta, double* c, int ldc) {
    CALL;
    return product(handle, at, bt, m, n, k, alpha, {(uint64_t)a, F64, lda, 0}, {(uint64_t)b, F64, ldb, 0}, beta,
                   {(uint64_t)c, F64, ldc, 0}, 1, compute_f64);
}
int cublasDgemmStridedBatched(Handle* handle, int at, int bt, int m, int n, int k, const double* alpha, const double* a,
                              int lda, long long a_stride, const double* b, int ldb, long long b_stride,
                              const double* beta, double* c, int ldc, long long c_stride, int batch) {
    CALL;
    return product(handle, at, bt, m, n, k, alpha, {(uint64_t)a, F64, lda, a_stride}, {(uint64_t)b, F64, ldb, b_stride},
                   beta, {(uint64_t)c, F64, ldc, c_stride}, batch, compute_f64);
}

REFUSED(cublasDasum_v2)
REFUSED(cublasDgemv_v2)
REFUSED(cublasGemmGroupedBatchedEx)
REFUSED(cublasGetPointerMode_v2)
REFUSED(cublasSasum_v2)
REFUSED(cublasSetPointerMode_v2)
REFUSED(cublasSgemv_v2)
}
