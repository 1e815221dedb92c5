// The emulated driver's own types: codes, work, streams, events, captures, graphs, memory.
#pragma once
#include "../emu.h"
#include "../runtime/runtime.h"
#include "../runtime/traffic.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

typedef int CUresult;
typedef uint64_t CUdeviceptr;

namespace emu {

enum Code {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201, INVALID_PTX = 218, FILE_NOT_FOUND = 301, INVALID_HANDLE = 400, NOT_FOUND = 500,
    NOT_READY = 600, OUT_OF_RESOURCES = 701, NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_MERGE = 902, CAPTURE_UNMATCHED = 903,
    CAPTURE_UNJOINED = 904, CAPTURE_ISOLATION = 905, CAPTURE_IMPLICIT = 906, CAPTURED_EVENT = 907,
    CAPTURE_WRONG_THREAD = 908,
};

struct Stream;
struct Capture;

// Device memory that a piece of work touches. With 0 bytes, a kernel's parameter: how far it reaches is not known.
struct Range {
    uint64_t begin;
    size_t bytes;
};

// What a piece of work is counted as.
enum class Kind { Other, Kernel, Blas, HostToDevice, DeviceToHost, DeviceToDevice, Memset };

// What a call asks the device to do, now or as a node of a graph. Without `run` it only stands for its place.
struct Work {
    std::string what;
    std::function<void()> run;
    std::vector<Range> operands;
    Kind kind = Kind::Other;
    uint64_t bytes = 0;
    uint64_t allocates = 0, frees = 0; // a graph's memory nodes
};

// How far a stream is; outlives it.
struct Progress {
    Stream* stream;
    uint64_t queued = 0, finished = 0;
};

// A place in a stream.
struct Mark {
    std::shared_ptr<Progress> of;
    uint64_t number = 0;
    bool reached() const { return !of || of->finished >= number; }
};

// `after`: the nodes that it depends on, all of smaller number.
struct Node {
    Work work;
    std::vector<size_t> after;
};

struct Graph {
    std::vector<Node> nodes;
};

struct Executable {
    std::shared_ptr<const Graph> graph;
    uint64_t flags;
};

struct Declarations;

// Work in a stream, or the launch of a graph, whose nodes run one by one.
struct Queued {
    Work work;
    std::vector<Mark> after;
    std::shared_ptr<const Graph> graph;
    std::vector<char> ran; // by node
    size_t left = 0;       // nodes to run
    std::shared_ptr<const Declarations> declared;
};

struct Stream {
    bool blocking = true; // waits for the legacy stream, and it for this one
    bool destroyed = false;
    std::deque<Queued> queue;
    std::shared_ptr<Progress> progress;
    Capture* capture = nullptr;

    Stream() : progress(std::make_shared<Progress>()) { progress->stream = this; }
    Mark end() const { return {progress, progress->queued}; }
};

struct Event {
    Mark mark;
    std::shared_ptr<double> time = std::make_shared<double>(0);
    bool recorded = false, timing = true;
    Capture* capture = nullptr;
    std::set<size_t> front; // in a capture: the nodes that it stands for
};

struct Capture {
    Stream* origin;
    int mode;
    std::thread::id thread;
    bool bad = false;
    Graph graph;
    std::map<Stream*, std::set<size_t>> fronts; // of each stream, the nodes that its next depends on
};

struct Allocation {
    size_t bytes;
    bool of_graph = false, live_in_graph = false;
    Mark since;         // where its stream has it; others must have waited for that
    bool freed = false; // by a call; its memory goes once the stream has got there
    bool blank = false; // its pages are all ones by themselves
    void* mapped = nullptr;
    size_t mapped_bytes = 0; // 0: not mapped, but from the heap or the counted region
};

// device.cpp
extern std::recursive_mutex everything;
extern const bool trace; // EMU_TRACE: every call to stderr
bool setting(const char* name, bool otherwise);
CUresult called(const char* name, bool even_if_lost = false);

// inject.cpp
CUresult injected(const char* call);
CUresult said(CUresult code); // of a call that was skipped: OK
CUresult lost_with();

// allocations.cpp
extern std::map<uint64_t, Allocation> allocations;
uint64_t take_memory(size_t bytes, bool for_graph);
Allocation* allocation_at(uint64_t begin, size_t bytes, uint64_t* its_begin = nullptr);
bool is_device(uint64_t begin, size_t bytes);
bool is_pinned(const void* begin, size_t bytes);
// Aborts unless every operand may be used. Queued: nothing may have been freed by a call; else only its memory must exist.
void check(const std::string& what, const std::vector<Range>& operands, bool queued);

// blank.cpp: maps whole pages of ones over those at `begin`; false if it cannot.
bool map_blank(char* begin, size_t bytes);

// declare.cpp
extern std::shared_ptr<const Declarations> declared;
void check_declared(const std::string& what, size_t operand, Range range, const Allocation& of, uint64_t its_begin);
void forget_declared(uint64_t begin, size_t bytes);
// Where a kernel that runs may access memory: the live range around an address. Aborts if it may not.
emu_window window_of(uint64_t address);
// Before work runs: what the runtime and AddressSanitizer go by.
void apply(const std::shared_ptr<const Declarations>& declarations);

// schedule.cpp
extern std::set<Stream*> streams;
extern Stream legacy;
Stream* stream_of(void* handle);
CUresult put(Stream* stream, Work work);
CUresult put_graph(Stream* stream, std::shared_ptr<const Graph> graph);
void put_wait(Stream* stream, Mark mark);
void run_until(const Mark& mark);
void run_all();
bool run_one(Stream* stream); // false if nothing was queued
void forget_all();            // of a lost context

// profile.cpp
void run_timed(const Work& work);

// capture.cpp
extern std::vector<Capture*> captures;
extern std::set<Event*> events;
CUresult invalidate(Capture* capture, CUresult why);
CUresult put_captured(Stream* stream, Work work);
CUresult legacy_meets_capture();
CUresult unsafe_in_capture();
CUresult wait_in_capture(Stream* stream, Event* event);

// counters.cpp
extern emu_counts counts;
void count(const Work& work, bool in_graph);

// Every driver function begins with it: one at a time, traced, failing if that was asked for.
#define CALL                                                          \
    std::lock_guard<std::recursive_mutex> guard(emu::everything);     \
    if (CUresult code_ = emu::called(__func__)) return emu::said(code_)
// Functions that work without a context, and after it is lost.
#define CALL_ANYWAY                                                   \
    std::lock_guard<std::recursive_mutex> guard(emu::everything);     \
    if (CUresult code_ = emu::called(__func__, true)) return emu::said(code_)
// Functions that may synchronise by themselves: not while a capture is under way.
#define NOT_IN_CAPTURE \
    if (CUresult code_ = emu::unsafe_in_capture()) return code_

} // namespace emu
