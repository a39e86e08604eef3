// Scans with one state per channel (N = 1): so little arithmetic that a pass through tile buffers would cost as much.
// Everything of a step happens in registers, for JV vectors of channels at a time.
#pragma once

#include "geometry.h"

namespace CM_NAMESPACE {

struct SingleRows {  // of one step each, JV vectors from an offset on
    const float *const *u, *const *delta, *const *z;  // z: NULL without a gate
    const float *const *B, *const *C;
    bool delta_once, softplus;
};

// A, h, Bc, Cc, skip, bias: [vector][lane].
template <int JV, bool PER_CHANNEL_B, bool PER_CHANNEL_C>
static INLINE void single_forward(const SingleRows &rows, int64_t offset, const float *A, const float *Bc, const float *Cc,
                                  const float *skip, const float *bias, float *h, float *const *out, bool add, int steps,
                                  float *kept, int64_t kept_stride, const Ahead<4> &ahead, const Exp &exp) {
    vf H[JV], d[JV], a[JV];
    UNROLL
    for (int j = 0; j < JV; j++) {
        H[j] = load(h + j * VW);
        if (rows.delta_once) {
            d[j] = load(rows.delta[0] + offset + j * VW) + load(bias + j * VW);
            if (rows.softplus) d[j] = softplus(d[j], exp);
            a[j] = exp.clamped(d[j], load(A + j * VW));
        }
    }
    const int piece = kept ? CHUNK : steps;  // an undivided loop is faster
    for (int from = 0; from < steps; from += piece) {
        const int to = from + piece < steps ? from + piece : steps;
        if (kept) {
            UNROLL
            for (int j = 0; j < JV; j++) store(kept + j * VW, H[j]);
            kept += kept_stride;
        }
        for (int t = from; t < to; t++) {
            const vf b = splat(rows.B[t][0]), c = splat(rows.C[t][0]);
            UNROLL
            for (int i = 0; i < 4; i++) ahead.template fetch<JV>(i, t);
            UNROLL
            for (int j = 0; j < JV; j++) {
                const int64_t at = offset + j * VW;
                if (!rows.delta_once) {
                    d[j] = load(rows.delta[t] + at) + load(bias + j * VW);
                    if (rows.softplus) d[j] = softplus(d[j], exp);
                    a[j] = exp.clamped(d[j], load(A + j * VW));
                }
                vf u = load(rows.u[t] + at);
                H[j] = fma(a[j], H[j], d[j] * u * (PER_CHANNEL_B ? load(Bc + j * VW) : b));
                vf y = fma(load(skip + j * VW), u, (PER_CHANNEL_C ? load(Cc + j * VW) : c) * H[j]);
                if (rows.z) {
                    vf gate = load(rows.z[t] + at);
                    y = y * (gate * sigmoid(gate, exp));
                }
                if (add) y = y + load(out[t] + at);
                store(out[t] + at, y);
            }
        }
    }
    UNROLL
    for (int j = 0; j < JV; j++) store(h + j * VW, H[j]);
}

struct SingleGradients {
    const float *const *d_out;
    float *const *d_u, *const *d_delta, *const *d_z;  // d_delta: NULL if delta has one step
    float *adjoint, *A, *B, *C, *skip, *bias;         // sums, [vector][lane]; bias: of d_delta
    float *dBC;                                       // [step][B, C][lane]
    float *trace;                                     // [step][vector][delta, slope, exp, h][lane]
    bool add, first_vectors;
};

template <int JV, bool PER_CHANNEL_B, bool PER_CHANNEL_C>
static INLINE void single_backward(const SingleRows &rows, const SingleGradients &o, int64_t offset, const float *A, const float *Bc,
                                   const float *Cc, const float *skip, const float *bias, const float *kept, int steps,
                                   const Ahead<4> &reads, const Ahead<3> &writes, const Exp &exp) {
    enum { TRACE = 4 * VW };
    vf H[JV], g[JV], d[JV], slope[JV], a[JV], dA[JV], d_skip[JV], d_bias[JV], dBc[JV], dCc[JV];
    UNROLL
    for (int j = 0; j < JV; j++) {
        H[j] = load(kept + j * VW);
        g[j] = load(o.adjoint + j * VW);
        dA[j] = d_skip[j] = d_bias[j] = dBc[j] = dCc[j] = zero();
    }
    for (int t = 0; t < steps; t++) {  // forward again
        const vf b = splat(rows.B[t][0]);
        UNROLL
        for (int i = 0; i < 4; i++) reads.template fetch<JV>(i, t);
        UNROLL
        for (int j = 0; j < JV; j++) {
            if (!rows.delta_once || t == 0) {
                d[j] = load(rows.delta[t] + offset + j * VW) + load(bias + j * VW);
                slope[j] = splat(1.0f);
                if (rows.softplus) d[j] = softplus(d[j], exp, slope[j]);
                a[j] = exp.clamped(d[j], load(A + j * VW));
            }
            float *here = o.trace + (t * JV + j) * TRACE;
            store(here, d[j]);
            store(here + VW, slope[j]);
            store(here + 2 * VW, a[j]);
            store(here + 3 * VW, H[j]);
            H[j] = fma(a[j], H[j], d[j] * load(rows.u[t] + offset + j * VW) * (PER_CHANNEL_B ? load(Bc + j * VW) : b));
        }
    }
    for (int t = steps - 1; t >= 0; t--) {
        const vf b = splat(rows.B[t][0]), c = splat(rows.C[t][0]);
        UNROLL
        for (int i = 0; i < 3; i++) writes.template fetch<JV>(i, t);
        vf dB = zero(), dC = zero();
        UNROLL
        for (int j = 0; j < JV; j++) {
            const int64_t at = offset + j * VW;
            const float *here = o.trace + (t * JV + j) * TRACE;
            vf dt = load(here), before = load(here + 3 * VW), u = load(rows.u[t] + at), w = load(o.d_out[t] + at), x = dt * u;
            vf bj = PER_CHANNEL_B ? load(Bc + j * VW) : b, cj = PER_CHANNEL_C ? load(Cc + j * VW) : c;
            if (rows.z) {
                vf gate = load(rows.z[t] + at), share = sigmoid(gate, exp), y = fma(load(skip + j * VW), u, cj * H[j]);
                store(o.d_z[t] + at, w * y * share * fma(gate, splat(1.0f) - share, splat(1.0f)));
                w = w * (gate * share);
            }
            vf gj = fma(w, cj, g[j]), s = gj * bj;
            if (PER_CHANNEL_B)
                dBc[j] = fma(gj, x, dBc[j]);
            else
                dB = fma(gj, x, dB);
            if (PER_CHANNEL_C)
                dCc[j] = fma(w, H[j], dCc[j]);
            else
                dC = fma(w, H[j], dC);
            g[j] = gj * load(here + 2 * VW);
            vf q = g[j] * before;
            dA[j] = fma(q, dt, dA[j]);
            vf d_delta = fma(q, load(A + j * VW) * splat((float)(1.0 / (LOG2E * EXP_UNITS))), u * s);
            if (o.d_delta) {
                d_delta = d_delta * load(here + VW);
                store(o.d_delta[t] + at, d_delta);
            }
            d_bias[j] = d_bias[j] + d_delta;
            d_skip[j] = fma(w, u, d_skip[j]);
            vf du = fma(dt, s, load(skip + j * VW) * w);
            if (o.add) du = du + load(o.d_u[t] + at);
            store(o.d_u[t] + at, du);
            H[j] = before;
        }
        float *sums = o.dBC + t * 2 * VW;
        store(sums, o.first_vectors ? dB : load(sums) + dB);
        store(sums + VW, o.first_vectors ? dC : load(sums + VW) + dC);
    }
    UNROLL
    for (int j = 0; j < JV; j++) {
        store(o.adjoint + j * VW, g[j]);
        store(o.A + j * VW, load(o.A + j * VW) + dA[j]);
        store(o.skip + j * VW, load(o.skip + j * VW) + d_skip[j]);
        store(o.bias + j * VW, load(o.bias + j * VW) + d_bias[j]);
        if (PER_CHANNEL_B) store(o.B + j * VW, load(o.B + j * VW) + dBc[j]);
        if (PER_CHANNEL_C) store(o.C + j * VW, load(o.C + j * VW) + dCc[j]);
    }
}

}  // namespace CM_NAMESPACE
