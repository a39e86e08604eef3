// How one call is cut up: channels into vectors and tiles, samples and tiles into tasks for threads.
#pragma once

#include "rows.h"
#include "scratch.h"

namespace CM_NAMESPACE {

using crossmamba::Cutter;

static INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Up to TILE neighbouring channels of one group.
struct Tile {
    int64_t group, vector, channel;  // its group, first vector and first channel
    int vectors, width, valid;       // width = vectors * VW channels, of which `valid` exist and the others are zeros
};

struct Geometry {
    int64_t group_channels, group_vectors, group_tiles, vectors, tiles, saved_chunks;

    explicit Geometry(const cm_scan &s) {
        group_channels = s.channels / s.groups;
        group_vectors = ceil_div(group_channels, CROSSMAMBA_PAD) * PAD_VECTORS;
        group_tiles = ceil_div(group_vectors, TILE_VECTORS);
        vectors = s.groups * group_vectors;
        tiles = s.groups * group_tiles;
        saved_chunks = s.steps / CHUNK + 1;
    }
    Tile tile(int64_t index) const {
        Tile t;
        t.group = index / group_tiles;
        int64_t first = index % group_tiles * TILE_VECTORS;
        t.vector = t.group * group_vectors + first;
        t.channel = t.group * group_channels + first * VW;
        t.vectors = (int)least(TILE_VECTORS, group_vectors - first);
        t.width = t.vectors * VW;
        t.valid = (int)least(t.width, group_channels - first * VW);
        return t;
    }
    int64_t first_vector(int64_t tile_index) const { return tile_index < tiles ? tile(tile_index).vector : vectors; }
    // Channels of vector v that exist, and the first of them.
    int valid(int64_t v) const {
        int64_t rest = group_channels - v % group_vectors * VW;
        return (int)(rest < 0 ? 0 : least(rest, VW));
    }
    int64_t channel(int64_t v) const { return v / group_vectors * group_channels + v % group_vectors * VW; }
};

// (channels, N) as it lies in memory -> N vectors of channels; lanes past `valid` are zero.
static inline void states_in(float *to, const float *from, int64_t N, int valid) {
    int64_t n = 0;
    if (valid == VW)
        for (; n + VW <= N; n += VW) {
            vf block[VW];
            UNROLL
            for (int i = 0; i < VW; i++) block[i] = load(from + i * N + n);
            transpose(block);
            UNROLL
            for (int i = 0; i < VW; i++) store(to + (n + i) * VW, block[i]);
        }
    for (; n < N; n++)
        for (int i = 0; i < VW; i++) to[n * VW + i] = i < valid ? from[i * N + n] : 0.0f;
}

// The way back.
static inline void states_out(float *to, const float *from, int64_t N, int valid) {
    int64_t n = 0;
    if (valid == VW)
        for (; n + VW <= N; n += VW) {
            vf block[VW];
            UNROLL
            for (int i = 0; i < VW; i++) block[i] = load(from + (n + i) * VW);
            transpose(block);
            UNROLL
            for (int i = 0; i < VW; i++) store(to + i * N + n, block[i]);
        }
    for (; n < N; n++)
        for (int i = 0; i < valid; i++) to[i * N + n] = from[n * VW + i];
}

// Parameters in the order in which tiles read them: [route][vector][state][lane], A in exp's units.
struct Packed {
    float *A, *B, *C, *skip, *bias;  // B and C only if they are per channel
    float *largest_A;                // max |A| of a vector, [route][vector]: bounds exp's argument for a tile

    void cut(Cutter &cutter, const cm_scan &s, const Geometry &g) {
        int64_t all = s.routes * g.vectors;
        A = cutter.floats(all * s.states * VW);
        B = s.B_kind == CM_PER_CHANNEL ? cutter.floats(all * s.states * VW) : nullptr;
        C = s.C_kind == CM_PER_CHANNEL ? cutter.floats(all * s.states * VW) : nullptr;
        skip = cutter.floats(all * VW);
        bias = cutter.floats(all * VW);
        largest_A = cutter.floats(all);
    }
    void fill(const cm_scan &s, const Geometry &g, int64_t k, int64_t v) {
        int64_t at = k * g.vectors + v, N = s.states, from = k * s.channels + g.channel(v);
        int valid = g.valid(v);
        float *a = A + at * N * VW, largest = 0;
        states_in(a, s.A + from * N, N, valid);
        for (int64_t i = 0; i < N * VW; i++) {
            a[i] = (float)(a[i] * (LOG2E * EXP_UNITS));
            largest = fabsf(a[i]) > largest ? fabsf(a[i]) : largest;
        }
        largest_A[at] = largest;
        if (B) states_in(B + at * N * VW, (const float *)s.B.data + from * N, N, valid);
        if (C) states_in(C + at * N * VW, (const float *)s.C.data + from * N, N, valid);
        for (int i = 0; i < VW; i++) {
            skip[at * VW + i] = s.skip && i < valid ? s.skip[from + i] : 0.0f;
            bias[at * VW + i] = s.bias && i < valid ? s.bias[from + i] : 0.0f;
        }
    }
};

// Tiles of channels are split over threads only as far as samples do not suffice.
static inline int64_t channel_splits(const Geometry &g, int64_t samples, int64_t threads) {
    if (samples >= 4 * threads || samples % threads == 0) return 1;
    int64_t common = samples, other = threads;
    while (other) {
        int64_t rest = common % other;
        common = other;
        other = rest;
    }
    return least(threads / common, g.tiles < 1 ? 1 : g.tiles);
}

// Channels that walk all routes before the next ones do: with few states the walk is bound by memory, and a narrow band
// of u and out stays in L2 from route to route; with many, whole rows are read better.
static INLINE int64_t band_tiles(const cm_scan &s, int64_t tiles) { return s.routes > 1 && s.states < 4 ? least(2, tiles) : tiles; }

static INLINE int64_t sample_length(const cm_scan &s, int64_t b) { return s.lengths ? s.lengths[b] : s.steps; }

// delta, B and C all constant along the sequence: exp(delta A) is taken once.
static INLINE bool time_invariant(const cm_scan &s) {
    return s.delta_once && s.B_kind == CM_ONE_STEP && s.C_kind == CM_ONE_STEP;
}

enum ExpMode { FAST, CLAMPED, HOISTED };

}  // namespace CM_NAMESPACE
