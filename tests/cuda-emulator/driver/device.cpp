// The one device and its one context.
#include "driver.h"

namespace emu {

std::recursive_mutex everything;

namespace {
bool initialized;
int retained;
__thread int current; // whether the calling thread has the context
void* const context = (void*)0x1000;
} // namespace

const bool trace = setting("EMU_TRACE", false);

bool setting(const char* name, bool otherwise) {
    return emu_setting(name, otherwise) != 0;
}

CUresult called(const char* name, bool anyway) {
    if (trace) fprintf(stderr, "emu: %s\n", name);
    if (CUresult code = injected(name)) return code;
    if (anyway) return OK;
    if (!initialized) return NOT_INITIALIZED;
    if (!current) return INVALID_CONTEXT;
    return lost_with();
}

} // namespace emu

using namespace emu;

extern "C" {

[[noreturn]] void emu_not_emulated(const char* name) {
    fprintf(stderr, "EMU: the call %s is not emulated\n", name);
    abort();
}

CUresult cuInit(unsigned) {
    CALL_ANYWAY;
    initialized = true;
    return OK;
}
CUresult cuDriverGetVersion(int* version) {
    *version = 13000;
    return OK;
}
CUresult cuDeviceGetCount(int* count) {
    CALL_ANYWAY;
    if (!initialized) return NOT_INITIALIZED;
    *count = 1;
    return OK;
}
CUresult cuDeviceGet(int* device, int ordinal) {
    CALL_ANYWAY;
    if (!initialized) return NOT_INITIALIZED;
    if (ordinal) return INVALID_DEVICE;
    *device = 0;
    return OK;
}
CUresult cuDeviceGetName(char* name, int room, int) {
    snprintf(name, room, "CPU test double (no GPU)");
    return OK;
}
CUresult cuDeviceGetUuid_v2(char* uuid, int) {
    memcpy(uuid, "emulated-device", 16);
    return OK;
}

// Those of an H100, as far as they mean anything here.
CUresult cuDeviceGetAttribute(int* value, int attribute, int) {
    static const std::map<int, int> values = {
        {1, 1024},        // threads in a block
        {2, 1024}, {3, 1024}, {4, 64}, {5, 0x7fffffff}, {6, 65535}, {7, 65535},
        {8, 49152},       // shared memory of a block
        {9, 65536},       // constant memory
        {10, 32},         // warp
        {12, 65536},      // registers of a block
        {13, 1980000},    // clock, kHz
        {16, 132},        // multiprocessors
        {18, 0},          // integrated
        {31, 1},          // concurrent kernels
        {36, 2619000}, {37, 5120}, {38, 50 << 20}, // memory clock, bus, L2
        {39, 2048},       // threads of a multiprocessor
        {40, 3},          // copy engines
        {41, 1},          // unified addresses
        {75, 9}, {76, 0}, // compute capability
        {81, 233472},     // shared memory of a multiprocessor
        {82, 65536},      // registers of a multiprocessor
        {97, 232448},     // shared memory of a block that asks for it
        {115, setting("EMU_POOLS", true)},
    };
    auto found = values.find(attribute);
    if (found == values.end()) {
        fprintf(stderr, "EMU: the device attribute %d is not emulated\n", attribute);
        abort();
    }
    *value = found->second;
    return OK;
}

CUresult cuDevicePrimaryCtxRetain(void** out, int) {
    CALL_ANYWAY;
    retained++;
    *out = context;
    return OK;
}
// The last release of a lost context ends it: the next one is whole.
CUresult cuDevicePrimaryCtxRelease_v2(int) {
    CALL_ANYWAY;
    if (--retained == 0 && lost_with()) {
        forget_all();
        emu_fail_next(nullptr, 0, 0);
    }
    return OK;
}
CUresult cuCtxGetCurrent(void** out) {
    *out = current ? context : nullptr;
    return OK;
}
CUresult cuCtxSetCurrent(void* wanted) {
    CALL_ANYWAY;
    current = wanted != nullptr;
    return OK;
}
CUresult cuCtxGetDevice(int* device) {
    CALL;
    *device = 0;
    return OK;
}
CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    CALL;
    *least = 0, *greatest = -5;
    return OK;
}
CUresult cuCtxSynchronize() {
    CALL;
    if (!captures.empty()) return invalidate(captures.front(), CAPTURE_UNSUPPORTED);
    counts.context_synchronisations++;
    run_all();
    return lost_with();
}

CUresult cuGetErrorName(int code, const char** name) {
    static const std::map<int, const char*> names = {
        {OK, "CUDA_SUCCESS"},
        {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
        {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
        {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
        {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
        {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
        {214, "CUDA_ERROR_ECC_UNCORRECTABLE"},
        {INVALID_PTX, "CUDA_ERROR_INVALID_PTX"},
        {FILE_NOT_FOUND, "CUDA_ERROR_FILE_NOT_FOUND"},
        {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
        {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
        {NOT_READY, "CUDA_ERROR_NOT_READY"},
        {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
        {OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"},
        {702, "CUDA_ERROR_LAUNCH_TIMEOUT"},
        {719, "CUDA_ERROR_LAUNCH_FAILED"},
        {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"},
        {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
        {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
        {CAPTURE_MERGE, "CUDA_ERROR_STREAM_CAPTURE_MERGE"},
        {CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED"},
        {CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED"},
        {CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION"},
        {CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"},
        {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT"},
        {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD"},
    };
    auto found = names.find(code);
    static __thread char number[40];
    snprintf(number, sizeof number, "CUDA_ERROR_%d", code);
    *name = found == names.end() ? number : found->second;
    return OK;
}
// A real driver has a sentence for each.
CUresult cuGetErrorString(int code, const char** text) {
    return cuGetErrorName(code, text);
}
}
