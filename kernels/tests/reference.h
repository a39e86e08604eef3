// What the kernels must compute, as plain loops: the equations of scan.h and their derivatives. Over doubles they are
// the truth; over floats they say how far arithmetic in float32 must be expected to be from it.
#pragma once

#include <cmath>

#include "arrays.h"

struct Case {
    int64_t batch, routes, groups, steps, channels, states;
    int64_t delta_once, B_kind, C_kind;
    bool z, skip, bias, initial, lengths, order, softplus, reverse, d_state;
    int dtype, mixed, layout;

    int64_t dtype_of(int array) const { return mixed ? (dtype + array) % 3 : dtype; }
    std::string text() const {
        char line[400];
        snprintf(line, sizeof line,
                 "batch=%d routes=%d groups=%d steps=%d channels=%d states=%d once=%d B=%d C=%d z=%d skip=%d bias=%d "
                 "initial=%d "
                 "lengths=%d order=%d softplus=%d reverse=%d d_state=%d dtype=%d mixed=%d layout=%d",
                 (int)batch, (int)routes, (int)groups, (int)steps, (int)channels, (int)states, (int)delta_once,
                 (int)B_kind, (int)C_kind, z, skip, bias, initial, lengths, order, softplus, reverse, d_state, dtype,
                 mixed, layout);
        return line;
    }
};

// A case with its numbers; absent ones are empty.
struct Numbers {
    Dense u, delta, B, C, z, A, skip, bias, initial, d_out, d_state;
    std::vector<int64_t> lengths;
    std::vector<int32_t> order;
};

// Everything a forward and a backward scan give.
enum Result { OUT, LAST, D_U, D_DELTA, D_Z, D_INITIAL, D_A, D_SKIP, D_BIAS, D_B, D_C, RESULTS };
static const char *const RESULT_NAMES[RESULTS] = {"out", "last",   "d_u",    "d_delta", "d_z", "d_initial",
                                                  "d_A", "d_skip", "d_bias", "d_B",     "d_C"};
struct Results {
    Dense of[RESULTS];
};

inline Dense zeros_like(const Dense &d) { return Dense(d.size[0], d.size[1], d.size[2], d.size[3], d.size[4]); }

template <class Real>
Real logistic(Real x) {
    return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}
template <class Real>
Real softplus(Real x) {
    return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}

// One channel of one route of one sample: its own view of the case.
template <class Real>
class Channel {
  public:
    Channel(const Case &which, Numbers &numbers, Results &results, Real nudge, int64_t b, int64_t k, int64_t d)
        : c(which), x(numbers), r(results), b(b), k(k), d(d), decay_scale(1 + nudge),
          group(d / (which.channels / which.groups)), N(which.states) {
        length = c.lengths ? x.lengths[(size_t)b] : c.steps;
        states.assign((size_t)((length + 1) * N), 0);
        for (int64_t n = 0; n < N && c.initial; n++) states[(size_t)n] = (Real)x.initial.at(b, k, 0, d, n);
        skip = c.skip ? (Real)x.skip.at(0, k, 0, 0, d) : 0;
        bias = c.bias ? (Real)x.bias.at(0, k, 0, 0, d) : 0;
    }

    void forward() {
        for (int64_t l = 0; l < length; l++) {
            int64_t m = token(l);
            Real step = delta(m), u = (Real)x.u.at(b, 0, 0, m, d), y = skip * u;
            for (int64_t n = 0; n < N; n++) {
                Real h = decay(step, n) * state(l, n) + step * projection(x.B, c.B_kind, m, n) * u;
                state(l + 1, n) = h;
                y += projection(x.C, c.C_kind, m, n) * h;
            }
            add(r.of[OUT].at(b, 0, 0, m, d), c.z ? y * gate(m) * logistic(gate(m)) : y);
        }
        for (int64_t n = 0; n < N; n++) r.of[LAST].at(b, k, 0, d, n) = state(length, n);
    }

    void backward() {
        std::vector<Real> g((size_t)N, 0);
        for (int64_t n = 0; n < N && c.d_state; n++) g[(size_t)n] = (Real)x.d_state.at(b, k, 0, d, n);
        for (int64_t l = length - 1; l >= 0; l--) {
            int64_t m = token(l);
            Real u = (Real)x.u.at(b, 0, 0, m, d), w = (Real)x.d_out.at(b, 0, 0, m, d), step = delta(m);
            if (c.z) {
                Real y = skip * u, z = gate(m), s = logistic(z);
                for (int64_t n = 0; n < N; n++) y += projection(x.C, c.C_kind, m, n) * state(l + 1, n);
                r.of[D_Z].at(b, 0, 0, m, d) = w * y * s * (1 + z * (1 - s));
                w *= z * s;
            }
            Real d_u = w * skip, d_step = 0;
            for (int64_t n = 0; n < N; n++) {
                Real a = decay(step, n), B = projection(x.B, c.B_kind, m, n);
                Real adjoint = g[(size_t)n] + w * projection(x.C, c.C_kind, m, n);
                add(place(r.of[D_C], c.C_kind, m, n), w * state(l + 1, n));
                add(place(r.of[D_B], c.B_kind, m, n), adjoint * step * u);
                d_u += adjoint * step * B;
                d_step += adjoint * (u * B + A(n) * a * state(l, n));
                add(r.of[D_A].at(0, k, 0, d, n), adjoint * step * a * state(l, n));
                g[(size_t)n] = adjoint * a;
            }
            if (c.softplus) d_step *= logistic(raw(m));
            add(r.of[D_U].at(b, 0, 0, m, d), d_u);
            add(r.of[D_DELTA].at(b, k, 0, c.delta_once ? 0 : m, d), d_step);
            if (c.skip) add(r.of[D_SKIP].at(0, k, 0, 0, d), w * u);
            if (c.bias) add(r.of[D_BIAS].at(0, k, 0, 0, d), d_step);
        }
        for (int64_t n = 0; n < N && c.initial; n++) r.of[D_INITIAL].at(b, k, 0, d, n) = g[(size_t)n];
    }

  private:
    const Case &c;
    Numbers &x;
    Results &r;
    int64_t b, k, d;
    const Real decay_scale;
    int64_t group, N, length;
    Real skip, bias;
    std::vector<Real> states;  // before each step, and the last

    static void add(double &to, Real value) { to = (Real)to + value; }
    Real &state(int64_t l, int64_t n) { return states[(size_t)(l * N + n)]; }
    int64_t token(int64_t l) { return c.order ? x.order[(size_t)(k * c.steps + l)] : c.reverse ? length - 1 - l : l; }
    Real decay(Real step, int64_t n) { return std::exp(step * A(n)) * decay_scale; }
    Real A(int64_t n) { return (Real)x.A.at(0, k, 0, d, n); }
    Real gate(int64_t m) { return (Real)x.z.at(b, 0, 0, m, d); }
    Real raw(int64_t m) { return (Real)x.delta.at(b, k, 0, c.delta_once ? 0 : m, d) + bias; }
    Real delta(int64_t m) { return c.softplus ? softplus(raw(m)) : raw(m); }
    double &place(Dense &p, int64_t kind, int64_t m, int64_t n) {
        return kind == CM_PER_CHANNEL ? p.at(0, k, 0, d, n) : p.at(b, k, group, kind == CM_ONE_STEP ? 0 : m, n);
    }
    Real projection(Dense &p, int64_t kind, int64_t m, int64_t n) { return (Real)place(p, kind, m, n); }
};

// `nudge`: relative error of every decay exp(delta A).
template <class Real>
Results expected(const Case &c, Numbers &x, Real nudge = 0) {
    Results r;
    r.of[OUT] = r.of[D_U] = zeros_like(x.u);
    r.of[LAST] = Dense(c.batch, c.routes, 1, c.channels, c.states);
    r.of[D_DELTA] = zeros_like(x.delta);
    r.of[D_Z] = zeros_like(x.z);
    r.of[D_INITIAL] = zeros_like(x.initial);
    r.of[D_A] = zeros_like(x.A);
    r.of[D_SKIP] = zeros_like(x.skip);
    r.of[D_BIAS] = zeros_like(x.bias);
    r.of[D_B] = zeros_like(x.B);
    r.of[D_C] = zeros_like(x.C);
    for (int64_t b = 0; b < c.batch; b++)
        for (int64_t k = 0; k < c.routes; k++)
            for (int64_t d = 0; d < c.channels; d++) {
                Channel<Real> channel(c, x, r, nudge, b, k, d);
                channel.forward();
                channel.backward();
            }
    return r;
}
