// Tests of the kernels without Python: forward, backward and step for every instruction set of this machine against
// loops over doubles, over mixtures of all options, with guards around every buffer and scratch memory full of NaN.
//
//   test_scan [every] [threads...]     every: run each `every`th case only (default 1); threads: default 1 2
#include "cases.h"

// ---- running the kernels
static int failures = 0;
static std::string context;
static void fail(const std::string &what) {
    if (failures++ < 40) printf("FAILED %s: %s\n", what.c_str(), context.c_str());
}

static bool same_bits(const Dense &a, const Dense &b) {
    return a.values.empty() || memcmp(a.values.data(), b.values.data(), a.values.size() * sizeof(double)) == 0;
}

// A case's inputs in memory. `numbers` become what that memory holds, rounded.
struct Inputs {
    Array u, delta, B, C, z, A, skip, bias, initial, d_out, d_state;

    Inputs(const Case &c, Numbers &x) {
        auto place = [&](Array &to, Dense &from, int64_t dtype, int layout) {
            from = (to = Array(from, dtype, layout)).read();
        };
        auto projection = [&](Array &to, Dense &from, int64_t kind, int which) {
            place(to, from, kind == CM_PER_CHANNEL ? (int64_t)CM_FLOAT32 : c.dtype_of(which),
                  kind == CM_PER_CHANNEL ? CHANNELS_LAST : c.layout);
        };
        place(u, x.u, c.dtype_of(0), c.layout);
        place(delta, x.delta, c.dtype_of(1), c.layout);
        projection(B, x.B, c.B_kind, 2);
        projection(C, x.C, c.C_kind, 3);
        place(z, x.z, c.dtype_of(4), c.layout);
        place(d_out, x.d_out, c.dtype_of(0), c.layout);
        Array *plain[] = {&A, &skip, &bias, &initial, &d_state};
        Dense *dense[] = {&x.A, &x.skip, &x.bias, &x.initial, &x.d_state};
        for (int i = 0; i < 5; i++) place(*plain[i], *dense[i], CM_FLOAT32, CHANNELS_LAST);
    }
    void check() {
        for (Array *a : {&u, &delta, &B, &C, &z, &A, &skip, &bias, &initial, &d_out, &d_state})
            if (!a->unchanged()) fail("an input was written to");
    }
};

static Results run(const Case &c, Numbers &x, Inputs &in, int64_t isa, int64_t threads) {
    cm_scan s = {};
    s.batch = c.batch, s.routes = c.routes, s.groups = c.groups, s.steps = c.steps, s.channels = c.channels,
    s.states = c.states;
    s.softplus = c.softplus, s.reverse = c.reverse, s.delta_once = c.delta_once, s.B_kind = c.B_kind,
    s.C_kind = c.C_kind;
    s.u = in.u.view(), s.delta = in.delta.view(), s.B = in.B.view(), s.C = in.C.view();
    if (c.z) s.z = in.z.view();
    auto floats = [](bool present, Array &a) { return present ? (float *)a.data() : nullptr; };
    s.A = floats(true, in.A), s.skip = floats(c.skip, in.skip), s.bias = floats(c.bias, in.bias);
    s.initial_state = floats(c.initial, in.initial);
    if (c.lengths) s.lengths = x.lengths.data();
    if (c.order) s.order = x.order.data();

    const int64_t state_size[5] = {c.batch, c.routes, 1, c.channels, c.states},
                  wide = c.routes > 1 ? (int64_t)CM_FLOAT32 : c.dtype_of(0);
    const int64_t saved_size[5] = {1, 1, 1, 1, crossmamba_saved_elements(&s)};
    const int layout = c.layout == EXPANDED ? CHANNELS_LAST : c.layout;
    Array out[RESULTS], saved(saved_size, CM_FLOAT32, CHANNELS_LAST);
    auto room = [&](Result which, const int64_t *size, int64_t dtype, int form) {
        out[which] = Array(size, dtype, form);
    };
    room(OUT, x.u.size, wide, layout);
    room(LAST, state_size, CM_FLOAT32, CHANNELS_LAST);
    s.out = out[OUT].view(), s.last_state = floats(true, out[LAST]);
    if (crossmamba_forward(&s, threads, isa)) fail("forward's status");  // without keeping states
    const Dense without = out[OUT].read();
    room(OUT, x.u.size, wide, layout), room(LAST, state_size, CM_FLOAT32, CHANNELS_LAST);
    s.out = out[OUT].view(), s.last_state = floats(true, out[LAST]), s.saved = floats(true, saved);
    if (crossmamba_forward(&s, threads, isa)) fail("forward's status");
    Results found;
    found.of[OUT] = out[OUT].read();
    if (!same_bits(found.of[OUT], without)) fail("out with and without saving");

    int64_t splits = crossmamba_splits(&s, threads);
    auto projection_room = [&](Result which, Dense &like, int64_t kind) {
        int64_t size[5] = {like.size[0] * (kind == CM_PER_CHANNEL ? 1 : splits), like.size[1], like.size[2],
                           like.size[3], like.size[4]};
        room(which, size, CM_FLOAT32, CHANNELS_LAST);
        return floats(true, out[which]);
    };
    room(D_U, x.u.size, wide, layout), room(D_DELTA, x.delta.size, c.dtype_of(1), layout),
        room(D_Z, x.z.size, c.dtype_of(4), layout);
    room(D_A, x.A.size, CM_FLOAT32, CHANNELS_LAST), room(D_SKIP, x.skip.size, CM_FLOAT32, CHANNELS_LAST);
    room(D_BIAS, x.bias.size, CM_FLOAT32, CHANNELS_LAST), room(D_INITIAL, x.initial.size, CM_FLOAT32, CHANNELS_LAST);
    s.d_out = in.d_out.view(), s.d_u = out[D_U].view(), s.d_delta = out[D_DELTA].view();
    if (c.z) s.d_z = out[D_Z].view();
    s.d_last_state = floats(c.d_state, in.d_state);
    s.d_A = floats(true, out[D_A]), s.d_skip = floats(c.skip, out[D_SKIP]), s.d_bias = floats(c.bias, out[D_BIAS]);
    s.d_initial_state = floats(c.initial, out[D_INITIAL]);
    s.d_B = projection_room(D_B, x.B, c.B_kind), s.d_C = projection_room(D_C, x.C, c.C_kind);
    if (c.batch && crossmamba_backward(&s, threads, isa)) fail("backward's status");

    for (int i = 0; i < RESULTS; i++) {
        if (!out[i].only_elements_written())
            fail(std::string("something beside the elements was written: ") + RESULT_NAMES[i]);
        found.of[i] = out[i].read();
    }
    if (!saved.only_elements_written()) fail("something beside the elements was written: saved");
    for (Result which : {D_B, D_C}) {
        Dense &like = which == D_B ? x.B : x.C, sum = zeros_like(like);
        for (size_t i = 0; i < found.of[which].values.size(); i++)
            sum.values[i % sum.values.size()] += found.of[which].values[i];
        found.of[which] = sum;
    }
    in.check();
    return found;
}

// ---- comparing
static double worst[3][RESULTS];  // in units of what is unavoidable

// |found - right| / |right|, or infinity if anything is not finite.
static double error(const Dense &found, const Dense &right) {
    double difference = 0, scale = 0;
    for (size_t i = 0; i < right.values.size(); i++) {
        double e = found.values[i] - right.values[i];
        difference += e * e, scale += right.values[i] * right.values[i];
    }
    if (!(difference < INFINITY)) return INFINITY;
    return scale > 0 ? sqrt(difference / scale) : difference > 0 ? INFINITY : 0;
}

static double rounding(const Case &c, int result) {
    const double unit[] = {0, 1 / 256.0, 1 / 2048.0};
    int64_t dtype = result == D_DELTA ? c.dtype_of(1) : result == D_Z ? c.dtype_of(4) : c.dtype_of(0);
    bool narrow = result == D_DELTA || result == D_Z || ((result == OUT || result == D_U) && c.routes == 1);
    return narrow ? unit[dtype] : 0;
}

static void blur(Dense &d) {
    for (double &value : d.values) value *= 1 + ldexp(2 * uniform() - 1, -23);
}

// What arithmetic in float32 costs in a case: how far plain loops over floats are off, and what it does to the results if
// every input is off by up to 2^-23 and every decay by 2^-23. A result may be off by ALLOWED times as much: both are
// draws of the same kind of error, and a case may have as few as one number.
constexpr double ALLOWED = 4;
static std::vector<double> unavoidable_errors(const Case &c, Numbers &x, const Results &right) {
    Results plain = expected<float>(c, x);
    Numbers near = x;
    for (Dense *d : {&near.u, &near.delta, &near.B, &near.C, &near.z, &near.A, &near.skip, &near.bias, &near.initial,
                     &near.d_out, &near.d_state})
        blur(*d);
    Results bent = expected<double>(c, near, ldexp(1, -23));
    std::vector<double> errors;
    for (int r = 0; r < RESULTS; r++)
        errors.push_back(1e-7 + error(plain.of[r], right.of[r]) + error(bent.of[r], right.of[r]));
    return errors;
}

static void test_case(const Case &c, const std::vector<int64_t> &thread_counts) {
    Numbers x = draw_numbers(c);
    Inputs in(c, x);
    Results right = expected<double>(c, x);
    const std::vector<double> unavoidable = unavoidable_errors(c, x, right);
    for (int64_t isa = 0; isa < 3; isa++) {
        if (!(crossmamba_isas() >> isa & 1)) continue;
        Results first;
        for (size_t i = 0; i < thread_counts.size(); i++) {
            context = "isa=" + std::to_string(isa) + " threads=" + std::to_string(thread_counts[i]) + " " + c.text();
            Results found = run(c, x, in, isa, thread_counts[i]);
            for (int r = 0; r < RESULTS; r++) {
                if (!c.batch && r >= D_U) continue;
                double e = error(found.of[r], right.of[r]), unit = unavoidable[r],
                       allowed = ALLOWED * unit + rounding(c, r);
                if (rounding(c, r) == 0 && e / unit > worst[isa][r]) worst[isa][r] = e / unit;
                if (!(e <= allowed))
                    fail(RESULT_NAMES[r] + (" is off by " + std::to_string(e / allowed)) + " times what is allowed");
                if (i && r < D_B && thread_counts[i] <= 4 && thread_counts[0] <= 4 &&
                    !same_bits(found.of[r], first.of[r]))
                    fail(std::string(RESULT_NAMES[r]) + " depends on the number of threads");
            }
            if (i == 0) first = found;
        }
    }
}

struct Step {
    int64_t batch, groups, channels, states, dtype;
    bool z, skip, bias, softplus;
    Dense x, dt, gate, B, C, state, A, D, dt_bias;

    Dense expected() {  // the output; `state` becomes the next one
        Dense out = zeros_like(x);
        every(out.size, [&](int64_t b, int64_t, int64_t, int64_t, int64_t d) {
            double delta = dt.at(b, 0, 0, 0, d) + (bias ? dt_bias.at(0, 0, 0, 0, d) : 0), u = x.at(b, 0, 0, 0, d),
                   g = gate.at(b, 0, 0, 0, d);
            if (softplus) delta = ::softplus(delta);
            double y = skip ? D.at(0, 0, 0, 0, d) * u : 0;
            for (int64_t n = 0; n < states; n++) {
                double &h = state.at(b, 0, 0, d, n);
                h = exp(delta * A.at(0, 0, 0, d, n)) * h + delta * u * B.at(b, 0, d / (channels / groups), 0, n);
                y += h * C.at(b, 0, d / (channels / groups), 0, n);
            }
            out.at(b, 0, 0, 0, d) = z ? y * g * logistic(g) : y;
        });
        return out;
    }
};

static void test_step(int64_t isa, int64_t threads) {
    const int64_t widths[] = {1, 3, 16, 17, 33, 100}, counts[] = {1, 2, 5, 8, 16, 17, 64, 256};
    const int64_t b = 1 + below(3), g = 1 + below(3), d = g * widths[below(6)], n = counts[below(8)];
    const int layout = coin() ? CHANNELS_LAST : SPREAD;
    Step t = {b,
              g,
              d,
              n,
              below(3),
              coin(),
              coin(),
              coin(),
              coin(),
              normals(b, 1, 1, 1, d),
              normals(b, 1, 1, 1, d),
              normals(b, 1, 1, 1, d),
              normals(b, 1, g, 1, n),
              normals(b, 1, g, 1, n),
              normals(b, 1, 1, d, n),
              normals(1, 1, 1, d, n),
              normals(1, 1, 1, 1, d),
              normals(1, 1, 1, 1, d)};
    for (double &value : t.dt.values) value = fabs(value);
    for (double &value : t.A.values) value = -fabs(value);
    Dense *const numbers[] = {&t.x, &t.dt, &t.gate, &t.B, &t.C, &t.A, &t.D, &t.dt_bias, &t.state};
    Array arrays[9], out(t.x.size, t.dtype, layout);
    for (int i = 0; i < 9; i++) {
        arrays[i] = i < 5 ? Array(*numbers[i], coin() ? t.dtype : (int64_t)CM_FLOAT32, layout)
                          : Array(*numbers[i], CM_FLOAT32, CHANNELS_LAST);
        *numbers[i] = arrays[i].read();
    }
    auto floats = [&](int i) { return (float *)arrays[i].data(); };
    cm_step s = {b,
                 g,
                 d,
                 n,
                 t.softplus,
                 floats(8),
                 arrays[0].view(),
                 arrays[1].view(),
                 {},
                 arrays[3].view(),
                 arrays[4].view(),
                 out.view(),
                 floats(5),
                 t.skip ? floats(6) : nullptr,
                 t.bias ? floats(7) : nullptr};
    if (t.z) s.z = arrays[2].view();
    context = "step isa=" + std::to_string(isa) + " batch=" + std::to_string(b) + " channels=" + std::to_string(d) +
              " states=" + std::to_string(n) + " groups=" + std::to_string(g) + " dtype=" + std::to_string(t.dtype) +
              " layout=" + std::to_string(layout);
    if (crossmamba_step(&s, threads, isa)) fail("step's status");

    Step blurred = t;
    for (Dense *numbers : {&blurred.x, &blurred.dt, &blurred.gate, &blurred.B, &blurred.C, &blurred.state, &blurred.A,
                           &blurred.D, &blurred.dt_bias})
        blur(*numbers);
    Dense right = t.expected(), near = blurred.expected();
    const double unit[] = {0, 1 / 256.0, 1 / 2048.0};
    if (!(error(out.read(), right) <= ALLOWED * (1e-7 + error(near, right)) + unit[t.dtype])) fail("out");
    if (!(error(arrays[8].read(), t.state) <= ALLOWED * (1e-7 + error(blurred.state, t.state)))) fail("state");
    if (!out.only_elements_written()) fail("something beside the elements was written");
    for (int i = 0; i < 8; i++)
        if (!arrays[i].unchanged()) fail("an input was written to");
}

int main(int count, char **arguments) {
    const int64_t stride = count > 1 ? atoi(arguments[1]) : 1;
    std::vector<int64_t> threads;
    for (int i = 2; i < count; i++) threads.push_back(atoi(arguments[i]));
    if (threads.empty()) threads = {1, 2};
    crossmamba_poison(1);

    if (crossmamba_abi() != CROSSMAMBA_ABI) fail("the interface's version");
    cm_scan nothing = {};
    if (crossmamba_forward(&nothing, 1, 7) != CM_BAD_ISA) fail("an unknown instruction set is refused");
    const std::vector<Case> cases = all_cases();
    int64_t ran = 0, steps = 0;
    for (size_t i = 0; i < cases.size(); i++)
        if ((int64_t)i % stride == 0) test_case(cases[i], threads), ran++;
    for (int64_t i = 0; i < 300 / stride; i++)
        for (int64_t isa = 0; isa < 3; isa++)
            if (crossmamba_isas() >> isa & 1) test_step(isa, threads[(size_t)i % threads.size()]), steps++;

    const char *const names[] = {"baseline", "avx2", "avx512"};
    for (int64_t isa = 0; isa < 3; isa++) {
        if (!(crossmamba_isas() >> isa & 1)) continue;
        printf("%-9s largest errors, in units of the unavoidable:", names[isa]);
        for (int r = 0; r < RESULTS; r++) printf(" %s %.1f", RESULT_NAMES[r], worst[isa][r]);
        printf("\n");
    }
    printf("%d scans, %d steps, %d failures\n", (int)ran, (int)steps, failures);
    return failures ? 1 : 0;
}
