// EMU_PROF=1: where the time went, told when the process ends.
#include "driver.h"
#include <chrono>

namespace emu {
namespace {

struct Spent {
    size_t times = 0;
    double milliseconds = 0;
};

struct Profile {
    std::map<std::string, Spent> by_work;

    ~Profile() {
        std::vector<std::pair<double, std::string>> order;
        for (auto& [what, spent] : by_work) order.push_back({-spent.milliseconds, what});
        std::sort(order.begin(), order.end());
        for (auto& one : order) {
            const Spent& spent = by_work[one.second];
            fprintf(stderr, "emu: %9.1f ms %7zu x %s\n", spent.milliseconds, spent.times, one.second.c_str());
        }
    }
};

} // namespace

void run_timed(const Work& work) {
    static const bool wanted = setting("EMU_PROF", false);
    if (!wanted) return work.run();
    static Profile profile;
    auto began = std::chrono::steady_clock::now();
    work.run();
    Spent& spent = profile.by_work[work.what];
    spent.times++;
    spent.milliseconds += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count();
}

} // namespace emu
