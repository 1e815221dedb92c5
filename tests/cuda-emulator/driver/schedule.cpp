// Which piece of queued work runs, and when. By default as late as is legal: nothing runs until something waits for it,
// and then only that. With EMU_SCHEDULE=seed, whenever something has to run, any stream's front may be taken before it,
// and now and then one is taken as soon as something is queued; so what no event or stream orders runs in any order.
#include "driver.h"

namespace emu {

Stream legacy;
std::set<Stream*> streams{&legacy};

namespace {

// EMU_LAZY=0 runs everything at once, in the order of the calls.
const bool lazy = setting("EMU_LAZY", true);
const long seed = emu_setting("EMU_SCHEDULE", 0);

size_t draw(size_t below) {
    static uint64_t state = seed;
    uint64_t x = state += 0x9E3779B97F4A7C15ull; // splitmix64: neighbouring seeds have nothing in common
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return ((x ^ (x >> 31)) >> 16) % below;
}

// A front that may run: of a graph's launch, one of the nodes that may.
struct Choice {
    Stream* stream;
    size_t node;
};

bool may_run(const Queued& front, size_t node) {
    if (front.ran[node]) return false;
    for (size_t before : front.graph->nodes[node].after)
        if (!front.ran[before]) return false;
    return true;
}

bool is_waiting(const Queued& front) {
    for (const Mark& mark : front.after)
        if (!mark.reached()) return true;
    return false;
}

std::vector<Choice> choices() {
    std::vector<Choice> all;
    for (Stream* stream : streams) {
        if (stream->queue.empty() || is_waiting(stream->queue.front())) continue;
        const Queued& front = stream->queue.front();
        if (!front.left) all.push_back({stream, 0});
        for (size_t node = 0; front.left && node < front.ran.size(); node++)
            if (may_run(front, node)) all.push_back({stream, node});
    }
    return all;
}

void run_work(const Work& work, const std::shared_ptr<const Declarations>& declarations) {
    if (!work.run) return;
    check(work.what, work.operands, false);
    apply(declarations);
    run_timed(work);
}

void end_front(Stream* stream) {
    stream->queue.pop_front();
    stream->progress->finished++;
    if (stream->destroyed && stream->queue.empty()) {
        streams.erase(stream);
        delete stream;
    }
}

void run_choice(Choice choice) {
    Queued& front = choice.stream->queue.front();
    if (front.left) {
        front.ran[choice.node] = 1;
        front.left--;
        run_work(front.graph->nodes[choice.node].work, front.declared);
        if (front.left) return;
    } else {
        run_work(front.work, front.declared);
    }
    end_front(choice.stream);
}

// The front and what it waits for; a graph's nodes in the order of their capture.
void run_front(Stream* stream) {
    for (const Mark& mark : std::vector<Mark>(stream->queue.front().after)) run_until(mark);
    Queued& front = stream->queue.front();
    size_t node = 0; // those before it have run: nodes depend on smaller ones only
    while (front.left > 1) {
        if (!front.ran[node]) run_choice({stream, node});
        node++;
    }
    while (front.left && front.ran[node]) node++;
    run_choice({stream, node}); // which ends the front
}

CUresult queue(Stream* stream, Queued item) {
    if (stream == &legacy) {
        for (Stream* other : streams)
            if (other->blocking && other != stream) item.after.push_back(other->end());
    } else if (stream->blocking) {
        item.after.push_back(legacy.end());
    }
    item.declared = declared;
    stream->queue.push_back(std::move(item));
    stream->progress->queued++;
    if (!lazy) run_until(stream->end());
    else if (seed && draw(4) == 0)
        if (auto all = choices(); !all.empty()) run_choice(all[draw(all.size())]);
    return OK;
}

} // namespace

// 0 and 1 are the legacy stream; of 2, each thread of the host has its own.
Stream* stream_of(void* handle) {
    if (!handle || handle == (void*)1) return &legacy;
    if (handle == (void*)2) {
        static thread_local Stream* of_thread;
        if (!of_thread) streams.insert(of_thread = new Stream);
        return of_thread;
    }
    auto* stream = (Stream*)handle;
    if (!streams.count(stream) || stream->destroyed) emu_fail("unknown or destroyed stream %p", handle);
    return stream;
}

CUresult put(Stream* stream, Work work) {
    if (stream == &legacy)
        if (CUresult code = legacy_meets_capture()) return code;
    if (stream->capture) return put_captured(stream, std::move(work));
    check(work.what, work.operands, true);
    count(work, false);
    Queued item;
    item.work = std::move(work);
    return queue(stream, std::move(item));
}

CUresult put_graph(Stream* stream, std::shared_ptr<const Graph> graph) {
    if (stream == &legacy)
        if (CUresult code = legacy_meets_capture()) return code;
    Queued item;
    item.work.what = "graph launch";
    item.graph = std::move(graph);
    item.left = item.graph->nodes.size();
    item.ran.assign(item.left, 0);
    return queue(stream, std::move(item));
}

void put_wait(Stream* stream, Mark mark) {
    Queued item;
    item.work.what = "event wait";
    item.after.push_back(std::move(mark));
    queue(stream, std::move(item));
}

void run_until(const Mark& mark) {
    while (!mark.reached()) {
        if (!seed) {
            run_front(mark.of->stream);
            continue;
        }
        auto all = choices();
        if (all.empty()) emu_fail("deadlock: no stream can go on");
        run_choice(all[draw(all.size())]);
    }
}

void run_all() {
    std::vector<Mark> ends;
    for (Stream* stream : streams) ends.push_back(stream->end());
    for (const Mark& mark : ends) run_until(mark);
}

bool run_one(Stream* stream) {
    if (stream->queue.empty()) return false;
    run_until({stream->progress, stream->progress->finished + 1});
    return true;
}

void forget_all() {
    for (Stream* stream : std::set<Stream*>(streams)) {
        stream->queue.clear();
        stream->progress->finished = stream->progress->queued;
    }
}

} // namespace emu
