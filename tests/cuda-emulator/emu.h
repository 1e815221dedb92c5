/* What a test asks the emulated driver besides CUDA's own calls. All of it is exported by libcuda.so.1: a program that
 * must also run on a real driver looks the functions up with dlsym. Plain C; every count is of 64 bits. */
#ifndef EMU_H
#define EMU_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Counted when work is queued (a graph's nodes: when it is launched), except the last group. */
struct emu_counts {
    uint64_t kernel_launches; /* by cuLaunchKernel and cuLaunchKernelEx, outside of capture */
    uint64_t graph_launches;
    uint64_t graph_kernels; /* kernel nodes of the graphs launched */
    uint64_t blas_calls;    /* cuBLAS, cuBLASLt and cuRAND, as nodes of graphs too */
    uint64_t allocations;
    uint64_t frees;
    uint64_t htod_copies, htod_bytes;
    uint64_t dtoh_copies, dtoh_bytes;
    uint64_t dtod_copies, dtod_bytes;
    uint64_t memsets, memset_bytes;
    uint64_t stream_synchronisations; /* of copies from or to pageable memory none are counted */
    uint64_t event_synchronisations;
    uint64_t context_synchronisations;
    /* Device memory that kernels accessed so far, in the flavour `count`; else 0. Synchronise first: what is queued has
     * not run. Unique: each byte once for each launch. */
    uint64_t read_bytes, written_bytes;
    uint64_t unique_read_bytes, unique_written_bytes;
};
void emu_counters(struct emu_counts* counts);

/* Sets all counts to 0, those by name too. */
void emu_reset_counters(void);

/* Launches of a kernel, those as a graph's node included. */
uint64_t emu_launches(const char* kernel);

/* What one kernel accessed, in the flavour `count`. */
struct emu_traffic {
    uint64_t launches; /* that have run */
    uint64_t read_bytes, written_bytes;
    uint64_t unique_read_bytes, unique_written_bytes;
};
void emu_traffic_of(const char* kernel, struct emu_traffic* traffic);

/* Says what a part of an allocation is, for programs that cut up their allocations themselves. As soon as an allocation
 * has any declaration, only its live parts may be accessed: anything else aborts. Work that is already queued is judged
 * by what was declared when it was queued. Returns 0, or 1 if the range is not inside of one allocation. */
enum emu_state { EMU_FORGET = 0, EMU_LIVE = 1, EMU_FREED = 2, EMU_RED_ZONE = 3 };
int emu_declare(uint64_t address, uint64_t bytes, int state);

/* Lets the `after`-th call of a driver, cuBLAS or cuBLASLt function from now on (1: the very next) return `code` and do
 * nothing. A code that a real driver does not recover from (700, 214, 719 and their like) makes every later call of the
 * context fail with it. Several may be set for one function; `emu_fail_next(0, 0, 0)` takes all back, and revives the
 * context. With EMU_SKIPPED a driver's call says that it succeeded, and still does nothing: what a program would do that
 * had forgotten it, if it asks for no result. With EMU_HUNG it never returns, and no other call does. */
enum { EMU_SKIPPED = -1, EMU_HUNG = -2 };
void emu_fail_next(const char* call, int after, int code);

#ifdef __cplusplus
}
#endif
#endif
