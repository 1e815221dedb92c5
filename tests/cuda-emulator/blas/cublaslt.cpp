// cuBLASLt: descriptions of a product, its algorithms, and the product. There are three algorithms, which cut k in one,
// two or four parts and so differ in the last bits; the second and third want a workspace.
#include "gemm.h"
#include "../runtime/runtime.h"
#include <cstring>
#include <initializer_list>

using namespace emu;

namespace {

enum Attribute { POINTER_MODE = 2, TRANSPOSE_A = 3, TRANSPOSE_B = 4, TRANSPOSE_C = 5, EPILOGUE = 7, BIAS_POINTER = 8,
                 BIAS_STRIDE = 10, BIAS_TYPE = 26 };

struct Description {
    int compute, scale;
    uint64_t values[40];
};

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t leading;
    int batch = 1;
    int64_t stride = 0;
};

struct Preference {
    uint64_t workspace = 0;
};

// What cublasLtMatmulAlgo_t holds here. It is good for the kind of product that it was found for.
struct Algorithm {
    uint64_t mark, kind, parts, workspace, unused[4];
};
constexpr uint64_t our_mark = 0x454d55;

// cublasLtMatmulHeuristicResult_t
struct Result {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

uint64_t kind_of(const Description& d, const Layout& a, const Layout& b, const Layout& out) {
    return (uint64_t)d.compute << 40 | (uint64_t)a.type << 32 | (uint64_t)b.type << 24 | (uint64_t)out.type << 16
           | d.values[TRANSPOSE_A] << 8 | d.values[TRANSPOSE_B];
}

bool fits(const Description& d, const Layout& a, const Layout& b, const Layout& c, const Layout& out) {
    bool at = d.values[TRANSPOSE_A], bt = d.values[TRANSPOSE_B];
    uint64_t m = out.rows, n = out.columns, k = at ? a.rows : a.columns;
    return (at ? a.columns : a.rows) == m && (bt ? b.rows : b.columns) == n && (bt ? b.columns : b.rows) == k
           && c.rows == m && c.columns == n && a.batch == out.batch && b.batch == out.batch && c.batch == out.batch;
}

Matrix matrix(const void* begin, const Layout& layout, bool transposed) {
    return {(uint64_t)begin, layout.type, layout.leading, layout.stride, transposed};
}

} // namespace

extern "C" {

int cublasLtCreate(void** out) {
    CALL;
    *out = new int;
    return SUCCESS;
}
int cublasLtDestroy(void* handle) {
    delete (int*)handle;
    return SUCCESS;
}

int cublasLtMatmulDescCreate(Description** out, int compute, int scale) {
    *out = new Description{compute, scale, {}};
    (*out)->values[EPILOGUE] = 1;
    (*out)->values[BIAS_TYPE] = ~0ull;
    return SUCCESS;
}
int cublasLtMatmulDescDestroy(Description* description) {
    delete description;
    return SUCCESS;
}
int cublasLtMatmulDescSetAttribute(Description* description, int attribute, const void* value, size_t bytes) {
    if (attribute < 0 || attribute >= 40 || bytes > 8) return INVALID;
    uint64_t wide = 0;
    memcpy(&wide, value, bytes);
    switch (attribute) {
    case TRANSPOSE_C: case POINTER_MODE:
        if (wide) return UNSUPPORTED;
        break;
    case TRANSPOSE_A: case TRANSPOSE_B: case BIAS_POINTER: case BIAS_STRIDE: case BIAS_TYPE: break;
    case EPILOGUE:
        wide &= 0xffffffff; // cudarc gives the size of another type
        if (wide & ~(uint64_t)(1 | RELU | BIAS | GELU)) return UNSUPPORTED;
        break;
    default: emu_fail("cuBLASLt: the attribute %d of a product is not emulated", attribute);
    }
    description->values[attribute] = wide;
    return SUCCESS;
}

int cublasLtMatrixLayoutCreate(Layout** out, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    *out = new Layout{type, rows, columns, leading};
    return SUCCESS;
}
int cublasLtMatrixLayoutDestroy(Layout* layout) {
    delete layout;
    return SUCCESS;
}
int cublasLtMatrixLayoutSetAttribute(Layout* layout, int attribute, const void* value, size_t bytes) {
    constexpr int order = 1, batch = 5, stride = 6;
    int narrow = 0;
    if (bytes == 4) memcpy(&narrow, value, 4);
    if (attribute == batch && bytes == 4) layout->batch = narrow;
    else if (attribute == stride && bytes == 8) memcpy(&layout->stride, value, 8);
    else if (attribute != order || bytes != 4) return INVALID;
    else if (narrow) return UNSUPPORTED; // rows behind rows
    return SUCCESS;
}

int cublasLtMatmulPreferenceCreate(Preference** out) {
    *out = new Preference;
    return SUCCESS;
}
int cublasLtMatmulPreferenceDestroy(Preference* preference) {
    delete preference;
    return SUCCESS;
}
int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t bytes) {
    constexpr int most_workspace = 1;
    if (attribute == most_workspace && bytes == 8) memcpy(&preference->workspace, value, 8);
    return SUCCESS;
}

// Few columns have the two-part algorithm first, so that not all shapes prefer the same.
int cublasLtMatmulAlgoGetHeuristic(void*, Description* d, Layout* a, Layout* b, Layout* c, Layout* out,
                                   Preference* preference, int asked, Result* results, int* found) {
    CALL;
    *found = 0;
    if (asked < 1 || !fits(*d, *a, *b, *c, *out)) return INVALID;
    bool few = out->columns <= 4;
    for (int parts : {few ? 2 : 1, few ? 1 : 2, 4}) {
        size_t workspace = parts > 1 ? (size_t)parts * out->rows * out->columns * 4 * out->batch : 0;
        if (*found == asked || workspace > preference->workspace) continue;
        Result& result = results[(*found)++];
        result = {{our_mark, kind_of(*d, *a, *b, *out), (uint64_t)parts, workspace, {}}, workspace, SUCCESS, 1.0f, {}};
    }
    return *found ? SUCCESS : UNSUPPORTED;
}

int cublasLtMatmul(void*, Description* d, const void* alpha, const void* a, Layout* la, const void* b, Layout* lb,
                   const void* beta, const void* c, Layout* lc, void* out, Layout* lout, const Algorithm* algorithm,
                   void* workspace, size_t workspace_bytes, void* stream) {
    CALL;
    if (!fits(*d, *la, *lb, *lc, *lout)) return INVALID;
    Gemm gemm{};
    gemm.parts = 1;
    if (algorithm) {
        if (algorithm->mark != our_mark || algorithm->kind != kind_of(*d, *la, *lb, *lout)) return UNSUPPORTED;
        if (algorithm->workspace > workspace_bytes || (algorithm->workspace && !workspace)) return INVALID;
        gemm.parts = (int)algorithm->parts;
    }
    if ((uint64_t)workspace % 16) return INVALID;
    bool at = d->values[TRANSPOSE_A], bt = d->values[TRANSPOSE_B];
    gemm.m = lout->rows, gemm.n = lout->columns, gemm.k = at ? la->rows : la->columns, gemm.batch = lout->batch;
    gemm.a = matrix(a, *la, at), gemm.b = matrix(b, *lb, bt);
    gemm.c = matrix(c, *lc, false), gemm.d = matrix(out, *lout, false);
    gemm.alpha = scalar(alpha, d->scale), gemm.beta = scalar(beta, d->scale);
    gemm.epilogue = (int)d->values[EPILOGUE];
    gemm.bias = d->values[BIAS_POINTER], gemm.bias_stride = (int64_t)d->values[BIAS_STRIDE];
    gemm.bias_type = d->values[BIAS_TYPE] == ~0ull ? lout->type : (int)d->values[BIAS_TYPE];
    if ((gemm.epilogue & BIAS) && !gemm.bias) return INVALID;
    return enqueue(stream, "lt matmul", gemm);
}

REFUSED(cublasLtLoggerOpenFile)
REFUSED(cublasLtLoggerSetLevel)
}
