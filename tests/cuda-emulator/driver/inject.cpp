// Failures that a test asked for, and the loss of a context.
#include "driver.h"
#include <sstream>
#include <unistd.h>

namespace emu {
namespace {

struct Failure {
    std::string call;
    int after, code;
};
// What EMU_FAIL asks for: CALL:AFTER:CODE, with commas between several.
std::vector<Failure> asked_at_start() {
    std::vector<Failure> asked;
    const char* text = getenv("EMU_FAIL");
    std::istringstream all(text ? text : "");
    for (std::string one; std::getline(all, one, ',');) {
        char call[64];
        int after, code, end = 0;
        if (sscanf(one.c_str(), "%63[^:]:%d:%d%n", call, &after, &code, &end) != 3 || end != (int)one.size())
            emu_fail("EMU_FAIL: '%s' is not CALL:AFTER:CODE", one.c_str());
        asked.push_back({call, after, code});
    }
    return asked;
}

std::vector<Failure> failures = asked_at_start();
CUresult lost;

// After these a real context is of no more use: kernels' faults, memory and links that cannot be corrected, what is outside of
// the device, and what nobody knows.
bool ends_context(int code) {
    for (int ends : {214, 220, 226, 700, 702, 710, 721, 810, 911, 999})
        if (code == ends) return true;
    return code >= 714 && code <= 719;
}

} // namespace

CUresult injected(const char* call) {
    for (size_t i = 0; i < failures.size(); i++) {
        if (failures[i].call != call || --failures[i].after > 0) continue;
        int code = failures[i].code;
        failures.erase(failures.begin() + i);
        while (code == EMU_HUNG) pause();
        if (ends_context(code)) {
            lost = code;
            forget_all();
        }
        return code;
    }
    return OK;
}

CUresult said(CUresult code) {
    return code == EMU_SKIPPED ? OK : code;
}

CUresult lost_with() {
    return lost;
}

} // namespace emu

using namespace emu;

extern "C" {

void emu_fail_next(const char* call, int after, int code) {
    std::lock_guard<std::recursive_mutex> guard(everything);
    if (call) {
        failures.push_back({call, after, code});
        return;
    }
    failures.clear();
    lost = OK;
}

// For the BLAS libraries, whose codes are others: 0, what was asked for, or "execution failed" in a lost context.
int emu_called(const char* call) {
    std::lock_guard<std::recursive_mutex> guard(everything);
    constexpr int execution_failed = 13;
    int code = injected(call);
    return lost ? execution_failed : code;
}
}
