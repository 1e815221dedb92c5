// The calls on memory: of the device, of its pool, and pinned.
#include "memory.h"

using namespace emu;

static CUresult take_pinned(void** out, size_t bytes) {
    if (posix_memalign(out, page, bytes)) return OUT_OF_MEMORY;
    pinned[(uint64_t)*out] = bytes;
    return OK;
}

extern "C" {

CUresult cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = device_bytes;
    return OK;
}
CUresult cuMemGetInfo_v2(size_t* unused, size_t* total) {
    CALL;
    *unused = device_bytes - used, *total = device_bytes;
    return OK;
}

CUresult cuMemAlloc_v2(CUdeviceptr* out, size_t bytes) {
    CALL;
    NOT_IN_CAPTURE;
    if (!bytes) return INVALID_VALUE;
    *out = take_memory(bytes, false);
    return *out ? OK : OUT_OF_MEMORY;
}

// Waits for everything, as the real one.
CUresult cuMemFree_v2(CUdeviceptr begin) {
    CALL;
    NOT_IN_CAPTURE;
    if (!begin) return OK;
    auto found = allocations.find(begin);
    if (found == allocations.end() || found->second.freed) return INVALID_VALUE;
    run_all();
    counts.frees++;
    give_back(begin);
    return OK;
}

// In a capture it becomes a node, and the memory is the graph's. candle asks for 0 bytes.
CUresult cuMemAllocAsync(CUdeviceptr* out, size_t bytes, void* handle) {
    CALL;
    Stream* stream = stream_of(handle);
    if (stream->capture && stream->capture->bad) return CAPTURE_INVALIDATED;
    *out = take_memory(bytes ? bytes : 1, stream->capture != nullptr);
    if (!*out) return OUT_OF_MEMORY;
    if (!stream->capture) {
        CUresult code = put(stream, {"allocation", nullptr, {}});
        allocations.at(*out).since = stream->end();
        return code;
    }
    Work work{"graph allocation", nullptr, {}};
    work.allocates = *out;
    return put(stream, std::move(work));
}

CUresult cuMemFreeAsync(CUdeviceptr begin, void* handle) {
    CALL;
    Stream* stream = stream_of(handle);
    auto found = allocations.find(begin);
    if (found == allocations.end() || found->second.freed) return INVALID_VALUE;
    Allocation& allocation = found->second;
    size_t bytes = allocation.bytes;
    auto overwrite = [begin, bytes] { memset((void*)begin, 0xFF, bytes); };
    if (stream->capture) {
        if (!allocation.of_graph) return invalidate(stream->capture, INVALID_VALUE);
        Work work{"graph free", overwrite, {}};
        work.frees = begin;
        return put(stream, std::move(work));
    }
    if (allocation.of_graph) {
        if (!allocation.live_in_graph) return OK;
        allocation.live_in_graph = false;
        return put(stream, {"free of a graph's memory", overwrite, {}});
    }
    allocation.freed = true;
    counts.frees++;
    return put(stream, {"free", [begin] { give_back(begin); }, {}});
}

// The pool of the device: that of cuMemAllocAsync. Its attributes change nothing here.
CUresult cuDeviceGetDefaultMemPool(void** pool, int) {
    CALL;
    *pool = (void*)0x2000;
    return OK;
}
CUresult cuDeviceGetMemPool(void** pool, int) {
    CALL;
    *pool = (void*)0x2000;
    return OK;
}
CUresult cuMemPoolSetAttribute(void*, int, void*) {
    CALL;
    return OK;
}
CUresult cuMemPoolTrimTo(void*, size_t) {
    CALL;
    return OK;
}

CUresult cuMemHostAlloc(void** out, size_t bytes, unsigned) {
    CALL;
    NOT_IN_CAPTURE;
    return take_pinned(out, bytes);
}
CUresult cuMemAllocHost_v2(void** out, size_t bytes) {
    CALL;
    NOT_IN_CAPTURE;
    return take_pinned(out, bytes);
}
CUresult cuMemHostRegister_v2(void* begin, size_t bytes, unsigned) {
    CALL;
    NOT_IN_CAPTURE;
    if (!begin || !bytes || is_pinned(begin, 1)) return INVALID_VALUE;
    pinned[(uint64_t)begin] = bytes;
    registered.insert((uint64_t)begin);
    return OK;
}
CUresult cuMemHostUnregister(void* begin) {
    CALL;
    NOT_IN_CAPTURE;
    if (!registered.erase((uint64_t)begin)) return INVALID_VALUE;
    run_all();
    pinned.erase((uint64_t)begin);
    return OK;
}
CUresult cuMemFreeHost(void* begin) {
    CALL;
    NOT_IN_CAPTURE;
    if (!pinned.count((uint64_t)begin) || registered.count((uint64_t)begin)) return INVALID_VALUE;
    run_all();
    pinned.erase((uint64_t)begin);
    free(begin);
    return OK;
}
CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* out, void* host, unsigned) {
    CALL;
    if (!is_pinned(host, 1)) return INVALID_VALUE;
    *out = (CUdeviceptr)host;
    return OK;
}

// The type of memory, its device pointer and its host pointer.
CUresult cuPointerGetAttribute(void* out, int attribute, CUdeviceptr at) {
    CALL;
    bool device = is_device(at, 1), host = is_pinned((void*)at, 1);
    if (!device && !host) return INVALID_VALUE;
    switch (attribute) {
    case 2: *(unsigned*)out = device ? 2 : 1; return OK;
    case 3: *(CUdeviceptr*)out = at; return OK;
    case 4: if (device) return INVALID_VALUE; *(void**)out = (void*)at; return OK;
    default: fprintf(stderr, "EMU: the pointer attribute %d is not emulated\n", attribute); abort();
    }
}
}
