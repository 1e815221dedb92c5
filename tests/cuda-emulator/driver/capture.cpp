// Stream capture, and what a real driver refuses while one is under way.
#include "driver.h"

namespace emu {

std::vector<Capture*> captures;

// Most refused calls spoil the capture too: it then ends with CAPTURE_INVALIDATED.
CUresult invalidate(Capture* capture, CUresult why) {
    capture->bad = true;
    return why;
}

// The legacy stream would wait for a capturing stream.
CUresult legacy_meets_capture() {
    for (Capture* capture : captures)
        if (capture->origin->blocking) return invalidate(capture, CAPTURE_IMPLICIT);
    return OK;
}

// Calls that may synchronise by themselves are refused by a global capture anywhere, by a thread's in that thread, and
// by a relaxed one nowhere.
CUresult unsafe_in_capture() {
    for (Capture* capture : captures)
        if (capture->mode == 0 || (capture->mode == 1 && capture->thread == std::this_thread::get_id()))
            return invalidate(capture, CAPTURE_UNSUPPORTED);
    return OK;
}

CUresult put_captured(Stream* stream, Work work) {
    Capture* capture = stream->capture;
    if (capture->bad) return CAPTURE_INVALIDATED;
    auto& nodes = capture->graph.nodes;
    auto& front = capture->fronts[stream];
    nodes.push_back({std::move(work), {front.begin(), front.end()}});
    front = {nodes.size() - 1};
    return OK;
}

CUresult wait_in_capture(Stream* stream, Event* event) {
    if (!event->capture) {
        if (!event->recorded) return OK;
        return invalidate(stream->capture, CAPTURE_ISOLATION); // it was recorded before the capture
    }
    Capture* capture = event->capture;
    if (stream->capture && stream->capture != capture) {
        invalidate(stream->capture, CAPTURE_MERGE);
        return invalidate(capture, CAPTURE_MERGE);
    }
    if (stream == &legacy) return invalidate(capture, CAPTURE_IMPLICIT);
    auto& front = capture->fronts[stream];
    front.insert(event->front.begin(), event->front.end());
    if (stream->capture) return OK;
    // The stream joins the capture with an empty node, so that it must be joined again even if it gets no work.
    stream->capture = capture;
    return put_captured(stream, {"fork", nullptr, {}});
}

namespace {

// Whether the end of the origin's stream waits for all nodes.
bool is_joined(const Capture& capture) {
    auto& nodes = capture.graph.nodes;
    std::vector<char> reached(nodes.size());
    for (size_t node : capture.fronts.at(capture.origin)) reached[node] = 1;
    for (size_t node = nodes.size(); node-- > 0;) {
        if (!reached[node]) return false;
        for (size_t before : nodes[node].after) reached[before] = 1;
    }
    return true;
}

void end(Capture* capture) {
    for (auto& [stream, front] : capture->fronts) stream->capture = nullptr;
    for (Event* event : events)
        if (event->capture == capture) event->capture = nullptr, event->recorded = false;
    for (size_t i = 0; i < captures.size(); i++)
        if (captures[i] == capture) captures.erase(captures.begin() + i);
    delete capture;
}

} // namespace
} // namespace emu

using namespace emu;

extern "C" {

CUresult cuStreamBeginCapture_v2(void* handle, int mode) {
    CALL;
    Stream* stream = stream_of(handle);
    if (stream == &legacy) return CAPTURE_UNSUPPORTED;
    if (stream->capture || mode < 0 || mode > 2) return INVALID_VALUE;
    auto* capture = new Capture{stream, mode, std::this_thread::get_id()};
    capture->fronts[stream];
    stream->capture = capture;
    captures.push_back(capture);
    return OK;
}

// 0: no, 1: yes, 2: yes, but it is spoilt.
CUresult cuStreamIsCapturing(void* handle, int* status) {
    CALL;
    Stream* stream = stream_of(handle);
    if (stream == &legacy)
        for (Capture* capture : captures)
            if (capture->origin->blocking) return CAPTURE_IMPLICIT;
    *status = stream->capture ? 1 + stream->capture->bad : 0;
    return OK;
}

CUresult cuStreamEndCapture(void* handle, Graph** out) {
    CALL;
    *out = nullptr;
    Stream* stream = stream_of(handle);
    Capture* capture = stream->capture;
    if (!capture) return INVALID_VALUE;
    if (capture->origin != stream) return invalidate(capture, CAPTURE_UNMATCHED);
    if (capture->mode != 2 && capture->thread != std::this_thread::get_id()) return CAPTURE_WRONG_THREAD;
    CUresult code = capture->bad ? CAPTURE_INVALIDATED : is_joined(*capture) ? OK : CAPTURE_UNJOINED;
    if (!code) *out = new Graph(std::move(capture->graph));
    end(capture);
    return code;
}
}
