// The kernels for one instruction set: compiled once per set, with CM_NAMESPACE and CM_TABLE naming it.
#include "backward_pass.h"
#include "dispatch.h"
#include "forward.h"
#include "probe.h"
#include "step.h"

namespace CM_NAMESPACE {

#if defined(__AVX512F__) || defined(__AVX2__)
// 2^(k / VW), less the k << SHIFT that adding to the exponent brings along.
#define ENTRY(k) (int32_t)(__builtin_bit_cast(int32_t, (float)__builtin_exp2((double)(k) / VW)) - ((k) << Exp::SHIFT))
#define FOUR(k) ENTRY(k), ENTRY(k + 1), ENTRY(k + 2), ENTRY(k + 3)
#if defined(__AVX512F__)
extern const int32_t EXP_TABLE[VW] = {FOUR(0), FOUR(4), FOUR(8), FOUR(12)};
#else
extern const int32_t EXP_TABLE[VW] = {FOUR(0), FOUR(4)};
#endif
#endif

static int64_t saved_elements(const cm_scan &s) {
    int64_t padded = s.groups * ceil_div(s.channels / s.groups, CROSSMAMBA_PAD) * CROSSMAMBA_PAD;
    return s.batch * s.routes * (s.steps / CHUNK + 1) * padded * s.states;
}

// Samples are gathered into parts that add up their parameters' gradients. As long as there are no more than 4 threads
// the parts do not depend on them, so neither do the sums.
static int64_t batch_parts(const cm_scan &s, int64_t threads) { return least(s.batch, threads > 4 ? 4 * threads : 16); }

static int64_t splits(const cm_scan &s, int64_t threads) { return channel_splits(Geometry(s), batch_parts(s, threads), threads); }

// One parallel region that packs the parameters, then runs `tasks` tasks of (task, scratch) with a Pass each.
template <class Pass, class MakePass, class Task>
static int run_tasks(const cm_scan &s, const Geometry &g, Packed &packed, int64_t threads, int64_t tasks, MakePass make, Task task) {
    int failed = 0;
    const int64_t parameters = s.routes * g.vectors;
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    {
        FlushSubnormals flush;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < parameters; i++) packed.fill(s, g, i / g.vectors, i % g.vectors);
        Pass pass = make();
        float *block = crossmamba::thread_scratch().take((size_t)pass.scratch());
        if (!block) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < tasks; i++)
            if (block) task(pass, i, block);
    }
    return failed ? CM_NO_MEMORY : CM_OK;
}

static int forward(const cm_scan &s, int64_t threads) {
    const Geometry g(s);
    Packed packed;
    Cutter count(nullptr);
    packed.cut(count, s, g);
    float *shared = crossmamba::call_scratch().take(count.used());
    if (!shared) return CM_NO_MEMORY;
    Cutter cutter(shared);
    packed.cut(cutter, s, g);
    if (!g.tiles) return CM_OK;
    const int64_t parts = channel_splits(g, s.batch, threads);
    return run_tasks<ForwardPass>(
        s, g, packed, threads, s.batch * parts, [&] { return ForwardPass(s, packed); },
        [&](ForwardPass &pass, int64_t i, float *block) {
            int64_t part = i % parts;
            pass.run(i / parts, g.tiles * part / parts, g.tiles * (part + 1) / parts, block);
        });
}

static int backward(const cm_scan &s, int64_t threads) {
    const Geometry g(s);
    const int64_t parts = batch_parts(s, threads), pieces = splits(s, threads);
    Packed packed;
    Partials partials;
    Cutter count(nullptr);
    packed.cut(count, s, g);
    partials.cut(count, s, g, parts);
    float *shared = crossmamba::call_scratch().take(count.used());
    if (!shared) return CM_NO_MEMORY;
    Cutter cutter(shared);
    packed.cut(cutter, s, g);
    partials.cut(cutter, s, g, parts);
    if (!g.tiles || !parts) return CM_OK;  // the caller has no gradient to read, or zeros
    int status = run_tasks<BackwardPass>(
        s, g, packed, threads, parts * pieces, [&] { return BackwardPass(s, packed, partials); },
        [&](BackwardPass &pass, int64_t i, float *block) {
            int64_t part = i / pieces, piece = i % pieces;
            pass.run(part, s.batch * part / parts, s.batch * (part + 1) / parts, piece, g.tiles * piece / pieces,
                     g.tiles * (piece + 1) / pieces, block);
        });
    if (status != CM_OK) return status;
#pragma omp parallel for num_threads((int)threads) schedule(static) if (threads > 1)
    for (int64_t i = 0; i < s.routes * g.vectors; i++) partials.add_up(s, g, i / g.vectors, i % g.vectors);
    return CM_OK;
}

static int step(const cm_step &s, int64_t threads) {
    const int64_t blocks = ceil_div(s.channels, VW), tasks = s.batch * blocks;
#pragma omp parallel num_threads((int)threads) if (threads > 1 && tasks * s.states > 1024)
    {
        FlushSubnormals flush;
        const Exp exp{};
#pragma omp for schedule(static)
        for (int64_t i = 0; i < tasks; i++) step_channels(s, i / blocks, i % blocks * VW, exp);
    }
    return CM_OK;
}

}  // namespace CM_NAMESPACE

namespace crossmamba {
const Kernels CM_TABLE = {CM_NAMESPACE::saved_elements, CM_NAMESPACE::splits, CM_NAMESPACE::forward,
                          CM_NAMESPACE::backward,       CM_NAMESPACE::step,   CM_NAMESPACE::probe};
}
