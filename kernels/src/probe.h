// Limits of this machine, measured with the kernels' own instructions: what a benchmark compares the scan with.
#pragma once

#include <chrono>

#include "backward.h"
#include "forward.h"

namespace CM_NAMESPACE {

// Runs `work` once on every thread at a time and returns what one thread did, times threads, per second.
template <class Work>
static double rate(int64_t threads, double done, Work work) {
    double seconds = 1e30;
    for (int attempt = 0; attempt < 3; attempt++) {
        auto start = std::chrono::steady_clock::now();
#pragma omp parallel num_threads((int)threads) if (threads > 1)
        work();
        double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        seconds = took < seconds ? took : seconds;
    }
    return done * (double)threads / seconds;
}

static INLINE void keep(vf v) { asm volatile("" : : "m"(v)); }

static double probe(int64_t what, int64_t threads, int64_t repeats) {
    constexpr int V = 8;  // independent chains
    if (what == 0)
        return rate(threads, (double)repeats * V * VW, [=] {
            Exp exp;
            vf total[V], d[V];
            UNROLL
            for (int i = 0; i < V; i++) total[i] = zero(), d[i] = splat(0.01f * (float)i);
            for (int64_t r = 0; r < repeats; r++) {
                UNROLL
                for (int i = 0; i < V; i++) {
                    asm volatile("" : IN_REGISTER(d[i]));
                    total[i] = total[i] + exp.within(d[i], splat(-3.0f));
                }
            }
            UNROLL
            for (int i = 0; i < V; i++) keep(total[i]);
        });
    if (what == 1)
        return rate(threads, (double)repeats * 2 * V * 2 * VW, [=] {
            vf a[2 * V];
            UNROLL
            for (int i = 0; i < 2 * V; i++) a[i] = splat((float)i);
            vf m = splat(0.999f), c = splat(1e-3f);
            for (int64_t r = 0; r < repeats; r++) {
                UNROLL
                for (int i = 0; i < 2 * V; i++) {
                    a[i] = fma(a[i], m, c);
                    asm volatile("" : IN_REGISTER(a[i]) : :);
                }
            }
            UNROLL
            for (int i = 0; i < 2 * V; i++) keep(a[i]);
        });
    if (what == 2) {  // each thread reads 64 MiB of its own, once per repeat
        constexpr int64_t floats = 16 << 20;
        return rate(threads, (double)repeats * floats * 4, [=] {
            float *p = crossmamba::thread_scratch().take(floats * 4);
            if (!p) return;
            static thread_local bool touched = false;
            if (!touched) memset(p, 0, floats * 4);
            touched = true;
            vf total[V] = {};
            for (int64_t r = 0; r < repeats; r++)
                for (int64_t i = 0; i < floats; i += V * VW) {
                    UNROLL
                    for (int j = 0; j < V; j++) total[j] = total[j] + load(p + i + j * VW);
                }
            for (int j = 0; j < V; j++) keep(total[j]);
        });
    }
    if (what == 3)
        return rate(threads, (double)repeats * STEPS * 16 * VW, [=] {
            Exp exp;
            alignas(64) float delta[STEPS * VW], x[STEPS * VW], y[STEPS * VW], A[16 * VW], h[16 * VW], projection[16];
            const float *rows[STEPS];
            for (int i = 0; i < STEPS * VW; i++) delta[i] = 0.01f, x[i] = 0.02f;
            for (int i = 0; i < 16 * VW; i++) A[i] = -1.0f, h[i] = 0.0f;
            for (int i = 0; i < 16; i++) projection[i] = 0.5f;
            for (int t = 0; t < STEPS; t++) rows[t] = projection;
            RowStarts starts;
            for (int t = 0; t < STEPS; t++) starts.at[t] = (const char *)projection;
            const Ahead<4> ahead = {{starts.at, starts.at, starts.at, starts.at}, {0, 0, 0, 0}};
            for (int64_t r = 0; r < repeats; r++)
                for (int64_t n = 0; n < 16; n += 8)
                    core_forward<8, FAST, false, false>(delta, x, rows, rows, n, nullptr, nullptr, y, A + n * VW, h + n * VW, STEPS,
                                                        n == 0, nullptr, 0, ahead, exp);
            keep(load(y));
            keep(load(h));
        });
    if (what == 4)
        return rate(threads, (double)repeats * CHUNK * 16 * JOINT * VW, [=] {
            Exp exp;
            constexpr int NB = 4, STATES = 16 * VW;
            alignas(64) static thread_local float record[JOINT * RECORDS], trace[(CHUNK + 1) * 16 * VW], sums[CHUNK * 2 * STATES];
            alignas(64) static thread_local float A[JOINT * STATES], kept[JOINT * STATES], adjoint[JOINT * STATES], dA[JOINT * STATES];
            alignas(64) float projection[16];
            const float *rows[CHUNK];
            for (float &x : record) x = 0.01f;
            for (int i = 0; i < JOINT * STATES; i++) A[i] = -1.0f, kept[i] = 0.1f, adjoint[i] = 0.1f;
            for (int i = 0; i < 16; i++) projection[i] = 0.5f;
            for (int t = 0; t < CHUNK; t++) rows[t] = projection;
            BackwardOperands o = {record, rows, rows, A, nullptr, nullptr, kept, adjoint, dA, nullptr, nullptr, sums, trace, 0, 16, CHUNK};
            for (int64_t r = 0; r < repeats; r++)
                for (o.n = 0; o.n < 16; o.n += NB) core_backward<NB, JOINT, FAST, true, false, false>(o, exp);
            keep(load(adjoint));
        });
    if (what == 5)  // each with an operand from the first cache
        return rate(threads, (double)repeats * 2 * V * 2 * VW, [=] {
            alignas(64) float data[2 * V * VW];
            vf a[2 * V], m = splat(0.999f);
            for (int i = 0; i < 2 * V * VW; i++) data[i] = 1e-3f;
            UNROLL
            for (int i = 0; i < 2 * V; i++) a[i] = splat((float)i);
            for (int64_t r = 0; r < repeats; r++) {
                UNROLL
                for (int i = 0; i < 2 * V; i++) {
                    a[i] = fma(a[i], m, load(data + i * VW));
                    asm volatile("" : IN_REGISTER(a[i]) : : "memory");
                }
            }
            UNROLL
            for (int i = 0; i < 2 * V; i++) keep(a[i]);
        });
    return 0.0;
}

}  // namespace CM_NAMESPACE
