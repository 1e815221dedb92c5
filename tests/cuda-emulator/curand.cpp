// cuRAND: uniform and normal numbers of our own, which are not those of the real library.
#include "blas/gemm.h"
#include <cmath>

namespace {

enum Status { SUCCESS = 0, LENGTH_NOT_MULTIPLE = 105, LAUNCH_FAILURE = 201 };

struct Generator {
    uint64_t seed = 0, offset = 0;
    void* stream = nullptr;
};

struct Draw {
    uint64_t seed, begin;
    size_t count;
    bool doubles, normal;
    double mean, deviation;
};

uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

// In (0, 1].
double uniform(uint64_t seed) {
    return (double)((mix(seed) >> 11) + 1) / 9007199254740993.0;
}

// Of a pair of uniform numbers the two normal ones of Box and Muller.
double normal(uint64_t seed, size_t i) {
    double size = std::sqrt(-2 * std::log(uniform(seed + (i & ~1ull))));
    double angle = 6.283185307179586 * uniform(seed + (i | 1));
    return size * (i & 1 ? std::sin(angle) : std::cos(angle));
}

void run(void* argument) {
    auto& draw = *(const Draw*)argument;
    for (size_t i = 0; i < draw.count; i++) {
        double value = draw.normal ? draw.mean + draw.deviation * normal(draw.seed, i) : uniform(draw.seed + i);
        if (draw.doubles) ((double*)draw.begin)[i] = value;
        else ((float*)draw.begin)[i] = (float)value;
    }
}

int put(Generator* generator, Draw draw) {
    if (draw.normal && draw.count % 2) return LENGTH_NOT_MULTIPLE;
    draw.seed = mix(generator->seed) + generator->offset;
    generator->offset += draw.count;
    size_t bytes = draw.count * (draw.doubles ? 8 : 4);
    return emu_enqueue(generator->stream, "curand", run, &draw, sizeof draw, &draw.begin, &bytes, 1) ? LAUNCH_FAILURE
                                                                                                   : SUCCESS;
}

} // namespace

extern "C" {

int curandCreateGenerator(Generator** out, int) {
    CALL;
    *out = new Generator;
    return SUCCESS;
}
int curandDestroyGenerator(Generator* generator) {
    delete generator;
    return SUCCESS;
}
int curandSetPseudoRandomGeneratorSeed(Generator* generator, unsigned long long seed) {
    generator->seed = seed, generator->offset = 0;
    return SUCCESS;
}
int curandSetGeneratorOffset(Generator* generator, unsigned long long offset) {
    generator->offset = offset;
    return SUCCESS;
}
int curandSetStream(Generator* generator, void* stream) {
    generator->stream = stream;
    return SUCCESS;
}
int curandGenerateUniform(Generator* generator, float* to, size_t count) {
    return put(generator, {0, (uint64_t)to, count, false, false, 0, 0});
}
int curandGenerateUniformDouble(Generator* generator, double* to, size_t count) {
    return put(generator, {0, (uint64_t)to, count, true, false, 0, 0});
}
int curandGenerateNormal(Generator* generator, float* to, size_t count, float mean, float deviation) {
    return put(generator, {0, (uint64_t)to, count, false, true, mean, deviation});
}
int curandGenerateNormalDouble(Generator* generator, double* to, size_t count, double mean, double deviation) {
    return put(generator, {0, (uint64_t)to, count, true, true, mean, deviation});
}

REFUSED(curandGenerate)
REFUSED(curandGenerateLogNormal)
REFUSED(curandGenerateLogNormalDouble)
REFUSED(curandGenerateLongLong)
REFUSED(curandGeneratePoisson)
}
