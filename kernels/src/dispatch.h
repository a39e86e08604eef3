// One table of entry points per instruction set; the C functions of scan.h pick one.
#pragma once

#include "scan.h"

namespace crossmamba {

struct Kernels {
    int64_t (*saved_elements)(const cm_scan &);
    int64_t (*splits)(const cm_scan &, int64_t threads);
    int (*forward)(const cm_scan &, int64_t threads);
    int (*backward)(const cm_scan &, int64_t threads);
    int (*step)(const cm_step &, int64_t threads);
    double (*probe)(int64_t what, int64_t threads, int64_t repeats);
};

extern const Kernels baseline_kernels;
#if defined(CM_HAVE_X86)
extern const Kernels avx2_kernels, avx512_kernels;
#endif

}  // namespace crossmamba
