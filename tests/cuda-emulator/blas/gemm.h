// A matrix product as cuBLAS and cuBLASLt mean it: column-major D = alpha * op(A) * op(B) + beta * C, with what
// cuBLASLt may do to it at its end. Queued in a stream like any other work.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace emu {

// cudaDataType
enum Type { F32 = 0, F64 = 1, F16 = 2, I32 = 10, BF16 = 14 };

struct Matrix {
    uint64_t begin;
    int type;
    int64_t leading, stride; // between columns; between the matrices of a batch
    bool transposed = false;
};

// cublasLtEpilogue_t, which is a set of bits.
enum Epilogue { RELU = 2, BIAS = 4, GELU = 32 };

struct Gemm {
    int64_t m, n, k;
    int batch;
    Matrix a, b, c, d;
    double alpha, beta;
    int epilogue = 0;
    uint64_t bias = 0;
    int64_t bias_stride = 0;
    int bias_type = F32;
    int parts = 1; // k is cut in so many, each summed by itself: what differs between algorithms
};

enum Status { SUCCESS = 0, INVALID = 7, EXECUTION_FAILED = 13, UNSUPPORTED = 15 };

Status enqueue(void* stream, const char* what, const Gemm& gemm);

// Of a scalar, as a compute or scale type says.
double scalar(const void* at, int type);
size_t bytes_of(int type);

} // namespace emu

// The driver's.
extern "C" {
int emu_called(const char* call);
int emu_enqueue(void* stream, const char* what, void (*run)(void*), const void* argument, size_t bytes,
                const uint64_t* begins, const size_t* lengths, int number);
[[noreturn]] void emu_not_emulated(const char* name);
}

// Whether a test asked this call to fail.
#define CALL                                         \
    if (int code_ = emu_called(__func__)) return code_

// Functions that programs link, but do not call.
#define REFUSED(name)            \
    void name() {                \
        emu_not_emulated(#name); \
    }
