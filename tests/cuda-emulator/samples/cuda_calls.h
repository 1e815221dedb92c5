// The driver's calls that the samples make, and what makes them short.
#pragma once
#include "../emu.h"
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

extern "C" {
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(void**, int);
int cuDevicePrimaryCtxRelease_v2(int);
int cuCtxSetCurrent(void*);
int cuCtxSynchronize();
int cuMemAlloc_v2(uint64_t*, size_t);
int cuMemFree_v2(uint64_t);
int cuMemAllocAsync(uint64_t*, size_t, void*);
int cuMemFreeAsync(uint64_t, void*);
int cuMemHostAlloc(void**, size_t, unsigned);
int cuMemFreeHost(void*);
int cuMemcpyHtoDAsync_v2(uint64_t, const void*, size_t, void*);
int cuMemcpyDtoHAsync_v2(void*, uint64_t, size_t, void*);
int cuMemcpyDtoDAsync_v2(uint64_t, uint64_t, size_t, void*);
int cuMemcpyHtoD_v2(uint64_t, const void*, size_t);
int cuMemcpyDtoH_v2(void*, uint64_t, size_t);
int cuMemsetD8Async(uint64_t, unsigned char, size_t, void*);
int cuMemsetD32Async(uint64_t, unsigned, size_t, void*);
int cuStreamCreate(void**, unsigned);
int cuStreamDestroy_v2(void*);
int cuStreamSynchronize(void*);
int cuStreamQuery(void*);
int cuStreamWaitEvent(void*, void*, unsigned);
int cuStreamBeginCapture_v2(void*, int);
int cuStreamEndCapture(void*, void**);
int cuEventCreate(void**, unsigned);
int cuEventRecord(void*, void*);
int cuEventSynchronize(void*);
int cuGraphInstantiateWithFlags(void**, void*, unsigned long long);
int cuGraphLaunch(void*, void*);
int cuModuleLoadData(void**, const void*);
int cuModuleGetFunction(void**, void*, const char*);
int cuModuleGetGlobal_v2(uint64_t*, size_t*, void*, const char*);
int cuLaunchKernelEx(const void*, void*, void**, void**);
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
}

// Prints, and ends the program with status 2.
[[noreturn]] __attribute__((format(printf, 1, 2))) inline void wrong(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("WRONG: ");
    vprintf(format, arguments);
    printf("\n");
    exit(2);
}

#define OK(call)                                                        \
    do {                                                                \
        if (int code_ = (call)) wrong("%s returned %d", #call, code_);  \
    } while (0)

#define RETURNS(code, call)                                                               \
    do {                                                                                  \
        int code_ = (call);                                                               \
        if (code_ != (code)) wrong("%s returned %d, not %d", #call, code_, (int)(code));  \
    } while (0)

inline void open_device() {
    void* context;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
}

// One of the samples' PTX files, which EMU_SAMPLES is the folder of.
inline void* module_of(const char* file) {
    std::ifstream in(std::string(getenv("EMU_SAMPLES")) + "/" + file + ".ptx");
    std::stringstream text;
    text << in.rdbuf();
    void* module;
    OK(cuModuleLoadData(&module, text.str().c_str()));
    return module;
}

inline void* kernel(const char* file, const char* name) {
    void* function;
    OK(cuModuleGetFunction(&function, module_of(file), name));
    return function;
}

struct Size {
    unsigned x = 1, y = 1;
};

template <class... A>
int launch(void* function, Size grid, unsigned threads, unsigned dynamic, void* stream, A... arguments) {
    void* pointers[] = {&arguments...};
    return cuLaunchKernel(function, grid.x, grid.y, 1, threads, 1, 1, dynamic, stream, pointers, nullptr);
}

inline void* new_stream(unsigned flags = 1) {
    void* stream;
    OK(cuStreamCreate(&stream, flags));
    return stream;
}

inline void* new_event() {
    void* event;
    OK(cuEventCreate(&event, 2));
    return event;
}

inline uint64_t device(size_t bytes) {
    uint64_t at;
    OK(cuMemAlloc_v2(&at, bytes));
    return at;
}

template <class T> uint64_t upload(const std::vector<T>& values) {
    uint64_t at = device(values.size() * sizeof(T));
    OK(cuMemcpyHtoD_v2(at, values.data(), values.size() * sizeof(T)));
    return at;
}

template <class T> std::vector<T> download(uint64_t at, size_t count) {
    std::vector<T> values(count);
    OK(cuMemcpyDtoH_v2(values.data(), at, count * sizeof(T)));
    return values;
}
