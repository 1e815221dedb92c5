// What a capture refuses, with the code of the real driver, and whether the capture is spoilt by it.
#include "cuda_calls.h"
#include <functional>
#include <thread>

extern "C" {
int cuEventQuery(void*);
int cuStreamIsCapturing(void*, int*);
int cuModuleLoad(void**, const char*);
}

namespace {

constexpr size_t bytes = 256;
constexpr int global = 0, of_thread = 1, relaxed = 2;
constexpr int unsupported = 900, invalidated = 901, merge = 902, unmatched = 903, unjoined = 904, isolation = 905,
              implicit = 906, captured_event = 907, wrong_thread = 908;

struct Capture {
    void *stream, *other = new_stream(), *early = new_event(), *event = new_event();
    uint64_t buffer = device(bytes);

    explicit Capture(int mode = of_thread, unsigned flags = 1) : stream(new_stream(flags)) {
        OK(cuEventRecord(early, stream));
        OK(cuStreamBeginCapture_v2(stream, mode));
        OK(cuMemsetD8Async(buffer, 1, bytes, stream));
    }
    void ends(int code) {
        void* graph;
        RETURNS(code, cuStreamEndCapture(stream, &graph));
        OK(cuStreamSynchronize(stream)); // and is an ordinary stream again
    }
};

// The call is refused with `code`, and the capture ends with `end`.
void refused(int code, int end, const std::function<int(Capture&)>& call) {
    Capture capture;
    int got = call(capture);
    if (got != code) wrong("the call returned %d, not %d", got, code);
    int status;
    OK(cuStreamIsCapturing(capture.stream, &status));
    if (status != (end == invalidated ? 2 : 1)) wrong("the status of the capture is %d", status);
    capture.ends(end);
}

// Other streams: forks, joins, and two captures at once.
void forks() {
    Capture joined;
    OK(cuEventRecord(joined.event, joined.stream));
    OK(cuStreamWaitEvent(joined.other, joined.event, 0));
    OK(cuMemsetD8Async(joined.buffer, 2, bytes, joined.other));
    void *third = new_stream(), *last = new_event();
    OK(cuEventRecord(last, joined.other));
    OK(cuStreamWaitEvent(third, last, 0));
    OK(cuEventRecord(last, third));
    OK(cuStreamWaitEvent(joined.stream, last, 0)); // by way of the third
    joined.ends(0);

    Capture forgotten;
    OK(cuEventRecord(forgotten.event, forgotten.stream));
    OK(cuStreamWaitEvent(forgotten.other, forgotten.event, 0));
    forgotten.ends(unjoined);

    Capture late; // work after the join
    OK(cuEventRecord(late.event, late.stream));
    OK(cuStreamWaitEvent(late.other, late.event, 0));
    OK(cuEventRecord(late.event, late.other));
    OK(cuStreamWaitEvent(late.stream, late.event, 0));
    OK(cuMemsetD8Async(late.buffer, 2, bytes, late.other));
    late.ends(unjoined);

    Capture forked;
    OK(cuEventRecord(forked.event, forked.stream));
    OK(cuStreamWaitEvent(forked.other, forked.event, 0));
    void* graph;
    RETURNS(unmatched, cuStreamEndCapture(forked.other, &graph));
    forked.ends(invalidated);

    Capture one(relaxed), two(relaxed);
    OK(cuEventRecord(one.event, one.stream));
    RETURNS(merge, cuStreamWaitEvent(two.stream, one.event, 0));
    one.ends(invalidated);
    two.ends(invalidated);
}

void threads() {
    Capture mine;
    std::thread([&] {
        open_device();
        void* graph;
        RETURNS(wrong_thread, cuStreamEndCapture(mine.stream, &graph));
        device(16); // another thread's capture is not disturbed
    }).join();
    mine.ends(0);

    Capture everyones(global);
    std::thread([&] {
        open_device();
        uint64_t at;
        RETURNS(unsupported, cuMemAlloc_v2(&at, 16));
    }).join();
    everyones.ends(invalidated);

    Capture nobodys(relaxed);
    device(16);
    nobodys.ends(0);
}

} // namespace

int main() {
    open_device();
    static int host[64];
    refused(0, 0, [](Capture& c) { return cuMemsetD8Async(c.buffer, 2, 16, c.stream); });
    refused(unsupported, invalidated, [](Capture& c) { return cuStreamSynchronize(c.stream); });
    refused(unsupported, invalidated, [](Capture& c) { return cuStreamQuery(c.stream); });
    refused(unsupported, invalidated, [](Capture&) { return cuCtxSynchronize(); });
    refused(unsupported, invalidated, [](Capture& c) { return cuMemAlloc_v2(&c.buffer, 16); });
    refused(unsupported, invalidated, [](Capture& c) { return cuMemFree_v2(c.buffer); });
    refused(unsupported, invalidated, [](Capture&) { return cuMemcpyDtoH_v2(host, 0, 4); });
    refused(unsupported, invalidated, [](Capture&) {
        void* module;
        return cuModuleLoad(&module, "any.ptx");
    });
    refused(unsupported, invalidated, [](Capture& c) { return cuMemcpyHtoDAsync_v2(c.buffer, host, 16, c.stream); });
    refused(unsupported, invalidated, [](Capture& c) { return cuMemcpyDtoHAsync_v2(host, c.buffer, 16, c.stream); });
    refused(isolation, invalidated, [](Capture& c) { return cuStreamWaitEvent(c.stream, c.early, 0); });
    refused(captured_event, invalidated, [](Capture& c) {
        OK(cuEventRecord(c.event, c.stream));
        return cuEventSynchronize(c.event);
    });
    refused(captured_event, invalidated, [](Capture& c) {
        OK(cuEventRecord(c.event, c.stream));
        return cuEventQuery(c.event);
    });
    refused(invalidated, invalidated, [](Capture& c) {
        RETURNS(unsupported, cuStreamSynchronize(c.stream));
        return cuMemsetD8Async(c.buffer, 2, 16, c.stream);
    });
    {
        Capture blocking(of_thread, 0);
        RETURNS(implicit, cuMemsetD8Async(blocking.buffer, 0, 16, nullptr));
        blocking.ends(invalidated);
    }
    forks();
    threads();
    printf("as expected\n");
}
