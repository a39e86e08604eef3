// One step of a stream: the state (B, D, N) is changed in place, its states side by side as the caller keeps them.
#pragma once

#include "geometry.h"

namespace CM_NAMESPACE {

// VW channels of one group whose N states are whole vectors: h, A: [channel][state], B, C: [state], delta in exp's units,
// x = delta x: [channel]. sums: C h, still to be added over its lanes.
static INLINE void whole_rows(float *h, const float *A, const float *B, const float *C, const float *delta, const float *x, int64_t N,
                              vf *sums, const Exp &exp) {
    UNROLL
    for (int i = 0; i < VW; i++) {
        const vf d = splat(delta[i]), dx = splat(x[i]);
        vf total = zero();
        for (int64_t n = 0; n < N; n += VW) {
            __builtin_prefetch(h + (VW + i) * N + n, 1, 3);  // the next channels'
            vf H = fma(exp.clamped(d, load(A + i * N + n)), load(h + i * N + n), dx * load(B + n));
            store(h + i * N + n, H);
            total = fma(load(C + n), H, total);
        }
        sums[i] = total;
    }
}

// One channel with any number of states and any layout of B and C: C . h. delta in exp's units, dx = delta x.
static inline float any_row(const cm_step &s, int64_t b, int64_t channel, float delta, float dx, const Exp &exp) {
    const int64_t N = s.states, group = channel / (s.channels / s.groups);
    const int64_t B0 = b * s.B.b + group * s.B.g, C0 = b * s.C.b + group * s.C.g;
    float *h = s.state + (b * s.channels + channel) * N, y = 0;
    for (int64_t n = 0; n < N; n += VW) {
        const int count = (int)least(VW, N - n);
        float a[VW] = {0}, before[VW] = {0}, B[VW] = {0}, C[VW] = {0}, after[VW];
        for (int i = 0; i < count; i++) {
            a[i] = s.A[channel * N + n + i];
            before[i] = h[n + i];
            B[i] = read_element(s.B, B0 + (n + i) * s.B.c);
            C[i] = read_element(s.C, C0 + (n + i) * s.C.c);
        }
        vf H = fma(exp.clamped(splat(delta), load(a)), load(before), splat(dx) * load(B));
        store(after, H);
        memcpy(h + n, after, (size_t)count * 4);
        y += sum(load(C) * H);
    }
    return y;
}

// `valid` neighbouring floats, zeros after them; zeros if there are none.
static INLINE vf some_floats(const float *p, int valid) {
    if (p && valid == VW) return load(p);
    float lanes[VW] = {0};
    for (int i = 0; p && i < valid; i++) lanes[i] = p[i];
    return load(lanes);
}

// Row b, channels [d, d + valid) of a (B, D) array.
static INLINE vf some_channels(const cm_array &a, int64_t b, int64_t d, int valid) {
    if (a.dtype == CM_FLOAT32 && a.c == 1) return some_floats((const float *)a.data + b * a.b + d, valid);
    float lanes[VW] = {0};
    for (int i = 0; i < valid; i++) lanes[i] = read_element(a, b * a.b + (d + i) * a.c);
    return load(lanes);
}

// Channels [d, d + VW) of sample b. Vectors run over states here; the sums over states are taken VW channels at a time.
static inline void step_channels(const cm_step &s, int64_t b, int64_t d, const Exp &exp) {
    const int64_t N = s.states;
    const int valid = (int)least(VW, s.channels - d);
    float delta[VW], x[VW], y[VW];
    vf step = some_channels(s.dt, b, d, valid) + some_floats(s.bias ? s.bias + d : nullptr, valid);
    const vf input = some_channels(s.x, b, d, valid);
    if (s.softplus) step = softplus(step, exp);
    store(delta, step * splat((float)(LOG2E * EXP_UNITS)));  // in exp's units
    store(x, step * input);

    vf sums[VW];
    const int64_t per_group = s.channels / s.groups, group = d / per_group;
    const bool in_place = s.B.dtype == CM_FLOAT32 && s.C.dtype == CM_FLOAT32 && s.B.c == 1 && s.C.c == 1;
    if (in_place && valid == VW && N % VW == 0 && d + VW <= (group + 1) * per_group) {
        const int64_t at = b * s.channels + d;
        whole_rows(s.state + at * N, s.A + d * N, (const float *)s.B.data + b * s.B.b + group * s.B.g,
                   (const float *)s.C.data + b * s.C.b + group * s.C.g, delta, x, N, sums, exp);
        add_pairs<1>(sums);
        add_pairs<2>(sums);
        if constexpr (VW > 4) add_pairs<4>(sums);
        if constexpr (VW > 8) add_pairs<8>(sums);
    } else {
        for (int i = 0; i < VW; i++) y[i] = i < valid ? any_row(s, b, d + i, delta[i], x[i], exp) : 0.0f;
        sums[0] = load(y);
    }
    vf out = fma(some_floats(s.skip ? s.skip + d : nullptr, valid), input, sums[0]);
    if (s.z.data) {
        const vf gate = some_channels(s.z, b, d, valid);
        out = out * (gate * sigmoid(gate, exp));
    }
    if (s.out.dtype == CM_FLOAT32 && s.out.c == 1 && valid == VW) return store((float *)s.out.data + b * s.out.b + d, out);
    store(y, out);
    for (int i = 0; i < valid; i++) write_element(s.out, b * s.out.b + (d + i) * s.out.c, y[i]);
}

}  // namespace CM_NAMESPACE
