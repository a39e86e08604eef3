/* The C interface of crossmamba's CPU kernels: plain pointers, strides and integers. No libtorch, no Python.
 *
 *   h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t      y_t = C_t . h_t + D u_t      out = sum over routes of y, times silu(z)
 *
 * B batch, K routes, G groups, M tokens (steps), D channels, N states. Arithmetic and state are float32.
 * Every field is 8 bytes wide, so a caller may fill a struct as one array of int64.
 */
#ifndef CROSSMAMBA_SCAN_H
#define CROSSMAMBA_SCAN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CROSSMAMBA_ABI 2       /* changes whenever a struct or a meaning changes */
#define CROSSMAMBA_CHUNK 16    /* steps between two kept states */
#define CROSSMAMBA_PAD 16      /* channels of a group are padded to this in `saved` */

enum { CM_FLOAT32 = 0, CM_BFLOAT16 = 1, CM_FLOAT16 = 2 };
enum { CM_BASELINE = 0, CM_AVX2 = 1, CM_AVX512 = 2 };           /* instruction sets; baseline is SSE2 or NEON */
enum { CM_EVERY_STEP = 0, CM_ONE_STEP = 1, CM_PER_CHANNEL = 2 }; /* how B or C vary: (B,K,G,M,N), (B,K,G,1,N), (K,D,N) */
enum { CM_OK = 0, CM_NO_MEMORY = 1, CM_BAD_ISA = 2 };

/* An array and its strides in elements; `c` is the stride of the last axis (channels, or states in B and C). */
typedef struct {
    void *data; /* NULL: absent */
    int64_t dtype;
    int64_t b, k, g, m, c;
} cm_array;

typedef struct {
    int64_t batch, routes, groups, steps, channels, states;
    int64_t softplus, reverse;
    int64_t delta_once; /* delta has one step, good for all */
    int64_t B_kind, C_kind;
    cm_array u;     /* (B, M, D) */
    cm_array delta; /* (B, K, M or 1, D) */
    cm_array B, C;  /* per kind; contiguous float32 (K, D, N) if per channel */
    cm_array z;     /* (B, M, D) or absent; only with one route */
    cm_array out;   /* (B, M, D); float32 if there are several routes */
    const float *A;             /* (K, D, N) */
    const float *skip;          /* D: (K, D) or NULL */
    const float *bias;          /* delta_bias: (K, D) or NULL */
    const float *initial_state; /* (B, K, D, N) or NULL */
    const int64_t *lengths;     /* (B,) or NULL */
    const int32_t *order;       /* (K, M) or NULL */
    float *last_state;          /* (B, K, D, N) or NULL */
    float *saved;               /* states at the chunks' starts, crossmamba_saved_elements floats, or NULL */
    /* backward only */
    cm_array d_out;             /* (B, M, D) */
    cm_array d_u;               /* (B, M, D); float32 if there are several routes */
    cm_array d_delta;           /* as delta */
    cm_array d_z;               /* as z */
    const float *d_last_state;  /* (B, K, D, N) or NULL */
    float *d_A, *d_skip, *d_bias; /* (K, D, N), (K, D), (K, D) */
    float *d_B, *d_C;           /* (S, B, K, G, M or 1, N), S = crossmamba_splits, to be summed over S; or (K, D, N) if per channel */
    float *d_initial_state;     /* (B, K, D, N) or NULL */
} cm_scan;

typedef struct {
    int64_t batch, groups, channels, states, softplus;
    float *state;          /* (B, D, N), changed in place */
    cm_array x, dt, z;     /* (B, D): strides b and c */
    cm_array B, C;         /* (B, G, N): strides b, g and c */
    cm_array out;          /* (B, D) */
    const float *A;        /* (D, N) */
    const float *skip;     /* (D,) or NULL */
    const float *bias;     /* (D,) or NULL */
} cm_step;

#pragma GCC visibility push(default)
int64_t crossmamba_abi(void);
int64_t crossmamba_isas(void);                 /* bit i set: instruction set i is built in and this processor has it */
int64_t crossmamba_saved_elements(const cm_scan *scan);
int64_t crossmamba_splits(const cm_scan *scan, int64_t threads);  /* S of d_B and d_C */
int crossmamba_forward(const cm_scan *scan, int64_t threads, int64_t isa);
int crossmamba_backward(const cm_scan *scan, int64_t threads, int64_t isa);
int crossmamba_step(const cm_step *step, int64_t threads, int64_t isa);
/* Speed limits of this machine: 0 exps/s, 1 float FMA flops/s, 2 bytes read/s, 3 state updates/s of the core loop in L1. */
double crossmamba_probe(int64_t what, int64_t threads, int64_t isa, int64_t repeats);
/* For tests: fill scratch memory with NaN whenever it is taken. */
void crossmamba_poison(int64_t on);
#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif
