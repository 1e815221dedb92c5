// Launches, within the limits of sm_90; and work of the BLAS libraries.
#include "modules.h"

namespace emu {
namespace {

CUresult check_sizes(const Function& function, emu_uint3 grid, emu_uint3 block, unsigned dynamic_bytes) {
    bool none = !grid.x || !grid.y || !grid.z || !block.x || !block.y || !block.z;
    if (none || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return INVALID_VALUE;
    if (block.x > 1024 || block.y > 1024 || block.z > 64) return INVALID_VALUE;
    unsigned threads = block.x * block.y * block.z;
    if (threads > 1024 || dynamic_bytes > (unsigned)function.most_dynamic) return INVALID_VALUE;
    return threads > (unsigned)function.most_threads ? OUT_OF_RESOURCES : OK;
}

// A copy of a launch's parameters, one behind the other.
struct Parameters {
    std::vector<uint64_t> bytes;
    std::vector<size_t> offsets;

    Parameters(const emu_kernel& kernel, void** given) {
        size_t end = 0;
        for (int i = 0; i < kernel.count; i++) {
            auto& parameter = kernel.parameters[i];
            end = (end + parameter.align - 1) / parameter.align * parameter.align;
            offsets.push_back(end);
            end += parameter.size;
        }
        bytes.resize(end / 8 + 3); // two more, to align the first to 16
        for (int i = 0; i < kernel.count; i++) memcpy(at(i), given[i], kernel.parameters[i].size);
    }

    char* at(size_t i) { return (char*)(((uintptr_t)bytes.data() + 15) & ~(uintptr_t)15) + offsets[i]; }
};

CUresult launch(Function* function, emu_uint3 grid, emu_uint3 block, unsigned dynamic_bytes, void* stream, void** given,
                bool chained = false) {
    const emu_kernel* kernel = function->kernel;
    if (trace)
        fprintf(stderr, "emu:   %s <<<(%u,%u,%u),(%u,%u,%u),%u>>>\n", kernel->name, grid.x, grid.y, grid.z, block.x,
                block.y, block.z, dynamic_bytes);
    if (CUresult code = check_sizes(*function, grid, block, dynamic_bytes)) return code;
    auto parameters = std::make_shared<Parameters>(*kernel, given);
    Work work{kernel->name, nullptr, {}, Kind::Kernel};
    for (int i = 0; i < kernel->count; i++)
        if (kernel->parameters[i].is_pointer) work.operands.push_back({*(uint64_t*)parameters->at(i), 0});
    work.run = [=] {
        std::vector<void*> pointers;
        for (int i = 0; i < kernel->count; i++) pointers.push_back(parameters->at(i));
        emu_run(kernel, grid, block, dynamic_bytes, pointers.data(), chained);
    };
    return put(stream_of(stream), std::move(work));
}

// What cuLaunchKernelEx is given: CUlaunchConfig and CUlaunchAttribute.
struct Attribute {
    int id;
    char padding[4];
    unsigned value[16];
};
struct Config {
    unsigned grid[3], block[3], dynamic_bytes;
    void* stream;
    Attribute* attributes;
    unsigned number;
};

// The kernel may begin before the one before it has ended.
constexpr int programmatic_serialization = 6;

// Those that only a schedule could tell: priorities, access policies, cooperation of blocks that never wait.
bool is_harmless(const Attribute& attribute) {
    constexpr int ignore = 0, access_policy = 1, cluster = 4, priority = 8, memory_domain = 9;
    bool one_block = attribute.id == cluster && attribute.value[0] * attribute.value[1] * attribute.value[2] == 1;
    return one_block || attribute.id == ignore || attribute.id == access_policy || attribute.id == priority
           || attribute.id == memory_domain;
}

} // namespace
} // namespace emu

using namespace emu;

extern "C" {

CUresult cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned dynamic_bytes, void* stream, void** parameters, void** extra) {
    CALL;
    if (extra) return INVALID_VALUE;
    return launch(function, {gx, gy, gz}, {bx, by, bz}, dynamic_bytes, stream, parameters);
}

CUresult cuLaunchKernelEx(const Config* config, Function* function, void** parameters, void** extra) {
    CALL;
    if (extra) return INVALID_VALUE;
    bool chained = false;
    for (unsigned i = 0; i < config->number; i++) {
        const Attribute& attribute = config->attributes[i];
        if (attribute.id == programmatic_serialization) chained = attribute.value[0] != 0;
        else if (!is_harmless(attribute))
            emu_fail("%s: the launch attribute %d is not emulated", function->name.c_str(), attribute.id);
    }
    return launch(function, {config->grid[0], config->grid[1], config->grid[2]},
                  {config->block[0], config->block[1], config->block[2]}, config->dynamic_bytes, config->stream, parameters,
                  chained);
}

// For the BLAS libraries: work in a stream, on a copy of `argument`, with the device ranges that it touches. Those
// without bytes are left out.
int emu_enqueue(void* stream, const char* what, void (*run)(void*), const void* argument, size_t bytes,
                const uint64_t* begins, const size_t* lengths, int number) {
    std::lock_guard<std::recursive_mutex> guard(everything);
    auto copy = std::make_shared<std::vector<uint64_t>>((bytes + 7) / 8);
    memcpy(copy->data(), argument, bytes);
    Work work{what, [=] { run(copy->data()); }, {}, Kind::Blas};
    for (int i = 0; i < number; i++)
        if (lengths[i]) work.operands.push_back({begins[i], lengths[i]});
    return put(stream_of(stream), std::move(work));
}
}
