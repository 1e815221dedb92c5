// The CUDA runtime library. Binaries that nvcc compiled register their kernels with it when they are loaded, which is
// let pass; whatever would run one is refused.
extern "C" {

[[noreturn]] void emu_not_emulated(const char* name);

void** __cudaRegisterFatBinary(void*) {
    static void* handle[4];
    return handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction() {}
void __cudaRegisterVar() {}

#define REFUSED(name) \
    void name() { emu_not_emulated(#name); }
REFUSED(__cudaGetKernel)
REFUSED(__cudaLaunchKernel)
REFUSED(__cudaLaunchKernel_ptsz)
REFUSED(__cudaPopCallConfiguration)
REFUSED(__cudaPushCallConfiguration)
REFUSED(cudaDeviceGetAttribute)
REFUSED(cudaDeviceSynchronize)
REFUSED(cudaFree)
REFUSED(cudaFreeAsync)
REFUSED(cudaFreeAsync_ptsz)
REFUSED(cudaFuncGetAttributes)
REFUSED(cudaFuncSetAttribute)
REFUSED(cudaGetDevice)
REFUSED(cudaGetDeviceCount)
REFUSED(cudaGetErrorName)
REFUSED(cudaGetErrorString)
REFUSED(cudaGetLastError)
REFUSED(cudaLaunchKernel)
REFUSED(cudaLaunchKernel_ptsz)
REFUSED(cudaMalloc)
REFUSED(cudaMallocAsync)
REFUSED(cudaMallocAsync_ptsz)
REFUSED(cudaMemcpyAsync)
REFUSED(cudaMemcpyAsync_ptsz)
REFUSED(cudaMemsetAsync)
REFUSED(cudaMemsetAsync_ptsz)
REFUSED(cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags)
REFUSED(cudaPeekAtLastError)
REFUSED(cudaSetDevice)
REFUSED(cudaStreamSynchronize)
REFUSED(cudaStreamSynchronize_ptsz)
}
