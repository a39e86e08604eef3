// Vectors of VW floats for one instruction set, and the few functions the scan needs. From one source: AVX-512, AVX2,
// and whatever the compiler makes of four floats (SSE2, NEON).
//
// exp works in units of log2(e)/EXP_UNITS: the caller scales A once, so that exp(delta A) costs no multiplication more.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE inline __attribute__((always_inline))
#if defined(__aarch64__)
#define IN_REGISTER "+w"
#else
#define IN_REGISTER "+v"
#endif
#define UNROLL _Pragma("GCC unroll 16")

namespace CM_NAMESPACE {

#if defined(__AVX512F__)
constexpr int VW = 16;
#elif defined(__AVX2__)
constexpr int VW = 8;
#else
constexpr int VW = 4;
#endif

typedef float vf __attribute__((vector_size(VW * 4), aligned(VW * 4)));
typedef int32_t vi __attribute__((vector_size(VW * 4), aligned(VW * 4)));
typedef float vf_unaligned __attribute__((vector_size(VW * 4), aligned(4), may_alias));
typedef uint16_t vh __attribute__((vector_size(VW * 2), aligned(2), may_alias));

static INLINE vf load(const float *p) { return (vf) * (const vf_unaligned *)p; }
static INLINE void store(float *p, vf v) { *(vf_unaligned *)p = (vf_unaligned)v; }
static INLINE vf splat(float x) { return x - (vf){}; }
static INLINE vf zero() { return (vf){}; }

// a b + c, rounded once where the machine can. max and min give a NaN of x on.
#if defined(__AVX512F__)
static INLINE vf fma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
static INLINE vf fms(vf a, vf b, vf c) { return (vf)_mm512_fmsub_ps((__m512)a, (__m512)b, (__m512)c); }
static INLINE vf max(vf bound, vf x) { return (vf)_mm512_max_ps((__m512)bound, (__m512)x); }
static INLINE vf min(vf bound, vf x) { return (vf)_mm512_min_ps((__m512)bound, (__m512)x); }
static INLINE float sum(vf a) { return _mm512_reduce_add_ps((__m512)a); }
static INLINE bool all_below(vf x, float bound) { return _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(bound), _CMP_LT_OQ) == 0xffff; }
static INLINE vf reciprocal(vf x) {  // x in [1, inf): 14 bits, one Newton step; 1/inf is 0
    vf r = (vf)_mm512_rcp14_ps((__m512)x);
    return (vf)_mm512_mask_mul_ps((__m512)r, _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(1e37f), _CMP_NGE_UQ), (__m512)r,
                                  (__m512)fma(-x, r, splat(2.0f)));
}
#elif defined(__AVX2__)
static INLINE vf fma(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
static INLINE vf fms(vf a, vf b, vf c) { return (vf)_mm256_fmsub_ps((__m256)a, (__m256)b, (__m256)c); }
static INLINE vf max(vf bound, vf x) { return (vf)_mm256_max_ps((__m256)bound, (__m256)x); }
static INLINE vf min(vf bound, vf x) { return (vf)_mm256_min_ps((__m256)bound, (__m256)x); }
static INLINE vf reciprocal(vf x) { return splat(1.0f) / x; }
#else
#if defined(__aarch64__)
static INLINE vf fma(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
static INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }
#endif
static INLINE vf fms(vf a, vf b, vf c) { return fma(a, b, -c); }
static INLINE vf max(vf bound, vf x) { return bound > x ? bound : x; }
static INLINE vf min(vf bound, vf x) { return bound < x ? bound : x; }
static INLINE vf reciprocal(vf x) { return splat(1.0f) / x; }
#endif
#if !defined(__AVX512F__)
static INLINE float sum(vf a) {
    float s = 0;
    for (int i = 0; i < VW; i++) s += a[i];
    return s;
}
static INLINE bool all_below(vf x, float bound) {  // false if one is a NaN
    bool all = true;
    for (int i = 0; i < VW; i++) all &= x[i] < bound;
    return all;
}
#endif

// ---- exp -----------------------------------------------------------------------------------------------------------
// Adding ROUNDER puts the nearest integer of x into the low bits of the mantissa.
constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23
constexpr double LOG2E = 1.44269504088896341;

#if defined(__AVX512F__) || defined(__AVX2__)
// exp2(x / VW) = 2^(n / VW) 2^(f / VW): the first factor from a table of VW floats in one register, the second a
// polynomial with the exact slope at 0: an error there would stretch every long memory. Entry k of the table is less
// k << SHIFT, because adding n << SHIFT to the exponent brings that along.
constexpr float EXP_UNITS = VW;
extern const int32_t EXP_TABLE[VW];
struct Exp {
    vi table = (vi)load((const float *)EXP_TABLE);
#if defined(__AVX512F__)  // 2e-9
    static constexpr int SHIFT = 19;
    static constexpr float P1 = 4.332169879e-02f, P2 = 9.384151885e-04f, P3 = 1.355125735e-05f;
    INLINE vi entry(vi n) const { return (vi)_mm512_permutexvar_epi32((__m512i)n, (__m512i)table); }
    static INLINE vf power(vf f) { return fma(fma(splat(P3), f, splat(P2)), f, splat(P1)) * f; }
#else  // 8e-11
    static constexpr int SHIFT = 20;
    static constexpr float P1 = 8.664339757e-02f, P2 = 3.753539150e-03f, P3 = 1.084191750e-04f, P4 = 2.348406899e-06f;
    INLINE vi entry(vi n) const { return (vi)_mm256_permutevar8x32_epi32((__m256i)table, (__m256i)n); }
    static INLINE vf power(vf f) { return fma(fma(fma(splat(P4), f, splat(P3)), f, splat(P2)), f, splat(P1)) * f; }
#endif
    INLINE vf finish(vf rounded, vf f) const {
        vf T = (vf)(entry((vi)rounded) + ((vi)rounded << SHIFT));
        return fma(T, power(f), T);
    }
#else
// exp2(x) = 2^n 2^f, the second factor a polynomial of degree 6 on [-1/2, 1/2] (2e-9).
constexpr float EXP_UNITS = 1.0f;
struct Exp {
    INLINE vf finish(vf rounded, vf f) const {
        vf p = splat(1.534581217e-04f);
        p = fma(p, f, splat(1.339993118e-03f));
        p = fma(p, f, splat(9.618488956e-03f));
        p = fma(p, f, splat(5.550328777e-02f));
        p = fma(p, f, splat(2.402264689e-01f));
        p = fma(p, f, splat(6.931472057e-01f));
        p = fma(p, f, splat(1.0f));
        return (vf)((vi)p + ((vi)rounded << 23));
    }
#endif
    static constexpr float LOWEST = -126.0f * EXP_UNITS, HIGHEST = 127.0f * EXP_UNITS;

    // exp of d * a, where a is in exp's units and the product within [LOWEST, HIGHEST].
    INLINE vf within(vf d, vf a) const {
        vf t = fma(d, a, splat(ROUNDER));
        return finish(t, fms(d, a, t - splat(ROUNDER)));
    }
    // The same bits within the range; 2^-126 below it, 2^127 or more above. A NaN stays one.
    INLINE vf clamped(vf d, vf a) const {
        vf t = min(splat(ROUNDER + HIGHEST), max(splat(ROUNDER + LOWEST), fma(d, a, splat(ROUNDER))));
        vf f = fms(d, a, t - splat(ROUNDER));
        return finish(t, min(splat(0.5f), max(splat(-0.5f), f)));
    }
    // exp of x in nats, whose constant needs more digits than a float has.
    INLINE vf operator()(vf x) const {
        const vf unit = splat((float)(LOG2E * EXP_UNITS)), rest = splat((float)(LOG2E * EXP_UNITS - (float)(LOG2E * EXP_UNITS)));
        vf t = min(splat(ROUNDER + HIGHEST), max(splat(ROUNDER + LOWEST), fma(x, unit, splat(ROUNDER))));
        vf f = fma(x, rest, fms(x, unit, t - splat(ROUNDER)));
        return finish(t, min(splat(0.5f), max(splat(-0.5f), f)));
    }
};

static INLINE vf absolute(vf x) { return (vf)((vi)x & 0x7fffffff); }
// The larger of bound and |x|, both without sign: in their bits, where a NaN is the largest of all and stays.
static INLINE vf farther(vf bound, vf x) {
    vi a = (vi)bound, b = (vi)absolute(x);
    return (vf)(a > b ? a : b);
}

// log(1 + w) for w in [0, 1]: w times a polynomial of degree 9 (5e-9).
static INLINE vf log1p_unit(vf w) {
    vf p = splat(-3.244011913e-03f);
    p = fma(p, w, splat(1.985140049e-02f));
    p = fma(p, w, splat(-5.695941325e-02f));
    p = fma(p, w, splat(1.060364202e-01f));
    p = fma(p, w, splat(-1.530558451e-01f));
    p = fma(p, w, splat(1.967593625e-01f));
    p = fma(p, w, splat(-2.495413302e-01f));
    p = fma(p, w, splat(3.332996235e-01f));
    p = fma(p, w, splat(-4.999990242e-01f));
    p = fma(p, w, splat(9.999999953e-01f));
    return p * w;
}

static INLINE vf softplus(vf x, const Exp &exp) { return max(zero(), x) + log1p_unit(exp(-absolute(x))); }
// softplus and its slope, the sigmoid, from one exp.
static INLINE vf softplus(vf x, const Exp &exp, vf &slope) {
    vf e = exp(-absolute(x)), r = reciprocal(splat(1.0f) + e);
    slope = x >= zero() ? r : e * r;
    return max(zero(), x) + log1p_unit(e);
}
static INLINE vf sigmoid(vf x, const Exp &exp) { return reciprocal(splat(1.0f) + exp(-x)); }

// ---- half precision ------------------------------------------------------------------------------------------------
static INLINE float from_bfloat16(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static INLINE uint16_t to_bfloat16(float x) {  // to nearest, ties to even; NaN stays NaN
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
#if defined(__F16C__)
static INLINE float from_float16(uint16_t h) { return _cvtsh_ss(h); }
static INLINE uint16_t to_float16(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__aarch64__)
static INLINE float from_float16(uint16_t h) {
    __fp16 x;
    memcpy(&x, &h, 2);
    return (float)x;
}
static INLINE uint16_t to_float16(float x) {
    __fp16 y = (__fp16)x;
    uint16_t h;
    memcpy(&h, &y, 2);
    return h;
}
#else
static inline float from_float16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff, bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | (mantissa << 13);
    } else if (exponent) {
        bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    } else {
        float tiny = (float)mantissa * 5.9604644775390625e-08f;  // 2^-24
        memcpy(&bits, &tiny, 4);
        bits |= sign;
    }
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static inline uint16_t to_float16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000);
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return sign | 0x7e00;
    if (bits >= 0x477ff000u) return sign | 0x7c00;  // rounds to infinity
    if (bits < 0x38800000u) {                       // subnormal: let the adder round
        float y;
        memcpy(&y, &bits, 4);
        y += 0.5f;
        memcpy(&bits, &y, 4);
        return sign | (uint16_t)(bits - 0x3f000000u);
    }
    bits += 0xfff + ((bits >> 13) & 1);
    return sign | (uint16_t)((bits - 0x38000000u) >> 13);
}
#endif

#if defined(__AVX512F__)
static INLINE vf load_bfloat16(const uint16_t *p) {
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}
static INLINE vf load_float16(const uint16_t *p) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
#elif defined(__AVX2__)
static INLINE vf load_bfloat16(const uint16_t *p) {
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
}
static INLINE vf load_float16(const uint16_t *p) { return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
#else
static INLINE vf load_bfloat16(const uint16_t *p) {
    vf v;
    for (int i = 0; i < VW; i++) v[i] = from_bfloat16(p[i]);
    return v;
}
static INLINE vf load_float16(const uint16_t *p) {
    vf v;
    for (int i = 0; i < VW; i++) v[i] = from_float16(p[i]);
    return v;
}
#endif

// ---- transposing VW rows of VW floats --------------------------------------------------------------------------------
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif
#endif
#if !defined(SHUFFLE)  // GCC before 12
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif
template <int S, int... I>
static INLINE void exchange(vf &a, vf &b, std::integer_sequence<int, I...>) {
    vf x = SHUFFLE(a, b, ((I & S) ? VW + I - S : I)...);
    b = SHUFFLE(a, b, ((I & S) ? VW + I : I + S)...);
    a = x;
}
template <int S>
static INLINE void exchange_rows(vf *rows) {
    UNROLL
    for (int i = 0; i < VW; i++)
        if (!(i & S)) exchange<S>(rows[i], rows[i + S], std::make_integer_sequence<int, VW>());
}
static INLINE void transpose(vf *rows) {
    exchange_rows<1>(rows);
    exchange_rows<2>(rows);
    if constexpr (VW > 4) exchange_rows<4>(rows);
    if constexpr (VW > 8) exchange_rows<8>(rows);
}

// ---- subnormal numbers ----------------------------------------------------------------------------------------------
// Decayed states become subnormal, and those take a hundred cycles each on some processors: flush them to zero here.
struct FlushSubnormals {
#if defined(__x86_64__)
    unsigned before = _mm_getcsr();
    FlushSubnormals() { _mm_setcsr(before | 0x8040); }
    ~FlushSubnormals() { _mm_setcsr(before); }
#elif defined(__aarch64__)
    uint64_t before;
    FlushSubnormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before));
        asm volatile("msr fpcr, %0" ::"r"(before | (1ull << 24)));
    }
    ~FlushSubnormals() { asm volatile("msr fpcr, %0" ::"r"(before)); }
#endif
};

}  // namespace CM_NAMESPACE
