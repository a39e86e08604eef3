// The cases that are tested, drawn by a generator of their own so that every machine gets the same ones.
#pragma once

#include "reference.h"

static uint64_t random_state = 1;
static double uniform() {  // [0, 1)
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 40) / (double)(1 << 24);
}
static int64_t below(int64_t n) { return (int64_t)(uniform() * (double)n); }
static bool coin() { return below(2) == 1; }
static double normal() {
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += uniform();
    return sum;
}
static Dense normals(int64_t b, int64_t k, int64_t g, int64_t m, int64_t c) {
    Dense d(b, k, g, m, c);
    for (double &x : d.values) x = normal();
    return d;
}

static Case draw_case() {
    Case c = {};
    c.batch = 1 + below(4);
    c.order = coin();
    c.routes = coin() ? 1 : 2 + below(2);
    c.groups = coin() ? 1 : 2 + below(2);
    const int64_t steps[] = {0, 1, 2, 5, 63, 64, 65, 130}, per_group[] = {1, 3, 4, 16, 17, 33, 40, 64, 65, 100};
    c.steps = steps[below(8)];
    c.channels = c.groups * per_group[below(10)];
    c.states = 1 + below(17);
    int64_t kind = below(4);  // every step, time-invariant, per channel, a mixture
    if (kind == 1) c.delta_once = 1, c.B_kind = c.C_kind = CM_ONE_STEP;
    if (kind == 2)
        c.B_kind = coin() ? CM_PER_CHANNEL : CM_EVERY_STEP, c.C_kind = c.B_kind ? below(3) : (int64_t)CM_PER_CHANNEL;
    if (kind == 3) c.delta_once = below(2), c.B_kind = below(2), c.C_kind = below(2);
    c.z = c.routes == 1 && coin();
    c.skip = coin(), c.bias = coin(), c.initial = coin(), c.d_state = coin(), c.softplus = below(3) > 0;
    c.lengths = !c.order && coin();
    c.reverse = !c.order && coin();
    c.dtype = coin() ? CM_FLOAT32 : (int)below(3);
    c.mixed = below(4) == 0;
    c.layout = (int)below(c.lengths ? EXPANDED : LAYOUTS);
    return c;
}

static std::vector<Case> all_cases() {
    std::vector<Case> cases;
    auto with = [&](auto change) {
        Case c = draw_case();
        change(c);
        cases.push_back(c);
    };
    for (int64_t n = 1; n <= 19; n++)
        for (int repeat = 0; repeat < 2; repeat++)
            with([&](Case &c) {
                c.states = n == 18 ? 64 : n == 19 ? 256 : n;
                if (n > 17) c.steps = repeat ? 65 : 5, c.channels = c.groups * 17;
            });
    for (int64_t d : {1, 3, 15, 16, 17, 31, 33, 48, 63, 64, 65, 80, 100, 127, 129})
        for (int repeat = 0; repeat < 2; repeat++) with([&](Case &c) { c.channels = c.groups * d; });
    for (int64_t m : {0, 1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 130, 200})
        for (int repeat = 0; repeat < 3; repeat++) with([&](Case &c) { c.steps = m; });
    for (int layout = 0; layout < LAYOUTS; layout++)
        for (int dtype = 0; dtype < 3; dtype++)
            for (int repeat = 0; repeat < 3; repeat++)
                with([&](Case &c) {
                    c.layout = layout, c.dtype = dtype, c.mixed = 0, c.steps = 70,
                    c.channels = c.groups * (repeat ? 70 : 64);
                    if (layout == EXPANDED) c.lengths = false;
                });
    for (int64_t batch : {0, 17, 33}) with([&](Case &c) { c.batch = batch, c.channels = c.groups * 5, c.steps = 9; });
    for (int repeat = 0; repeat < 250; repeat++) cases.push_back(draw_case());
    return cases;
}

// NaN past the end of each sample.
static void hide(const Case &c, const Numbers &x, Dense &d) {
    if (c.lengths && d.size[3] == c.steps)
        every(d.size, [&](int64_t b, int64_t k, int64_t g, int64_t m, int64_t i) {
            if (m >= x.lengths[(size_t)b]) d.at(b, k, g, m, i) = NAN;
        });
}

static Numbers draw_numbers(const Case &c) {
    const int64_t b = c.batch, k = c.routes, g = c.groups, m = c.steps, d = c.channels, n = c.states;
    Numbers x;
    if (c.lengths)
        for (int64_t i = 0; i < b; i++) x.lengths.push_back(below(m + 1));
    for (int64_t route = 0; c.order && route < k; route++) {
        std::vector<int32_t> tokens;
        for (int64_t i = 0; i < m; i++) tokens.insert(tokens.begin() + below(i + 1), (int32_t)i);
        x.order.insert(x.order.end(), tokens.begin(), tokens.end());
    }
    auto projection = [&](int64_t kind) {
        return kind == CM_PER_CHANNEL ? normals(1, k, 1, d, n) : normals(b, k, g, kind == CM_ONE_STEP ? 1 : m, n);
    };
    x.u = normals(b, 1, 1, m, d);
    x.delta = normals(b, k, 1, c.delta_once ? 1 : m, d);
    for (double &value : x.delta.values) value = c.softplus ? value - 1 : 0.1 * fabs(value);
    x.B = projection(c.B_kind), x.C = projection(c.C_kind);
    x.A = normals(1, k, 1, d, n);
    for (double &value : x.A.values) value = -0.05 - fabs(value);
    if (c.z) x.z = normals(b, 1, 1, m, d);
    if (c.skip) x.skip = normals(1, k, 1, 1, d);
    if (c.bias) x.bias = normals(1, k, 1, 1, d);
    for (double &value : x.bias.values) value = 0.1 * fabs(value);
    if (c.initial) x.initial = normals(b, k, 1, d, n);
    if (c.d_state) x.d_state = normals(b, k, 1, d, n);
    x.d_out = normals(b, 1, 1, m, d);
    if (!c.delta_once) hide(c, x, x.delta);
    if (c.B_kind == CM_EVERY_STEP) hide(c, x, x.B);
    if (c.C_kind == CM_EVERY_STEP) hide(c, x, x.C);
    hide(c, x, x.u), hide(c, x, x.z), hide(c, x, x.d_out);
    return x;
}
