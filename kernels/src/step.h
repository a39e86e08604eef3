// One step of a stream: the state (B, D, N) is changed in place, its states side by side as the caller keeps them.
#pragma once

#include "geometry.h"

namespace CM_NAMESPACE {

// Channels [d, d + VW) of sample b. Vectors run over states here; the sums over states are taken VW channels at a time.
static inline void step_channels(const cm_step &s, int64_t b, int64_t d, const Exp &exp) {
    const int64_t N = s.states;
    const int valid = (int)least(VW, s.channels - d);
    float delta[VW] = {0}, x[VW] = {0}, y[VW];
    auto read = [&](float *to, const cm_array &a) {
        if (a.c == 1)
            read_contiguous(to, a, b * a.b + d, valid, VW);
        else
            for (int i = 0; i < valid; i++) to[i] = read_element(a, b * a.b + (d + i) * a.c);
    };
    read(delta, s.dt);
    read(x, s.x);
    if (s.bias)
        for (int i = 0; i < valid; i++) delta[i] += s.bias[d + i];
    if (s.softplus) store(delta, softplus(load(delta), exp));

    vf sums[VW];
    UNROLL
    for (int i = 0; i < VW; i++) sums[i] = zero();
    float rest[VW] = {0};
    const int64_t per_group = s.channels / s.groups;
    const bool in_place = s.B.dtype == CM_FLOAT32 && s.C.dtype == CM_FLOAT32 && s.B.c == 1 && s.C.c == 1;
    for (int i = 0; i < valid; i++) {
        const int64_t group = (d + i) / per_group, B0 = b * s.B.b + group * s.B.g, C0 = b * s.C.b + group * s.C.g;
        float *h = s.state + (b * s.channels + d + i) * N;
        const float *A = s.A + (d + i) * N;
        const vf di = splat(delta[i]), xi = splat(delta[i] * x[i]);
        int64_t n = 0;
        if (in_place) {
            const float *B = (const float *)s.B.data + B0, *C = (const float *)s.C.data + C0;
            vf total = zero();
            for (; n + VW <= N; n += VW) {
                vf H = fma(exp.clamped(di, load(A + n) * splat((float)(LOG2E * EXP_UNITS))), load(h + n), xi * load(B + n));
                store(h + n, H);
                total = fma(load(C + n), H, total);
            }
            sums[i] = total;
        }
        for (; n < N; n += VW) {  // what is left, and every other layout of B and C
            const int count = (int)least(VW, N - n);
            float a[VW] = {0}, before[VW] = {0}, Bn[VW] = {0}, Cn[VW] = {0}, after[VW];
            for (int m = 0; m < count; m++) {
                a[m] = A[n + m];
                before[m] = h[n + m];
                Bn[m] = read_element(s.B, B0 + (n + m) * s.B.c);
                Cn[m] = read_element(s.C, C0 + (n + m) * s.C.c);
            }
            vf H = fma(exp.clamped(di, load(a) * splat((float)(LOG2E * EXP_UNITS))), load(before), xi * load(Bn));
            store(after, H);
            memcpy(h + n, after, (size_t)count * 4);
            rest[i] += sum(load(Cn) * H);
        }
    }
    add_pairs<1>(sums);
    add_pairs<2>(sums);
    if constexpr (VW > 4) add_pairs<4>(sums);
    if constexpr (VW > 8) add_pairs<8>(sums);
    store(y, sums[0] + load(rest));

    if (s.skip)
        for (int i = 0; i < valid; i++) y[i] += s.skip[d + i] * x[i];
    if (s.z.data) {
        float z[VW] = {0};
        read(z, s.z);
        store(y, load(y) * load(z) * sigmoid(load(z), exp));
    }
    for (int i = 0; i < valid; i++) write_element(s.out, b * s.out.b + (d + i) * s.out.c, y[i]);
}

}  // namespace CM_NAMESPACE
