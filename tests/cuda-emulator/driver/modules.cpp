// Modules: the PTX names kernels and their parameters, a library beside this one or in EMU_KERNELS has them for the host.
#include "modules.h"
#include <dirent.h>
#include <dlfcn.h>
#include <link.h>

namespace emu {
namespace {

struct Library {
    std::string path;
    void* handle;
    uint64_t ptx; // the hash of what it was built for
    std::map<std::string, const emu_kernel*> kernels;
};

std::string kernels_folder() {
    if (const char* folder = getenv("EMU_KERNELS")) return folder;
    Dl_info own;
    dladdr((void*)kernels_folder, &own);
    std::string path = own.dli_fname;
    return path.substr(0, path.rfind('/'));
}

Library open_library(const std::string& path) {
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    auto* kernel = handle ? (const emu_kernel*)dlsym(handle, "emu_kernels") : nullptr;
    if (!kernel) emu_fail("%s: %s", path.c_str(), dlerror());
    auto* ptx = (const uint64_t*)dlsym(handle, "emu_ptx");
    Library library{path, handle, ptx ? *ptx : 0, {}};
    for (; kernel->name; kernel++) library.kernels[kernel->name] = kernel;
    return library;
}

const std::vector<Library>& libraries() {
    static const std::vector<Library> all = [] {
        std::vector<Library> found;
        std::string folder = kernels_folder();
        std::set<std::string> names;
        if (DIR* entries = opendir(folder.c_str())) {
            while (dirent* entry = readdir(entries))
                if (!strncmp(entry->d_name, "libemuk_", 8)) names.insert(entry->d_name);
            closedir(entries);
        }
        for (auto& name : names) found.push_back(open_library(folder + "/" + name));
        return found;
    }();
    return all;
}

// What the PTX says of a kernel.
struct Entry {
    std::vector<size_t> parameter_bytes;
    int most_threads;
};

// `.param .u64 name` or `.param .align 4 .b8 name[20]`.
size_t parameter_bytes(const char* declaration) {
    if (strncmp(declaration, ".align", 6)) return atol(declaration + 2) / 8;
    return atol(strchr(declaration, '[') + 1);
}

std::map<std::string, Entry> entries_of(const char* ptx) {
    std::map<std::string, Entry> entries;
    for (const char* at = ptx; (at = strstr(at, ".entry "));) {
        at += strlen(".entry ");
        const char* end = at + strcspn(at, "( \n\t");
        const char* close = strchr(end, ')');
        const char* body = close ? strchr(close, '{') : nullptr;
        if (!body) break;
        Entry entry{{}, 1024};
        for (const char* p = end; (p = strstr(p, ".param ")) && p < close;) {
            p += strlen(".param ");
            entry.parameter_bytes.push_back(parameter_bytes(p));
        }
        const char* most = strstr(close, ".maxntid"); // up to three sizes
        unsigned x, y = 1, z = 1;
        if (most && most < body && sscanf(most, ".maxntid %u , %u , %u", &x, &y, &z) >= 1) entry.most_threads = x * y * z;
        entries[std::string(at, end)] = entry;
        at = end;
    }
    return entries;
}

bool has_all(const Library& library, const std::map<std::string, Entry>& entries) {
    for (auto& entry : entries)
        if (!library.kernels.count(entry.first)) return false;
    return true;
}

uint64_t fnv1a(const char* text) {
    uint64_t value = 0xcbf29ce484222325;
    for (; *text; text++) value = (value ^ (unsigned char)*text) * 0x100000001b3;
    return value;
}

// The library that was built for this very PTX; else the one that has all of its kernels, if only one does.
const Library* library_for(const char* ptx, const std::map<std::string, Entry>& entries) {
    std::vector<const Library*> found;
    uint64_t hash = fnv1a(ptx);
    for (const Library& library : libraries()) {
        if (!has_all(library, entries)) continue;
        if (library.ptx == hash) return &library;
        found.push_back(&library);
    }
    if (found.size() > 1)
        emu_fail("%s and %s both have the kernel %s, and neither was built for this PTX", found[0]->path.c_str(),
                 found[1]->path.c_str(), entries.begin()->first.c_str());
    return found.empty() ? nullptr : found[0];
}

void check_parameters(const std::string& name, const Entry& entry, const emu_kernel& kernel) {
    bool same = (int)entry.parameter_bytes.size() == kernel.count;
    for (int i = 0; same && i < kernel.count; i++) same = entry.parameter_bytes[i] == kernel.parameters[i].size;
    if (!same) emu_fail("%s: its parameters in the PTX and in the host library differ: build that again", name.c_str());
}

CUresult load(Module** out, const char* ptx) {
    if (!strstr(ptx, ".version")) return INVALID_IMAGE;
    auto entries = entries_of(ptx);
    if (entries.empty()) return INVALID_PTX;
    auto* module = new Module;
    // Loading a module without a host library is no error, as long as nobody asks for its kernels.
    for (auto& [name, entry] : entries) module->functions[name] = {nullptr, name, entry.most_threads};
    if (const Library* library = library_for(ptx, entries)) {
        module->library = library->handle;
        for (auto& [name, entry] : entries) {
            const emu_kernel* kernel = library->kernels.at(name);
            check_parameters(name, entry, *kernel);
            module->functions[name].kernel = kernel;
        }
    }
    *out = module;
    return OK;
}

} // namespace
} // namespace emu

using namespace emu;

extern "C" {

CUresult cuModuleLoadData(Module** out, const void* image) {
    CALL;
    NOT_IN_CAPTURE;
    return load(out, (const char*)image);
}
CUresult cuModuleLoadDataEx(Module** out, const void* image, unsigned, int*, void**) {
    CALL;
    NOT_IN_CAPTURE;
    return load(out, (const char*)image);
}
CUresult cuModuleLoad(Module** out, const char* path) {
    CALL;
    NOT_IN_CAPTURE;
    FILE* file = fopen(path, "rb");
    if (!file) return FILE_NOT_FOUND;
    std::string text;
    char block[65536];
    while (size_t got = fread(block, 1, sizeof block, file)) text.append(block, got);
    fclose(file);
    return load(out, text.c_str());
}
CUresult cuModuleUnload(Module* module) {
    CALL;
    run_all();
    delete module;
    return OK;
}
CUresult cuModuleGetFunction(Function** out, Module* module, const char* name) {
    CALL;
    auto found = module->functions.find(name);
    if (found == module->functions.end()) return NOT_FOUND;
    if (!found->second.kernel) emu_fail("no host library has the kernel %s", name);
    *out = &found->second;
    return OK;
}
CUresult cuModuleGetGlobal_v2(CUdeviceptr* address, size_t* bytes, Module* module, const char* name) {
    CALL;
    void* symbol = module->library ? dlsym(module->library, name) : nullptr;
    if (!symbol) return NOT_FOUND;
    Dl_info library;
    ElfW(Sym)* entry = nullptr;
    dladdr1(symbol, &library, (void**)&entry, RTLD_DL_SYMENT);
    // From now on it is device memory like any other.
    allocations.emplace((uint64_t)symbol, Allocation{entry->st_size});
    if (address) *address = (CUdeviceptr)symbol;
    if (bytes) *bytes = entry->st_size;
    return OK;
}

// Of a kernel: 0, the most threads of a block; 8, its dynamic shared memory.
CUresult cuFuncSetAttribute(Function* function, int attribute, int value) {
    CALL;
    if (attribute != 8) return OK;
    if (value < 0 || value > shared_opt_in) return INVALID_VALUE;
    function->most_dynamic = value;
    return OK;
}
CUresult cuFuncGetAttribute(int* value, int attribute, Function* function) {
    CALL;
    *value = attribute == 0 ? function->most_threads : attribute == 8 ? function->most_dynamic : 0;
    return OK;
}
CUresult cuFuncSetCacheConfig(Function*, int) {
    CALL;
    return OK;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function*, int threads, size_t) {
    CALL;
    if (threads <= 0) return INVALID_VALUE;
    *blocks = 2048 / threads;
    return OK;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, Function*, int threads, size_t, unsigned) {
    CALL;
    if (threads <= 0) return INVALID_VALUE;
    *blocks = 2048 / threads;
    return OK;
}
}
