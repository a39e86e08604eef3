// The C interface: which instruction sets there are, and the scratch memory of the threads.
#include "dispatch.h"

#include <stdlib.h>
#include <string.h>

#include "scratch.h"

namespace crossmamba {

static bool poison = false;

Scratch::~Scratch() { free(block_); }

float *Scratch::take(size_t bytes) {
    size_t wanted = (bytes + 64) / 64 * 64;
    if (wanted > size_) {
        free(block_);
        block_ = aligned_alloc(64, wanted);
        size_ = block_ ? wanted : 0;
    }
    if (block_ && poison) memset(block_, 0xff, size_);  // all ones is a NaN
    return (float *)block_;
}

Scratch &thread_scratch() {
    static thread_local Scratch scratch;
    return scratch;
}

Scratch &call_scratch() {
    static thread_local Scratch scratch;
    return scratch;
}

static const Kernels *kernels(int64_t isa) {
    if (!(isa >= 0 && isa < 8 && (crossmamba_isas() >> isa & 1))) return nullptr;
#if defined(CM_HAVE_X86)
    if (isa == CM_AVX512) return &avx512_kernels;
    if (isa == CM_AVX2) return &avx2_kernels;
#endif
    return &baseline_kernels;
}

}  // namespace crossmamba

using crossmamba::kernels;

extern "C" {

int64_t crossmamba_abi(void) { return CROSSMAMBA_ABI; }

int64_t crossmamba_isas(void) {
    int64_t found = 1 << CM_BASELINE;
#if defined(CM_HAVE_X86)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found |= 1 << CM_AVX2;  // and F16C, on all of them
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        found |= 1 << CM_AVX512;
#endif
    return found;
}

int64_t crossmamba_saved_elements(const cm_scan *scan) { return crossmamba::baseline_kernels.saved_elements(*scan); }

int64_t crossmamba_splits(const cm_scan *scan, int64_t threads) { return crossmamba::baseline_kernels.splits(*scan, threads); }

int crossmamba_forward(const cm_scan *scan, int64_t threads, int64_t isa) {
    const crossmamba::Kernels *table = kernels(isa);
    return table ? table->forward(*scan, threads) : CM_BAD_ISA;
}

int crossmamba_backward(const cm_scan *scan, int64_t threads, int64_t isa) {
    const crossmamba::Kernels *table = kernels(isa);
    return table ? table->backward(*scan, threads) : CM_BAD_ISA;
}

int crossmamba_step(const cm_step *step, int64_t threads, int64_t isa) {
    const crossmamba::Kernels *table = kernels(isa);
    return table ? table->step(*step, threads) : CM_BAD_ISA;
}

double crossmamba_probe(int64_t what, int64_t threads, int64_t isa, int64_t repeats) {
    const crossmamba::Kernels *table = kernels(isa);
    return table ? table->probe(what, threads, repeats) : 0.0;
}

void crossmamba_poison(int64_t on) { crossmamba::poison = on != 0; }

}  // extern "C"
