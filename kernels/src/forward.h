// The forward scan.
#pragma once

#include "single.h"

namespace CM_NAMESPACE {

// NB states of one vector of channels over the steps of a tile, the states in registers.
//   delta, x = delta u: [step][lane]     A, h, Bc, Cc: [state][lane]     B[t], C[t]: states of step t, from n on
// y += C . h, or y = C . h if `first`; then it also fetches ahead. States go to `kept`, if there is one, every CHUNK steps.
template <int NB, ExpMode MODE, bool PER_CHANNEL_B, bool PER_CHANNEL_C>
static INLINE void core_forward(const float *delta, const float *x, const float *const *B, const float *const *C, int64_t n,
                                const float *Bc, const float *Cc, float *y, const float *A, float *h, int steps, bool first,
                                float *kept, int64_t kept_stride, const Ahead<4> &ahead, const Exp &exp) {
    vf H[NB], a[NB];
    UNROLL
    for (int i = 0; i < NB; i++) {
        H[i] = load(h + i * VW);
        if (MODE == HOISTED) a[i] = exp.clamped(load(delta), load(A + i * VW));
    }
    const int piece = kept ? CHUNK : steps;  // an undivided loop is faster
    for (int from = 0; from < steps; from += piece) {
        const int to = from + piece < steps ? from + piece : steps;
        if (kept) {
            UNROLL
            for (int i = 0; i < NB; i++) store(kept + i * VW, H[i]);
            kept += kept_stride;
        }
        for (int t = from; t < to; t++) {
            const float *b = B[t] + n, *c = C[t] + n;
            vf d = load(delta + t * VW), xt = load(x + t * VW);
            vf even = zero(), odd = zero();
            if (first) {
                UNROLL
                for (int i = 0; i < 4; i++) ahead.template fetch<1>(i, t);
            }
            UNROLL
            for (int i = 0; i < NB; i++) {
                if (MODE == FAST) a[i] = exp.within(d, load(A + i * VW));
                if (MODE == CLAMPED) a[i] = exp.clamped(d, load(A + i * VW));
                vf bi = PER_CHANNEL_B ? load(Bc + i * VW) : splat(b[i]);
                vf ci = PER_CHANNEL_C ? load(Cc + i * VW) : splat(c[i]);
                H[i] = fma(a[i], H[i], xt * bi);
                if (i & 1)
                    odd = fma(ci, H[i], odd);
                else
                    even = fma(ci, H[i], even);
            }
            vf sum = even + odd;
            store(y + t * VW, first ? sum : load(y + t * VW) + sum);
        }
    }
    UNROLL
    for (int i = 0; i < NB; i++) store(h + i * VW, H[i]);
}

class ForwardPass {
  public:
    ForwardPass(const cm_scan &scan, const Packed &packed) : s(scan), g(scan), p(packed), N(scan.states) {}

    // Floats of scratch for one thread.
    int64_t scratch() { return cut(nullptr); }

    // Sample b, tiles [tile0, tile1), all routes.
    void run(int64_t b, int64_t tile0, int64_t tile1, float *block) {
        cut(block);
        int64_t band = band_tiles(s, tile1 - tile0);
        for (int64_t tile = tile0; tile < tile1; tile += band)
            for (int64_t k = 0; k < s.routes; k++) route(b, k, tile, least(tile + band, tile1));
        int64_t length = sample_length(s, b), from = g.tile(tile0).channel;
        int64_t to = tile1 < g.tiles ? g.tile(tile1).channel : s.channels;
        if (length < s.steps) write_zeros(s.out, b * s.out.b, length, s.steps, from, to);
    }

  private:
    const cm_scan &s;
    const Geometry g;
    const Packed &p;
    const int64_t N;
    const Exp exp{};
    float *kept = nullptr;  // where the states of the tile's first step belong
    float *h, *u_tile, *delta_tile, *z_tile, *out_tile, *delta, *x, *y, *B_tile, *C_tile;
    const float *u[STEPS], *raw[STEPS], *z[STEPS], *B[STEPS], *C[STEPS];
    float *out[STEPS];
    Walk walk, next_walk;
    RowStarts starts[2][4];  // of u, delta, z and out, in this chunk and in the next
    Ahead<4> ahead;
    const cm_array *const arrays[4] = {&s.u, &s.delta, s.z.data ? &s.z : &s.u, &s.out};

    int64_t cut(float *block) {
        Cutter cutter(block);
        h = cutter.floats(g.vectors * N * VW);
        for (float **tile : {&u_tile, &delta_tile, &z_tile, &out_tile, &delta, &x, &y}) *tile = cutter.floats(STEPS * TILE);
        B_tile = cutter.floats(STEPS * N);
        C_tile = cutter.floats(STEPS * N);
        return (int64_t)cutter.used();
    }

    void route(int64_t b, int64_t k, int64_t tile0, int64_t tile1) {
        int64_t v0 = g.first_vector(tile0), v1 = g.first_vector(tile1), length = sample_length(s, b);
        int64_t state = (b * s.routes + k) * s.channels * N;
        if (s.initial_state)
            for (int64_t v = v0; v < v1; v++)
                states_in(h + v * N * VW, s.initial_state + state + g.channel(v) * N, N, g.valid(v));
        else
            memset(h + v0 * N * VW, 0, (size_t)((v1 - v0) * N * VW) * 4);
        if (length > 0) look_ahead(b, k, 0, length);
        for (int64_t step = 0; step < length; step += STEPS) {
            walk = next_walk;
            memcpy(starts[0], starts[1], sizeof starts[0]);
            if (step + STEPS < length) look_ahead(b, k, step + STEPS, length);
            if (s.saved) kept = s.saved + ((b * s.routes + k) * g.saved_chunks + step / CHUNK) * g.vectors * N * VW;
            int64_t group = -1;
            for (int64_t i = tile0; i < tile1; i++) {
                Tile tile = g.tile(i);
                if (tile.group != group) {
                    group = tile.group;
                    projections(b, k, group);
                }
                fetch_next(i + 1 < tile1 ? starts[0] : starts[1], g.tile(i + 1 < tile1 ? i + 1 : tile0).channel);
                scan_tile(b, k, tile);
            }
        }
        if (s.last_state)
            for (int64_t v = v0; v < v1; v++)
                states_out(s.last_state + state + g.channel(v) * N, h + v * N * VW, N, g.valid(v));
    }

    void look_ahead(int64_t b, int64_t k, int64_t step, int64_t length) {
        next_walk.set(s, k, step, STEPS, length);
        for (int i = 0; i < 4; i++) starts[1][i].set(*arrays[i], b * arrays[i]->b + k * arrays[i]->k, next_walk);
    }

    void fetch_next(const RowStarts *rows, int64_t channel) {
        for (int i = 0; i < 4; i++) ahead.set(i, rows[i], *arrays[i], channel);
    }

    void projections(int64_t b, int64_t k, int64_t group) {
        static const float nothing[1] = {0.0f};
        if (s.B_kind != CM_PER_CHANNEL)
            read_projection(B, B_tile, s.B, b * s.B.b + k * s.B.k + group * s.B.g, walk, N, s.B_kind == CM_ONE_STEP);
        else
            for (int t = 0; t < walk.count; t++) B[t] = nothing;
        if (s.C_kind != CM_PER_CHANNEL)
            read_projection(C, C_tile, s.C, b * s.C.b + k * s.C.k + group * s.C.g, walk, N, s.C_kind == CM_ONE_STEP);
        else
            for (int t = 0; t < walk.count; t++) C[t] = nothing;
    }

    void scan_tile(int64_t b, int64_t k, const Tile &tile) {
        int64_t d = tile.channel;
        read_rows(u, u_tile, s.u, b * s.u.b, walk, d, tile.valid, tile.width);
        read_delta(b, k, tile);
        if (s.z.data) read_rows(z, z_tile, s.z, b * s.z.b, walk, d, tile.valid, tile.width);
        bool in_place = rows_to_write(out, out_tile, s.out, b * s.out.b, walk, d, tile.valid, tile.width);
        bool add = k > 0;
        if (N == 1) {
            single(k, tile, add && in_place);
            if (!in_place) write_rows(out_tile, s.out, b * s.out.b, walk, d, tile.valid, add);
            return;
        }
        for (int j = 0; j < tile.vectors; j++) {
            int64_t at = k * g.vectors + tile.vector + j;
            bool moderate = discretise(j, at);
            states(j, tile.vector + j, at, moderate);
            finish(j, at, add && in_place);
            ahead.step(arrays, VW);
        }
        if (!in_place) write_rows(out_tile, s.out, b * s.out.b, walk, d, tile.valid, add);
    }

    void single(int64_t k, const Tile &tile, bool add) {
        if (s.B_kind == CM_PER_CHANNEL && s.C_kind == CM_PER_CHANNEL) return single<true, true>(k, tile, add);
        if (s.B_kind == CM_PER_CHANNEL) return single<true, false>(k, tile, add);
        if (s.C_kind == CM_PER_CHANNEL) return single<false, true>(k, tile, add);
        single<false, false>(k, tile, add);
    }

    template <bool PB, bool PC>
    void single(int64_t k, const Tile &tile, bool add) {
        int j = 0;
        for (; j + 4 <= tile.vectors; j += 4) single_vectors<4, PB, PC>(k, tile, j, add);
        for (; j < tile.vectors; j++) single_vectors<1, PB, PC>(k, tile, j, add);
    }

    template <int JV, bool PB, bool PC>
    void single_vectors(int64_t k, const Tile &tile, int j, bool add) {
        const SingleRows rows = {u, raw, s.z.data ? z : nullptr, B, C, s.delta_once != 0, s.softplus != 0};
        int64_t at = (k * g.vectors + tile.vector + j) * VW;
        single_forward<JV, PB, PC>(rows, j * VW, p.A + at, p.B + at, p.C + at, p.skip + at, p.bias + at, h + (tile.vector + j) * VW, out,
                                   add, walk.count, kept ? kept + (tile.vector + j) * VW : nullptr, g.vectors * VW, ahead, exp);
        ahead.step(arrays, JV * VW);
    }

    void read_delta(int64_t b, int64_t k, const Tile &tile) {
        int64_t base = b * s.delta.b + k * s.delta.k;
        if (!s.delta_once) return read_rows(raw, delta_tile, s.delta, base, walk, tile.channel, tile.valid, tile.width);
        Walk first = {{0}, 1, true};
        read_rows(raw, delta_tile, s.delta, base, first, tile.channel, tile.valid, tile.width);
        for (int t = 1; t < walk.count; t++) raw[t] = raw[0];
    }

    // delta and x = delta u of one vector; whether exp(delta A) needs no clamping.
    bool discretise(int j, int64_t at) {
        float *dj = delta + j * STEPS * VW, *xj = x + j * STEPS * VW;
        vf bias = load(p.bias + at * VW), largest = zero();
        int own = s.delta_once ? 1 : walk.count;  // steps whose delta has to be computed
        for (int t = 0; t < own; t++) {
            vf value = load(raw[t] + j * VW) + bias;
            if (s.softplus) value = softplus(value, exp);
            largest = farther(largest, value);
            store(dj + t * VW, value);
            store(xj + t * VW, value * load(u[t] + j * VW));
        }
        for (int t = own; t < walk.count; t++) {
            vf value = load(dj);
            store(dj + t * VW, value);
            store(xj + t * VW, value * load(u[t] + j * VW));
        }
        return all_below(largest * splat(p.largest_A[at]), -Exp::LOWEST);
    }

    // All states of vector v over the tile: the recurrence.
    void states(int j, int64_t v, int64_t at, bool moderate) {
        if (s.B_kind == CM_PER_CHANNEL || s.C_kind == CM_PER_CHANNEL) {
            if (s.B_kind != CM_PER_CHANNEL) return blocks<CLAMPED, false, true>(j, v, at);
            if (s.C_kind != CM_PER_CHANNEL) return blocks<CLAMPED, true, false>(j, v, at);
            return blocks<CLAMPED, true, true>(j, v, at);
        }
        if (time_invariant(s)) return blocks<HOISTED, false, false>(j, v, at);
        if (moderate) return blocks<FAST, false, false>(j, v, at);
        blocks<CLAMPED, false, false>(j, v, at);
    }

    template <ExpMode MODE, bool PB, bool PC>
    void blocks(int j, int64_t v, int64_t at) {
        int64_t n = 0;
        constexpr int WIDE = MODE == CLAMPED ? 4 : 8;
        for (; n + WIDE <= N; n += WIDE) block<WIDE, MODE, PB, PC>(j, v, at, n);
        if (WIDE > 4 && n + 4 <= N) {
            block<4, MODE, PB, PC>(j, v, at, n);
            n += 4;
        }
        for (; n < N; n++) block<1, MODE, PB, PC>(j, v, at, n);
    }

    template <int NB, ExpMode MODE, bool PB, bool PC>
    void block(int j, int64_t v, int64_t at, int64_t n) {
        core_forward<NB, MODE, PB, PC>(delta + j * STEPS * VW, x + j * STEPS * VW, B, C, n, PB ? p.B + (at * N + n) * VW : nullptr,
                                       PC ? p.C + (at * N + n) * VW : nullptr, y + j * STEPS * VW, p.A + (at * N + n) * VW,
                                       h + (v * N + n) * VW, walk.count, n == 0,
                                       kept ? kept + (v * N + n) * VW : nullptr, g.vectors * N * VW, ahead, exp);
    }

    // Skip, gate, and out.
    void finish(int j, int64_t at, bool add) {
        vf skip = load(p.skip + at * VW);
        const float *yj = y + j * STEPS * VW;
        for (int t = 0; t < walk.count; t++) {
            vf value = fma(skip, load(u[t] + j * VW), load(yj + t * VW));
            if (s.z.data) {
                vf gate = load(z[t] + j * VW);
                value = value * (gate * sigmoid(gate, exp));
            }
            if (add) value = value + load(out[t] + j * VW);
            store(out[t] + j * VW, value);
        }
    }
};

}  // namespace CM_NAMESPACE
