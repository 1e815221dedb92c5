// Events: places in streams, or in a capture the nodes that a stream had come to.
#include "driver.h"
#include <chrono>

namespace emu {

std::set<Event*> events;

namespace {

double now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

CUresult record(Event* event, void* handle) {
    if (!events.count(event)) return INVALID_HANDLE;
    Stream* stream = stream_of(handle);
    if (Capture* capture = stream->capture) {
        if (capture->bad) return CAPTURE_INVALIDATED;
        event->capture = capture;
        event->front = capture->fronts[stream];
        event->recorded = true;
        return OK;
    }
    auto time = std::make_shared<double>(0);
    if (CUresult code = put(stream, {"event record", [time] { *time = now(); }, {}})) return code;
    event->capture = nullptr;
    event->time = time, event->mark = stream->end(), event->recorded = true;
    return OK;
}

CUresult elapsed(float* milliseconds, Event* from, Event* to) {
    if (!events.count(from) || !events.count(to)) return INVALID_HANDLE;
    if (!from->timing || !to->timing || !from->recorded || !to->recorded) return INVALID_HANDLE;
    if (!from->mark.reached() || !to->mark.reached()) return NOT_READY;
    *milliseconds = float(*to->time - *from->time);
    return OK;
}

} // namespace
} // namespace emu

using namespace emu;

extern "C" {

CUresult cuEventCreate(Event** out, unsigned flags) {
    CALL;
    *out = new Event;
    (*out)->timing = !(flags & 2);
    events.insert(*out);
    return OK;
}
CUresult cuEventDestroy_v2(Event* event) {
    CALL;
    if (!events.erase(event)) return INVALID_HANDLE;
    delete event;
    return OK;
}

CUresult cuEventRecord(Event* event, void* stream) {
    CALL;
    return record(event, stream);
}
CUresult cuEventRecordWithFlags(Event* event, void* stream, unsigned) {
    CALL;
    return record(event, stream);
}

CUresult cuStreamWaitEvent(void* handle, Event* event, unsigned) {
    CALL;
    if (!events.count(event)) return INVALID_HANDLE;
    Stream* stream = stream_of(handle);
    if (event->capture || stream->capture) return wait_in_capture(stream, event);
    if (event->recorded) put_wait(stream, event->mark);
    return OK;
}

CUresult cuEventSynchronize(Event* event) {
    CALL;
    if (!events.count(event)) return INVALID_HANDLE;
    if (event->capture) return invalidate(event->capture, CAPTURED_EVENT);
    NOT_IN_CAPTURE;
    counts.event_synchronisations++;
    run_until(event->mark);
    return lost_with();
}

CUresult cuEventQuery(Event* event) {
    CALL;
    if (!events.count(event)) return INVALID_HANDLE;
    if (event->capture) return invalidate(event->capture, CAPTURED_EVENT);
    NOT_IN_CAPTURE;
    if (event->mark.reached()) return OK;
    run_one(event->mark.of->stream);
    return NOT_READY;
}

CUresult cuEventElapsedTime(float* milliseconds, Event* from, Event* to) {
    CALL;
    return elapsed(milliseconds, from, to);
}
CUresult cuEventElapsedTime_v2(float* milliseconds, Event* from, Event* to) {
    CALL;
    return elapsed(milliseconds, from, to);
}
}
