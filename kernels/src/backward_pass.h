// Walks the samples, routes, chunks and tiles of the backward scan around its core.
#pragma once

#include "backward.h"
#include "single.h"

namespace CM_NAMESPACE {

class BackwardPass {
  public:
    BackwardPass(const cm_scan &scan, const Packed &packed, const Partials &partials)
        : s(scan), g(scan), p(packed), sums(partials), N(scan.states) {}

    int64_t scratch() { return cut(nullptr); }

    // Samples [b0, b1) and tiles [tile0, tile1), all routes. `split`: index into the first axis of d_B and d_C.
    void run(int64_t part, int64_t b0, int64_t b1, int64_t split, int64_t tile0, int64_t tile1, float *block) {
        cut(block);
        sums.clear_range(s, g, part, g.first_vector(tile0), g.first_vector(tile1));
        int64_t band = band_tiles(s, tile1 - tile0);
        for (int64_t b = b0; b < b1; b++) {
            clear_projections(split, b);
            for (int64_t tile = tile0; tile < tile1; tile += band)
                for (int64_t k = 0; k < s.routes; k++) route(part, split, b, k, tile, least(tile + band, tile1));
            outside(b, g.tile(tile0).channel, tile1 < g.tiles ? g.tile(tile1).channel : s.channels);
        }
    }

  private:
    const cm_scan &s;
    const Geometry g;
    const Packed &p;
    const Partials &sums;
    const int64_t N;
    const Exp exp{};
    float *adjoint, *once, *record, *slopes, *trace, *dBC, *totals, *B_tile, *C_tile;
    float *u_tile, *delta_tile, *z_tile, *dy_tile, *du_tile, *ddelta_tile, *dz_tile;
    const float *u[CHUNK], *raw[CHUNK], *z[CHUNK], *dy[CHUNK], *B[CHUNK], *C[CHUNK];
    float *du[CHUNK], *ddelta[CHUNK], *dz[CHUNK];
    Walk walk, next_walk;
    RowStarts starts[2][7];  // of the arrays below, in this chunk and in the next
    const cm_array *arrays[7];
    Ahead<4> reads;
    Ahead<3> writes;
    int64_t part;

    int64_t cut(float *block) {
        Cutter cutter(block);
        adjoint = cutter.floats(g.vectors * N * VW);
        once = cutter.floats(g.vectors * VW);  // d_delta of a delta with one step, before softplus
        record = cutter.floats(JOINT * RECORDS);
        slopes = cutter.floats(JOINT * CHUNK * 2 * VW);  // of softplus at delta, and sigmoid(z)
        trace = cutter.floats((CHUNK + 1) * 16 * VW);  // 8 pairs of exp and h, or 4 times what single_backward keeps
        dBC = cutter.floats(CHUNK * N * 2 * VW);
        totals = cutter.floats(CHUNK * N * 2 + VW);
        B_tile = cutter.floats(CHUNK * N);
        C_tile = cutter.floats(CHUNK * N);
        for (float **tile : {&u_tile, &delta_tile, &z_tile, &dy_tile, &du_tile, &ddelta_tile, &dz_tile})
            *tile = cutter.floats(CHUNK * TILE);
        return (int64_t)cutter.used();
    }

    int64_t rows_of(int64_t kind) const { return kind == CM_ONE_STEP ? 1 : s.steps; }

    void clear_projections(int64_t split, int64_t b) {
        int64_t slab = s.routes * s.groups * N, at = split * s.batch + b;
        auto clear = [&](float *all, int64_t kind) {
            int64_t floats = slab * rows_of(kind);
            if (kind != CM_PER_CHANNEL && floats) memset(all + at * floats, 0, (size_t)floats * 4);
        };
        clear(s.d_B, s.B_kind);
        clear(s.d_C, s.C_kind);
    }

    // Steps past the sample's length have no gradient.
    void outside(int64_t b, int64_t from, int64_t to) {
        int64_t length = sample_length(s, b);
        if (length >= s.steps) return;
        write_zeros(s.d_u, b * s.d_u.b, length, s.steps, from, to);
        if (s.z.data) write_zeros(s.d_z, b * s.d_z.b, length, s.steps, from, to);
        for (int64_t k = 0; k < s.routes && !s.delta_once; k++)
            write_zeros(s.d_delta, b * s.d_delta.b + k * s.d_delta.k, length, s.steps, from, to);
    }

    void route(int64_t batch_part, int64_t split, int64_t b, int64_t k, int64_t tile0, int64_t tile1) {
        part = batch_part;
        int64_t v0 = g.first_vector(tile0), v1 = g.first_vector(tile1), length = sample_length(s, b);
        int64_t state = (b * s.routes + k) * s.channels * N;
        if (s.d_last_state)
            for (int64_t v = v0; v < v1; v++)
                states_in(adjoint + v * N * VW, s.d_last_state + state + g.channel(v) * N, N, g.valid(v));
        else
            memset(adjoint + v0 * N * VW, 0, (size_t)((v1 - v0) * N * VW) * 4);
        memset(once + v0 * VW, 0, (size_t)((v1 - v0) * VW) * 4);
        const int64_t chunks = ceil_div(length, CHUNK);
        if (chunks) look_ahead(b, k, chunks - 1, length);
        for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
            walk = next_walk;
            memcpy(starts[0], starts[1], sizeof starts[0]);
            if (chunk) look_ahead(b, k, chunk - 1, length);
            for (int64_t i = tile0; i < tile1;) {  // group by group
                Tile tile = g.tile(i);
                int64_t group = tile.group, first = i;
                projections(b, k, group);
                for (; i < tile1 && (tile = g.tile(i)).group == group; i++) {
                    fetch_next(i + 1 < tile1 ? starts[0] : starts[1], g.tile(i + 1 < tile1 ? i + 1 : tile0).channel);
                    scan_tile(b, k, chunk, tile, i == first);
                }
                add_projections(split, b, k, group);
            }
        }
        if (s.delta_once)
            for (int64_t v = v0; v < v1; v++) finish_once(b, k, v);
        if (s.d_initial_state)
            for (int64_t v = v0; v < v1; v++)
                states_out(s.d_initial_state + state + g.channel(v) * N, adjoint + v * N * VW, N, g.valid(v));
    }

    void look_ahead(int64_t b, int64_t k, int64_t chunk, int64_t length) {
        const cm_array *all[7] = {&s.u, &s.delta, &s.d_out, s.z.data ? &s.z : &s.u, &s.d_u, &s.d_delta, s.z.data ? &s.d_z : &s.d_u};
        next_walk.set(s, k, chunk * CHUNK, CHUNK, length);
        for (int i = 0; i < 7; i++) {
            arrays[i] = all[i];
            starts[1][i].set(*all[i], b * all[i]->b + k * all[i]->k, next_walk);
        }
    }

    void fetch_next(const RowStarts *rows, int64_t channel) {
        for (int i = 0; i < 4; i++) reads.set(i, rows[i], *arrays[i], channel);
        for (int i = 0; i < 3; i++) writes.set(i, rows[4 + i], *arrays[4 + i], channel);
    }

    void projections(int64_t b, int64_t k, int64_t group) {
        static const float nothing[4] = {0.0f};
        for (int t = 0; t < walk.count; t++) B[t] = C[t] = nothing;
        if (s.B_kind != CM_PER_CHANNEL)
            read_projection(B, B_tile, s.B, b * s.B.b + k * s.B.k + group * s.B.g, walk, N, s.B_kind == CM_ONE_STEP);
        if (s.C_kind != CM_PER_CHANNEL)
            read_projection(C, C_tile, s.C, b * s.C.b + k * s.C.k + group * s.C.g, walk, N, s.C_kind == CM_ONE_STEP);
    }

    // The tile's sums over channels, to d_B and d_C at the tokens they belong to.
    void add_projections(int64_t split, int64_t b, int64_t k, int64_t group) {
        if (s.B_kind == CM_PER_CHANNEL && s.C_kind == CM_PER_CHANNEL) return;
        int rows = time_invariant(s) && N > 1 ? 1 : walk.count;
        lane_sums(totals, dBC, rows * N * 2);
        int64_t slab = ((split * s.batch + b) * s.routes + k) * s.groups + group;
        float *to_B = s.d_B + slab * rows_of(s.B_kind) * N, *to_C = s.d_C + slab * rows_of(s.C_kind) * N;
        for (int t = 0; t < rows; t++) {
            const float *total = totals + t * N * 2;
            float *B_row = to_B + (s.B_kind == CM_ONE_STEP ? 0 : walk.at[t]) * N, *C_row = to_C + (s.C_kind == CM_ONE_STEP ? 0 : walk.at[t]) * N;
            if (s.B_kind != CM_PER_CHANNEL)
                for (int64_t n = 0; n < N; n++) B_row[n] += total[2 * n];
            if (s.C_kind != CM_PER_CHANNEL)
                for (int64_t n = 0; n < N; n++) C_row[n] += total[2 * n + 1];
        }
    }

    void scan_tile(int64_t b, int64_t k, int64_t chunk, const Tile &tile, bool first) {
        int64_t d = tile.channel, valid = tile.valid;
        int width = tile.width;
        read_rows(u, u_tile, s.u, b * s.u.b, walk, d, (int)valid, width);
        read_rows(dy, dy_tile, s.d_out, b * s.d_out.b, walk, d, (int)valid, width);
        if (s.z.data) read_rows(z, z_tile, s.z, b * s.z.b, walk, d, (int)valid, width);
        read_delta(b, k, tile);
        bool du_home = rows_to_write(du, du_tile, s.d_u, b * s.d_u.b, walk, d, tile.valid, width), dz_home = true, ddelta_home = true;
        int64_t ddelta_base = b * s.d_delta.b + k * s.d_delta.k;
        if (!s.delta_once) ddelta_home = rows_to_write(ddelta, ddelta_tile, s.d_delta, ddelta_base, walk, d, tile.valid, width);
        if (s.z.data) dz_home = rows_to_write(dz, dz_tile, s.d_z, b * s.d_z.b, walk, d, tile.valid, width);

        int64_t at = k * g.vectors + tile.vector;
        const float *kept = s.saved + (((b * s.routes + k) * g.saved_chunks + chunk) * g.vectors + tile.vector) * N * VW;
        if (N == 1) {
            single(tile, at, kept, first, k > 0 && du_home);
        } else {
            several(tile, at, kept, first, k > 0 && du_home);
        }
        if (!du_home) write_rows(du_tile, s.d_u, b * s.d_u.b, walk, d, tile.valid, k > 0);
        if (!ddelta_home) write_rows(ddelta_tile, s.d_delta, ddelta_base, walk, d, tile.valid, false);
        if (!dz_home) write_rows(dz_tile, s.d_z, b * s.d_z.b, walk, d, tile.valid, false);
    }

    void several(const Tile &tile, int64_t at, const float *kept, bool first, bool add) {
        if (first) memset(dBC, 0, (size_t)((time_invariant(s) ? 1 : walk.count) * N * 2 * VW) * 4);
        for (int j = 0, count; j < tile.vectors; j += count) {
            count = j + JOINT <= tile.vectors ? JOINT : 1;
            bool moderate = true;  // exp's arguments are within its range
            for (int i = 0; i < count; i++) moderate &= prepare(j + i, i, at + j + i);
            states(tile, at, kept, j, count, moderate);
            for (int i = 0; i < count; i++) finish(j + i, i, tile.vector + j + i, at + j + i, add);
        }
    }

    void single(const Tile &tile, int64_t at, const float *kept, bool first, bool add) {
        if (s.B_kind == CM_PER_CHANNEL && s.C_kind == CM_PER_CHANNEL) return single<true, true>(tile, at, kept, first, add);
        if (s.B_kind == CM_PER_CHANNEL) return single<true, false>(tile, at, kept, first, add);
        if (s.C_kind == CM_PER_CHANNEL) return single<false, true>(tile, at, kept, first, add);
        single<false, false>(tile, at, kept, first, add);
    }

    template <bool PB, bool PC>
    void single(const Tile &tile, int64_t at, const float *kept, bool first, bool add) {
        int j = 0;
        for (; j + 2 <= tile.vectors; j += 2) single_vectors<2, PB, PC>(tile, at, kept, j, first && j == 0, add);
        for (; j < tile.vectors; j++) single_vectors<1, PB, PC>(tile, at, kept, j, first && j == 0, add);
    }

    template <int JV, bool PB, bool PC>
    void single_vectors(const Tile &tile, int64_t at, const float *kept, int j, bool first_vectors, bool add) {
        const SingleRows rows = {u, raw, s.z.data ? z : nullptr, B, C, s.delta_once != 0, s.softplus != 0};
        int64_t here = (at + j) * VW, mine = (part * s.routes * g.vectors + at + j) * VW, v = (tile.vector + j) * VW;
        const SingleGradients to = {dy, du, s.delta_once ? nullptr : ddelta, dz, adjoint + v, sums.A + mine, sums.B + mine, sums.C + mine,
                                    sums.skip + mine, s.delta_once ? once + v : sums.bias + mine, dBC, trace, add, first_vectors};
        single_backward<JV, PB, PC>(rows, to, j * VW, p.A + here, p.B + here, p.C + here, p.skip + here, p.bias + here, kept + j * VW,
                                    walk.count, reads, writes, exp);
        reads.step(arrays, JV * VW);
        writes.step(arrays + 4, JV * VW);
    }

    void read_delta(int64_t b, int64_t k, const Tile &tile) {
        int64_t base = b * s.delta.b + k * s.delta.k;
        if (!s.delta_once) return read_rows(raw, delta_tile, s.delta, base, walk, tile.channel, tile.valid, tile.width);
        Walk first = {{0}, 1, true};
        read_rows(raw, delta_tile, s.delta, base, first, tile.channel, tile.valid, tile.width);
        for (int t = 1; t < walk.count; t++) raw[t] = raw[0];
    }

    // delta, x and w of the tile's vector j into record i; whether exp(delta A) needs no clamping.
    bool prepare(int j, int i, int64_t at) {
        vf bias = load(p.bias + at * VW), largest = zero();
        float *r = record + i * RECORDS, *slope = slopes + i * CHUNK * 2 * VW;
        int own = s.delta_once ? 1 : walk.count;
        for (int t = 0; t < walk.count; t++) {
            vf value;
            if (t < own) {
                value = load(raw[t] + j * VW) + bias;
                if (s.softplus) {
                    vf rise;
                    value = softplus(value, exp, rise);
                    store(slope + t * 2 * VW, rise);
                }
                largest = farther(largest, value);
            } else {
                value = load(r + DELTA * VW);
            }
            vf w = load(dy[t] + j * VW);
            if (s.z.data) {
                vf gate = load(z[t] + j * VW), share = sigmoid(gate, exp);
                store(slope + (t * 2 + 1) * VW, share);
                w = w * (gate * share);
            }
            float *rt = r + t * RECORD;
            store(rt + DELTA * VW, value);
            store(rt + X * VW, value * load(u[t] + j * VW));
            store(rt + W * VW, w);
            for (int field : {Y, S, Q}) store(rt + field * VW, zero());
        }
        return all_below(largest * splat(p.largest_A[at]), -Exp::LOWEST);
    }

    void states(const Tile &tile, int64_t at, const float *kept, int j, int count, bool moderate) {
        if (s.B_kind == CM_PER_CHANNEL || s.C_kind == CM_PER_CHANNEL) {
            if (s.B_kind != CM_PER_CHANNEL) return gate<CLAMPED, false, true>(tile, at, kept, j, count);
            if (s.C_kind != CM_PER_CHANNEL) return gate<CLAMPED, true, false>(tile, at, kept, j, count);
            return gate<CLAMPED, true, true>(tile, at, kept, j, count);
        }
        if (time_invariant(s)) return gate<HOISTED, false, false>(tile, at, kept, j, count);
        if (moderate) return gate<FAST, false, false>(tile, at, kept, j, count);
        gate<CLAMPED, false, false>(tile, at, kept, j, count);
    }

    template <ExpMode MODE, bool PB, bool PC>
    void gate(const Tile &tile, int64_t at, const float *kept, int j, int count) {
        if (s.z.data)
            vectors<MODE, true, PB, PC>(tile, at, kept, j, count);
        else
            vectors<MODE, false, PB, PC>(tile, at, kept, j, count);
    }

    template <ExpMode MODE, bool NEED_Y, bool PB, bool PC>
    void vectors(const Tile &tile, int64_t at, const float *kept, int j, int count) {
        if (count == JOINT) return blocks<JOINT, MODE, NEED_Y, PB, PC>(tile, at, kept, j);
        blocks<1, MODE, NEED_Y, PB, PC>(tile, at, kept, j);
    }

    template <int JV, ExpMode MODE, bool NEED_Y, bool PB, bool PC>
    void blocks(const Tile &tile, int64_t at, const float *kept, int j) {
        constexpr int NB = 4;
        int64_t mine = (part * s.routes * g.vectors + at + j) * N * VW, here = (at + j) * N * VW;
        BackwardOperands o = {record, B, C, p.A + here, PB ? p.B + here : nullptr, PC ? p.C + here : nullptr,
                              kept + j * N * VW, adjoint + (tile.vector + j) * N * VW, sums.A + mine, PB ? sums.B + mine : nullptr,
                              PC ? sums.C + mine : nullptr, dBC, trace, 0, N, walk.count, &reads, &writes};
        const int calls = (int)(N / NB + N % NB);
        for (int call = 0; call < calls; call++) {
            o.reads_from = call * 4 / calls, o.reads_to = (call + 1) * 4 / calls;
            o.writes_from = call * 3 / calls, o.writes_to = (call + 1) * 3 / calls;
            if (o.n + NB <= N) {
                core_backward<NB, JV, MODE, NEED_Y, PB, PC>(o, exp);
                o.n += NB;
            } else {
                core_backward<1, JV, MODE, NEED_Y, PB, PC>(o, exp);
                o.n++;
            }
        }
        reads.step(arrays, JV * VW);
        writes.step(arrays + 4, JV * VW);
    }

    // From the sums over states to the gradients of u, delta, z, D and the bias.
    void finish(int j, int i, int64_t v, int64_t at, bool add) {
        const float *r = record + i * RECORDS, *slope = slopes + i * CHUNK * 2 * VW;
        vf skip = load(p.skip + at * VW), d_skip = zero(), d_bias = zero();
        for (int t = 0; t < walk.count; t++, r += RECORD, slope += 2 * VW) {
            vf ut = load(u[t] + j * VW), w = load(r + W * VW), st = load(r + S * VW);
            vf d_delta = fma(load(r + Q * VW), splat((float)(1.0 / (LOG2E * EXP_UNITS))), ut * st);
            if (!s.delta_once) {
                if (s.softplus) d_delta = d_delta * load(slope);
                store(ddelta[t] + j * VW, d_delta);
            }
            d_bias = d_bias + d_delta;
            d_skip = fma(w, ut, d_skip);
            vf d_ut = fma(load(r + DELTA * VW), st, skip * w);
            if (add) d_ut = d_ut + load(du[t] + j * VW);
            store(du[t] + j * VW, d_ut);
            if (s.z.data) {  // silu'(z) = sigmoid(z) (1 + z (1 - sigmoid(z)))
                vf gate = load(z[t] + j * VW), share = load(slope + VW), y = fma(skip, ut, load(r + Y * VW));
                store(dz[t] + j * VW, load(dy[t] + j * VW) * y * share * fma(gate, splat(1.0f) - share, splat(1.0f)));
            }
        }
        int64_t mine = (part * s.routes * g.vectors + at) * VW;
        store(sums.skip + mine, load(sums.skip + mine) + d_skip);
        if (s.delta_once)
            store(once + v * VW, load(once + v * VW) + d_bias);
        else
            store(sums.bias + mine, load(sums.bias + mine) + d_bias);
    }

    void finish_once(int64_t b, int64_t k, int64_t v) {
        int64_t at = k * g.vectors + v, mine = (part * s.routes * g.vectors + at) * VW;
        for (int i = 0; i < g.valid(v); i++) {
            int64_t channel = g.channel(v) + i;
            float d_delta = once[v * VW + i];
            if (s.softplus) {
                float value = read_element(s.delta, b * s.delta.b + k * s.delta.k + channel * s.delta.c) + p.bias[at * VW + i];
                d_delta *= value >= 0 ? 1.0f / (1.0f + expf(-value)) : expf(value) / (1.0f + expf(value));
            }
            write_element(s.d_delta, b * s.d_delta.b + k * s.d_delta.k + channel * s.d_delta.c, d_delta);
            sums.bias[mine + i] += d_delta;
        }
    }
};

}  // namespace CM_NAMESPACE
