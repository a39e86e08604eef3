// Reading and writing tiles of an array as rows of floats, one row per step, whatever its dtype and strides. Rows of a
// float32 array with its channels side by side are used in place; all others pass through a tile buffer in L1.
#pragma once

#include "scan.h"
#include "vec.h"

namespace CM_NAMESPACE {

constexpr int CHUNK = CROSSMAMBA_CHUNK;    // steps between two kept states: those of a tile in backward
constexpr int STEPS = 64;                  // steps of a tile in forward
constexpr int TILE = 64;                   // channels of a tile
constexpr int TILE_VECTORS = TILE / VW;    // vectors of channels of a tile
constexpr int PAD_VECTORS = CROSSMAMBA_PAD / VW;

// Where a walk is: its positions are `count` tokens of a sequence.
struct Walk {
    int32_t at[STEPS];
    int count;
    bool ascending;  // at[t] == at[0] + t

    void set(const cm_scan &s, int64_t k, int64_t first, int64_t most, int64_t length) {
        count = (int)(length - first < most ? length - first : most);
        ascending = !s.order && !s.reverse;
        for (int t = 0; t < count; t++) {
            int64_t step = first + t;
            at[t] = s.order ? s.order[k * s.steps + step] : (int32_t)(s.reverse ? length - 1 - step : step);
        }
    }
};

static INLINE const char *element(const cm_array &a, int64_t offset) {
    return (const char *)a.data + offset * (a.dtype == CM_FLOAT32 ? 4 : 2);
}

static INLINE float read_element(const cm_array &a, int64_t offset) {
    const char *p = element(a, offset);
    if (a.dtype == CM_FLOAT32) return *(const float *)p;
    return a.dtype == CM_BFLOAT16 ? from_bfloat16(*(const uint16_t *)p) : from_float16(*(const uint16_t *)p);
}

static INLINE void write_element(const cm_array &a, int64_t offset, float x) {
    char *p = (char *)element(a, offset);
    if (a.dtype == CM_FLOAT32)
        *(float *)p = x;
    else
        *(uint16_t *)p = a.dtype == CM_BFLOAT16 ? to_bfloat16(x) : to_float16(x);
}

// `valid` neighbouring elements as floats, the rest up to `width` zero.
static INLINE void read_contiguous(float *to, const cm_array &a, int64_t offset, int valid, int width) {
    const char *p = element(a, offset);
    int c = 0;
    if (a.dtype == CM_FLOAT32) {
        for (; c + VW <= valid; c += VW) store(to + c, load((const float *)p + c));
    } else if (a.dtype == CM_BFLOAT16) {
        for (; c + VW <= valid; c += VW) store(to + c, load_bfloat16((const uint16_t *)p + c));
    } else {
        for (; c + VW <= valid; c += VW) store(to + c, load_float16((const uint16_t *)p + c));
    }
    for (; c < valid; c++) to[c] = read_element(a, offset + c);
    for (; c < width; c++) to[c] = 0.0f;
}

static INLINE bool usable_in_place(const cm_array &a, int valid, int width) {
    return a.dtype == CM_FLOAT32 && a.c == 1 && valid == width;
}

// Rows of one tile: channels d .. d + valid, padded with zeros to width (a multiple of VW). `base`: offset of the sample
// and route. `rows[t]` then points to `width` floats.
static inline void read_rows(const float **rows, float *tile, const cm_array &a, int64_t base, const Walk &walk, int64_t d,
                             int valid, int width) {
    base += d * a.c;
    if (usable_in_place(a, valid, width)) {
        for (int t = 0; t < walk.count; t++) rows[t] = (const float *)a.data + base + walk.at[t] * a.m;
        return;
    }
    for (int t = 0; t < walk.count; t++) rows[t] = tile + t * TILE;
    if (a.c == 1) {
        for (int t = 0; t < walk.count; t++) read_contiguous(tile + t * TILE, a, base + walk.at[t] * a.m, valid, width);
        return;
    }
    if (a.m == 1 && walk.ascending && a.dtype == CM_FLOAT32) {  // (B, D, L) memory: square blocks, turned
        const float *p = (const float *)a.data + base + walk.at[0];
        int t = 0;
        for (; t + VW <= walk.count; t += VW)
            for (int c = 0; c < width; c += VW) {
                vf block[VW];
                UNROLL
                for (int i = 0; i < VW; i++) block[i] = c + i < valid ? load(p + (c + i) * a.c + t) : zero();
                transpose(block);
                UNROLL
                for (int i = 0; i < VW; i++) store(tile + (t + i) * TILE + c, block[i]);
            }
        for (; t < walk.count; t++)
            for (int c = 0; c < width; c++) tile[t * TILE + c] = c < valid ? p[c * a.c + t] : 0.0f;
        return;
    }
    for (int t = 0; t < walk.count; t++)
        for (int c = 0; c < width; c++)
            tile[t * TILE + c] = c < valid ? read_element(a, base + walk.at[t] * a.m + c * a.c) : 0.0f;
}

// Rows to write to: the array's own where possible, else the tile's, to be brought home by `write_rows`.
// True if they are the array's own.
static inline bool rows_to_write(float **rows, float *tile, const cm_array &a, int64_t base, const Walk &walk, int64_t d,
                                 int valid, int width) {
    bool in_place = usable_in_place(a, valid, width);
    for (int t = 0; t < walk.count; t++)
        rows[t] = in_place ? (float *)a.data + base + d + walk.at[t] * a.m : tile + t * TILE;
    return in_place;
}

static inline void write_rows(const float *tile, const cm_array &a, int64_t base, const Walk &walk, int64_t d, int valid,
                              bool add) {
    base += d * a.c;
    if (a.m == 1 && walk.ascending && a.dtype == CM_FLOAT32 && !add && a.c != 1) {
        float *p = (float *)a.data + base + walk.at[0];
        int t = 0;
        for (; t + VW <= walk.count; t += VW)
            for (int c = 0; c < valid; c += VW) {
                vf block[VW];
                UNROLL
                for (int i = 0; i < VW; i++) block[i] = load(tile + (t + i) * TILE + c);
                transpose(block);
                UNROLL
                for (int i = 0; i < VW; i++)
                    if (c + i < valid) store(p + (c + i) * a.c + t, block[i]);
            }
        for (; t < walk.count; t++)
            for (int c = 0; c < valid; c++) p[c * a.c + t] = tile[t * TILE + c];
        return;
    }
#if defined(__AVX512F__) || defined(__AVX2__)
    if (a.c == 1 && a.dtype == CM_FLOAT16 && !add) {
        for (int t = 0; t < walk.count; t++) {
            uint16_t *p = (uint16_t *)a.data + base + walk.at[t] * a.m;
            int c = 0;
            for (; c + 8 <= valid; c += 8)
                _mm_storeu_si128((__m128i *)(p + c), _mm256_cvtps_ph(_mm256_loadu_ps(tile + t * TILE + c), 0));
            for (; c < valid; c++) p[c] = to_float16(tile[t * TILE + c]);
        }
        return;
    }
#endif
    for (int t = 0; t < walk.count; t++)
        for (int c = 0; c < valid; c++) {
            int64_t offset = base + walk.at[t] * a.m + c * a.c;
            float x = tile[t * TILE + c];
            write_element(a, offset, add ? x + read_element(a, offset) : x);
        }
}

// Zeros in the steps past a sample's length.
static inline void write_zeros(const cm_array &a, int64_t base, int64_t from, int64_t to, int64_t d0, int64_t d1) {
    for (int64_t m = from; m < to; m++)
        for (int64_t d = d0; d < d1; d++) write_element(a, base + m * a.m + d * a.c, 0.0f);
}

// Where the rows of a walk start, to fetch them ahead of use. Neighbouring rows of a wide array lie on different pages, and
// the processor's own prefetching stops at a page's end.
struct RowStarts {
    const char *at[STEPS];

    void set(const cm_array &a, int64_t base, const Walk &walk) {
        for (int t = 0; t < walk.count; t++) at[t] = element(a, base + (a.c == 1 ? walk.at[t] * a.m : 0));
        for (int t = walk.count; t < STEPS; t++) at[t] = at[0];
    }
};

// What a tile's core fetches while it computes: one vector of the next tile, step by step.
template <int ARRAYS>
struct Ahead {
    const char *const *rows[ARRAYS];
    int64_t offset[ARRAYS];

    void set(int i, const RowStarts &starts, const cm_array &a, int64_t channel) {
        rows[i] = starts.at;
        offset[i] = a.c == 1 ? channel * (a.dtype == CM_FLOAT32 ? 4 : 2) : 0;
    }
    template <int VECTORS>
    INLINE void fetch(int i, int t) const {
        UNROLL
        for (int j = 0; j < (VECTORS * VW + 15) / 16; j++) __builtin_prefetch(rows[i][t] + offset[i] + 64 * j, 0, 2);
    }
    void step(const cm_array *const *arrays, int channels) {
        for (int i = 0; i < ARRAYS; i++) offset[i] += channels * (arrays[i]->dtype == CM_FLOAT32 ? 4 : 2);
    }
};

// Rows of B or C, N floats each; one row for all steps if it has one step only.
static inline void read_projection(const float **rows, float *tile, const cm_array &a, int64_t base, const Walk &walk, int64_t N,
                                   bool one_step) {
    int count = one_step ? 1 : walk.count;
    bool in_place = a.dtype == CM_FLOAT32 && a.c == 1;
    for (int t = 0; t < count; t++) {
        int64_t offset = base + (one_step ? 0 : walk.at[t] * a.m);
        rows[t] = in_place ? (const float *)a.data + offset : tile + t * N;
        if (in_place) continue;
        if (a.c == 1)
            read_contiguous(tile + t * N, a, offset, (int)N, (int)N);
        else
            for (int64_t n = 0; n < N; n++) tile[t * N + n] = read_element(a, offset + n * a.c);
    }
    for (int t = count; t < walk.count; t++) rows[t] = rows[0];
}

}  // namespace CM_NAMESPACE
