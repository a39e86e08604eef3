// The backward scan: chunks from last to first; in each the states are computed again from the kept one, then the
// adjoint g_t = dL/dh_t = C_t w_t + exp(delta_{t+1} A) g_{t+1} runs back, where w_t is the gradient of y_t.
//
//   dB_t = sum over channels of g_t x_t       dC_t = sum over channels of w_t h_t           (x_t = delta_t u_t)
//   dA = sum over t of delta_t q_t            q_t = g_t exp(delta_t A) h_{t-1}
//   d_delta_t = u_t s_t + sum over states of A q_t        du_t = delta_t s_t + D w_t        s_t = sum over states of B_t g_t
#pragma once

#include "geometry.h"

namespace CM_NAMESPACE {

// What the tile keeps of one step of one vector: [vector][step][field][lane].
enum Field { DELTA, X, W, Y, S, Q, FIELDS };
constexpr int RECORD = FIELDS * VW;
constexpr int RECORDS = CHUNK * RECORD + 16 * VW;  // of a vector; not a multiple of 4 KiB, which would make its lines compete with the next one's

// Vectors of channels that go through the core together: they share the traffic of the sums for B and C.
constexpr int JOINT = VW == 16 ? 2 : 1;

struct BackwardOperands {  // of NB states of JV vectors; strides between vectors in floats
    float *record;
    const float *const *B, *const *C;
    const float *A, *Bc, *Cc, *kept;        // [vector][state][lane]
    float *adjoint, *dA, *dBc, *dCc;        // [vector][state][lane]
    float *dBC;                             // [step][state][B, C][lane]
    float *scratch;                         // [step][vector][state][exp, h][lane]
    int64_t n, N;
    int steps;
    const Ahead<4> *reads = nullptr;  // u, delta, d_out, z of the tile to come: this call fetches [reads_from, reads_to)
    const Ahead<3> *writes = nullptr;  // d_u, d_delta, d_z
    int reads_from = 0, reads_to = 0, writes_from = 0, writes_to = 0;
};

template <int NB, int JV, ExpMode MODE, bool NEED_Y, bool PB, bool PC>
static INLINE void core_backward(const BackwardOperands &operands, const Exp &exp) {
    const BackwardOperands o = operands;  // the compiler then knows that no store changes them
    const int64_t next = o.N * VW;        // from vector to vector
    constexpr int TRACE = JV * NB * 2 * VW;
    const float *A = o.A + o.n * VW;
    vf H[JV][NB], a[JV][NB];
    UNROLL
    for (int j = 0; j < JV; j++) {
        UNROLL
        for (int i = 0; i < NB; i++) {
            H[j][i] = load(o.kept + j * next + (o.n + i) * VW);
            __builtin_prefetch(o.kept + (TILE_VECTORS + j) * next + (o.n + i) * VW, 0, 2);
            if (MODE == HOISTED) a[j][i] = exp.clamped(load(o.record + j * RECORDS + DELTA * VW), load(A + j * next + i * VW));
        }
    }
    float *trace = o.scratch;
    for (int t = 0; t < o.steps; t++, trace += TRACE) {
        const float *b = o.B[t] + o.n, *c = o.C[t] + o.n;
        for (int i = o.reads_from; i < o.reads_to; i++) o.reads->template fetch<JV>(i, t);
        UNROLL
        for (int j = 0; j < JV; j++) {
            float *r = o.record + j * RECORDS + t * RECORD;
            vf d = load(r + DELTA * VW), x = load(r + X * VW), y;
            if (NEED_Y) y = load(r + Y * VW);
            UNROLL
            for (int i = 0; i < NB; i++) {
                float *here = trace + (j * NB + i) * 2 * VW;
                if (MODE == FAST) a[j][i] = exp.within(d, load(A + j * next + i * VW));
                if (MODE == CLAMPED) a[j][i] = exp.clamped(d, load(A + j * next + i * VW));
                if (MODE != HOISTED) store(here, a[j][i]);
                store(here + VW, H[j][i]);
                vf bi = PB ? load(o.Bc + j * next + (o.n + i) * VW) : splat(b[i]);
                H[j][i] = fma(a[j][i], H[j][i], x * bi);
                if (NEED_Y) y = fma(PC ? load(o.Cc + j * next + (o.n + i) * VW) : splat(c[i]), H[j][i], y);
            }
            if (NEED_Y) store(r + Y * VW, y);
        }
    }
    vf g[JV][NB], dA[JV][NB], dB[NB], dC[NB];
    UNROLL
    for (int j = 0; j < JV; j++) {
        UNROLL
        for (int i = 0; i < NB; i++) {
            store(trace + ((j * NB + i) * 2 + 1) * VW, H[j][i]);
            g[j][i] = load(o.adjoint + j * next + (o.n + i) * VW);
            dA[j][i] = zero();
        }
    }
    float *sums = o.dBC + o.n * 2 * VW;
    if (MODE == HOISTED) {  // one B and C for all steps: their gradients stay in registers
        UNROLL
        for (int i = 0; i < NB; i++) {
            dB[i] = load(sums + 2 * i * VW);
            dC[i] = load(sums + (2 * i + 1) * VW);
        }
    }
    for (int t = o.steps - 1; t >= 0; t--) {
        const float *b = o.B[t] + o.n, *c = o.C[t] + o.n;
        float *sum = sums + t * o.N * 2 * VW;
        trace -= TRACE;
        for (int i = o.writes_from; i < o.writes_to; i++) o.writes->template fetch<JV>(i, t);
        if (MODE != HOISTED && !(PB && PC)) {
            UNROLL
            for (int i = 0; i < NB; i++) {
                if (!PB) dB[i] = load(sum + 2 * i * VW);
                if (!PC) dC[i] = load(sum + (2 * i + 1) * VW);
            }
        }
        UNROLL
        for (int j = 0; j < JV; j++) {
            float *r = o.record + j * RECORDS + t * RECORD;
            vf d = load(r + DELTA * VW), x = load(r + X * VW), w = load(r + W * VW);
            vf s = load(r + S * VW), q = load(r + Q * VW);
            UNROLL
            for (int i = 0; i < NB; i++) {
                const float *here = trace + (j * NB + i) * 2 * VW;
                vf bi = PB ? load(o.Bc + j * next + (o.n + i) * VW) : splat(b[i]);
                vf ci = PC ? load(o.Cc + j * next + (o.n + i) * VW) : splat(c[i]);
                vf gi = fma(w, ci, g[j][i]);
                if (PB)
                    store(o.dBc + j * next + (o.n + i) * VW, fma(gi, x, load(o.dBc + j * next + (o.n + i) * VW)));
                else
                    dB[i] = fma(gi, x, dB[i]);
                if (PC)
                    store(o.dCc + j * next + (o.n + i) * VW, fma(w, load(here + TRACE + VW), load(o.dCc + j * next + (o.n + i) * VW)));
                else
                    dC[i] = fma(w, load(here + TRACE + VW), dC[i]);
                s = fma(gi, bi, s);
                g[j][i] = gi * (MODE == HOISTED ? a[j][i] : load(here));
                vf qi = g[j][i] * load(here + VW);
                q = fma(qi, load(A + j * next + i * VW), q);
                dA[j][i] = fma(qi, d, dA[j][i]);
            }
            store(r + S * VW, s);
            store(r + Q * VW, q);
        }
        if (MODE != HOISTED && !(PB && PC)) {
            UNROLL
            for (int i = 0; i < NB; i++) {
                if (!PB) store(sum + 2 * i * VW, dB[i]);
                if (!PC) store(sum + (2 * i + 1) * VW, dC[i]);
            }
        }
    }
    if (MODE == HOISTED) {
        UNROLL
        for (int i = 0; i < NB; i++) {
            store(sums + 2 * i * VW, dB[i]);
            store(sums + (2 * i + 1) * VW, dC[i]);
        }
    }
    UNROLL
    for (int j = 0; j < JV; j++) {
        UNROLL
        for (int i = 0; i < NB; i++) {
            store(o.adjoint + j * next + (o.n + i) * VW, g[j][i]);
            float *total = o.dA + j * next + (o.n + i) * VW;
            store(total, load(total) + dA[j][i]);
        }
    }
}

// to[i] = sum of the lanes of vector i. VW of them at a time, in a tree of exchanges.
template <int S>
static INLINE void add_pairs(vf *v) {
    UNROLL
    for (int i = 0; i < VW; i += 2 * S) {
        exchange<S>(v[i], v[i + S], std::make_integer_sequence<int, VW>());
        v[i] = v[i] + v[i + S];
    }
}
static inline void lane_sums(float *to, const float *from, int64_t count) {
    int64_t i = 0;
    for (; i + VW <= count; i += VW) {
        vf v[VW];
        UNROLL
        for (int j = 0; j < VW; j++) v[j] = load(from + (i + j) * VW);
        add_pairs<1>(v);
        add_pairs<2>(v);
        if constexpr (VW > 4) add_pairs<4>(v);
        if constexpr (VW > 8) add_pairs<8>(v);
        store(to + i, v[0]);
    }
    for (; i < count; i++) to[i] = sum(load(from + i * VW));
}

// Gradients of the parameters, one part per batch part, added up in order at the end: [part][route][vector]...
struct Partials {
    float *A, *B, *C, *skip, *bias;
    int64_t parts;

    void cut(Cutter &cutter, const cm_scan &s, const Geometry &g, int64_t batch_parts) {
        parts = batch_parts;
        int64_t all = parts * s.routes * g.vectors;
        A = cutter.floats(all * s.states * VW);
        B = s.B_kind == CM_PER_CHANNEL ? cutter.floats(all * s.states * VW) : nullptr;
        C = s.C_kind == CM_PER_CHANNEL ? cutter.floats(all * s.states * VW) : nullptr;
        skip = cutter.floats(all * VW);
        bias = cutter.floats(all * VW);
    }
    void clear_range(const cm_scan &s, const Geometry &g, int64_t part, int64_t v0, int64_t v1) const {
        for (int64_t k = 0; k < s.routes; k++) {
            int64_t at = (part * s.routes + k) * g.vectors + v0;
            size_t lanes = (size_t)((v1 - v0) * VW) * 4;
            for (float *all : {A, B, C})
                if (all) memset(all + at * s.states * VW, 0, lanes * (size_t)s.states);
            memset(skip + at * VW, 0, lanes);
            memset(bias + at * VW, 0, lanes);
        }
    }
    void add_up(const cm_scan &s, const Geometry &g, int64_t k, int64_t v) {
        int64_t N = s.states, at = k * g.vectors + v, stride = s.routes * g.vectors, to = k * s.channels + g.channel(v);
        int valid = g.valid(v);
        for (float *all : {A, B, C})
            for (int64_t part = 1; all && part < parts; part++)
                for (int64_t i = at * N * VW; i < (at + 1) * N * VW; i += VW)
                    store(all + i, load(all + i) + load(all + i + part * stride * N * VW));
        for (float *all : {skip, bias})
            for (int64_t part = 1; part < parts; part++)
                store(all + at * VW, load(all + at * VW) + load(all + (at + part * stride) * VW));
        states_out(s.d_A + to * N, A + at * N * VW, N, valid);
        if (B) states_out(s.d_B + to * N, B + at * N * VW, N, valid);
        if (C) states_out(s.d_C + to * N, C + at * N * VW, N, valid);
        for (int i = 0; i < valid; i++) {
            if (s.d_skip) s.d_skip[to + i] = skip[at * VW + i];
            if (s.d_bias) s.d_bias[to + i] = bias[at * VW + i];
        }
    }
};

}  // namespace CM_NAMESPACE
