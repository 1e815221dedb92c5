// Counts of what was asked for, and what the flavour `count` saw of kernels' accesses.
#include "driver.h"

// In the runtime of the flavour `count`; absent in others.
extern "C" {
__attribute__((weak)) void emu_traffic_total(emu_traffic* total);
__attribute__((weak)) void emu_traffic_by_name(const char* kernel, emu_traffic* traffic);
__attribute__((weak)) void emu_traffic_reset();
}

namespace emu {

emu_counts counts;
static std::map<std::string, uint64_t> launches;

void count(const Work& work, bool in_graph) {
    switch (work.kind) {
    case Kind::Kernel:
        (in_graph ? counts.graph_kernels : counts.kernel_launches)++;
        launches[work.what]++;
        break;
    case Kind::Blas: counts.blas_calls++; break;
    case Kind::HostToDevice: counts.htod_copies++, counts.htod_bytes += work.bytes; break;
    case Kind::DeviceToHost: counts.dtoh_copies++, counts.dtoh_bytes += work.bytes; break;
    case Kind::DeviceToDevice: counts.dtod_copies++, counts.dtod_bytes += work.bytes; break;
    case Kind::Memset: counts.memsets++, counts.memset_bytes += work.bytes; break;
    case Kind::Other: break;
    }
}

} // namespace emu

using namespace emu;

extern "C" {

void emu_counters(emu_counts* out) {
    std::lock_guard<std::recursive_mutex> guard(everything);
    *out = counts;
    if (!emu_traffic_total) return;
    emu_traffic total{};
    emu_traffic_total(&total);
    out->read_bytes = total.read_bytes, out->written_bytes = total.written_bytes;
    out->unique_read_bytes = total.unique_read_bytes, out->unique_written_bytes = total.unique_written_bytes;
}

void emu_reset_counters() {
    std::lock_guard<std::recursive_mutex> guard(everything);
    counts = {};
    launches.clear();
    if (emu_traffic_reset) emu_traffic_reset();
}

uint64_t emu_launches(const char* kernel) {
    std::lock_guard<std::recursive_mutex> guard(everything);
    auto found = launches.find(kernel);
    return found == launches.end() ? 0 : found->second;
}

void emu_traffic_of(const char* kernel, emu_traffic* traffic) {
    std::lock_guard<std::recursive_mutex> guard(everything);
    *traffic = {};
    if (emu_traffic_by_name) emu_traffic_by_name(kernel, traffic);
}
}
