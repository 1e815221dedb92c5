// Copies and memsets. A copy from pageable memory reads it at the call; one to it waits for its end.
#include "driver.h"

namespace emu {
namespace {

// The real driver captures a pageable copy, and reads the host's address again at each replay: refused here.
const bool refuse_pageable = setting("EMU_CAPTURE_PAGEABLE", true);

bool is_refused(Stream* stream, bool pinned) {
    return stream->capture && !pinned && refuse_pageable;
}

CUresult to_device(CUdeviceptr to, const void* from, size_t bytes, Stream* stream) {
    if (!bytes) return OK;
    if (!is_device(to, bytes)) return INVALID_VALUE;
    bool pinned = is_pinned(from, bytes);
    if (is_refused(stream, pinned)) return invalidate(stream->capture, CAPTURE_UNSUPPORTED);
    Work work{"copy to the device", nullptr, {{to, bytes}}, Kind::HostToDevice, bytes};
    if (pinned || stream->capture) {
        work.run = [=] { memcpy((void*)to, from, bytes); };
    } else {
        auto copy = std::make_shared<std::vector<char>>((const char*)from, (const char*)from + bytes);
        work.run = [=] { memcpy((void*)to, copy->data(), bytes); };
    }
    return put(stream, std::move(work));
}

CUresult to_host(void* to, CUdeviceptr from, size_t bytes, Stream* stream) {
    if (!bytes) return OK;
    if (!is_device(from, bytes)) return INVALID_VALUE;
    bool pinned = is_pinned(to, bytes);
    if (is_refused(stream, pinned)) return invalidate(stream->capture, CAPTURE_UNSUPPORTED);
    Work work{"copy to the host", nullptr, {{from, bytes}}, Kind::DeviceToHost, bytes};
    work.run = [=] { memcpy(to, (void*)from, bytes); };
    CUresult code = put(stream, std::move(work));
    if (!code && !pinned && !stream->capture) run_until(stream->end());
    return code;
}

CUresult within_device(CUdeviceptr to, CUdeviceptr from, size_t bytes, Stream* stream) {
    if (!bytes) return OK;
    if (!is_device(to, bytes) || !is_device(from, bytes)) return INVALID_VALUE;
    Work work{"copy on the device", nullptr, {{to, bytes}, {from, bytes}}, Kind::DeviceToDevice, bytes};
    work.run = [=] { memmove((void*)to, (void*)from, bytes); };
    return put(stream, std::move(work));
}

template <class T> CUresult fill(CUdeviceptr to, T value, size_t count, Stream* stream) {
    if (!count) return OK;
    size_t bytes = count * sizeof(T);
    if (to % sizeof(T) || !is_device(to, bytes)) return INVALID_VALUE;
    Work work{"memset", nullptr, {{to, bytes}}, Kind::Memset, bytes};
    work.run = [=] {
        for (size_t i = 0; i < count; i++) ((T*)to)[i] = value;
    };
    return put(stream, std::move(work));
}

} // namespace
} // namespace emu

using namespace emu;

// Without a stream they are on the legacy stream, and have ended when they return.
#define AND_WAIT(call)              \
    CALL;                           \
    NOT_IN_CAPTURE;                 \
    CUresult code = call;           \
    if (!code) run_until(legacy.end()); \
    return code

extern "C" {

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, void* stream) {
    CALL;
    return to_device(to, from, bytes, stream_of(stream));
}
CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, void* stream) {
    CALL;
    return to_host(to, from, bytes, stream_of(stream));
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, void* stream) {
    CALL;
    return within_device(to, from, bytes, stream_of(stream));
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, void* stream) {
    CALL;
    return fill(to, value, count, stream_of(stream));
}
CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, void* stream) {
    CALL;
    return fill(to, value, count, stream_of(stream));
}
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, void* stream) {
    CALL;
    return fill(to, value, count, stream_of(stream));
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    AND_WAIT(to_device(to, from, bytes, &legacy));
}
CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    AND_WAIT(to_host(to, from, bytes, &legacy));
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    AND_WAIT(within_device(to, from, bytes, &legacy));
}
CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
    AND_WAIT(fill(to, value, count, &legacy));
}
CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) {
    AND_WAIT(fill(to, value, count, &legacy));
}
}
#undef AND_WAIT
