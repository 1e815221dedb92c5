// NVRTC, for binaries that link it: whatever would compile is refused.
extern "C" {

[[noreturn]] void emu_not_emulated(const char* name);

int nvrtcVersion(int* major, int* minor) {
    *major = 13, *minor = 0;
    return 0;
}

#define REFUSED(name) \
    void name() { emu_not_emulated(#name); }
REFUSED(nvrtcCompileProgram)
REFUSED(nvrtcCreateProgram)
REFUSED(nvrtcDestroyProgram)
REFUSED(nvrtcGetCUBIN)
REFUSED(nvrtcGetCUBINSize)
REFUSED(nvrtcGetErrorString)
REFUSED(nvrtcGetLoweredName)
REFUSED(nvrtcGetPTX)
REFUSED(nvrtcGetPTXSize)
REFUSED(nvrtcGetProgramLog)
REFUSED(nvrtcGetProgramLogSize)
REFUSED(nvrtcAddNameExpression)
REFUSED(nvrtcGetNumSupportedArchs)
REFUSED(nvrtcGetSupportedArchs)
}
