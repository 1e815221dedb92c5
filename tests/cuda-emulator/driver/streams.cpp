// Streams, and host functions in them.
#include "driver.h"

using namespace emu;

static CUresult create(void** out, unsigned flags) {
    auto* stream = new Stream;
    stream->blocking = !(flags & 1);
    streams.insert(stream);
    *out = stream;
    return OK;
}

extern "C" {

CUresult cuStreamCreate(void** out, unsigned flags) {
    CALL;
    return create(out, flags);
}
CUresult cuStreamCreateWithPriority(void** out, unsigned flags, int) {
    CALL;
    return create(out, flags);
}

// What is queued in it still runs.
CUresult cuStreamDestroy_v2(void* handle) {
    CALL;
    Stream* stream = stream_of(handle);
    if (stream->capture) return invalidate(stream->capture, CAPTURE_UNSUPPORTED);
    stream->destroyed = true;
    if (!stream->queue.empty()) return OK;
    streams.erase(stream);
    delete stream;
    return OK;
}

CUresult cuStreamSynchronize(void* handle) {
    CALL;
    Stream* stream = stream_of(handle);
    if (stream->capture) return invalidate(stream->capture, CAPTURE_UNSUPPORTED);
    counts.stream_synchronisations++;
    if (stream == &legacy) {
        if (CUresult code = legacy_meets_capture()) return code;
        std::vector<Mark> ends;
        for (Stream* other : streams)
            if (other->blocking) ends.push_back(other->end());
        for (const Mark& mark : ends) run_until(mark);
    }
    run_until(stream->end());
    return lost_with();
}

// Each question lets one piece of work run, so that whoever asks again and again comes to an end.
CUresult cuStreamQuery(void* handle) {
    CALL;
    Stream* stream = stream_of(handle);
    if (stream->capture) return invalidate(stream->capture, CAPTURE_UNSUPPORTED);
    NOT_IN_CAPTURE;
    return run_one(stream) ? NOT_READY : OK;
}

CUresult cuLaunchHostFunc(void* handle, void (*function)(void*), void* argument) {
    CALL;
    return put(stream_of(handle), {"host function", [=] { function(argument); }, {}});
}
}
