/* Vectors of one element type and one instruction set: the only file that names an intrinsic.
 *
 * The build defines VOX_ISA_avx512, VOX_ISA_avx2 or VOX_ISA_base, and VOX_DOUBLE as 0 or 1; nothing is guessed from
 * compiler macros but the architecture of the base set.  Arithmetic other than fma is written with vector extensions,
 * contraction is off, so the bits do not depend on the compiler. */
#ifndef VOX_SIMD_H
#define VOX_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline, unused))
#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)

/* Full unrolling keeps arrays of accumulators in registers; each compiler obeys only its own pragma. */
#define PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#define UNROLL PRAGMA(clang loop unroll(full))
#else
#define UNROLL PRAGMA(GCC unroll 32)
#endif

#if defined(VOX_ISA_avx512)
#define VECTOR_BYTES 64
#elif defined(VOX_ISA_avx2)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#if VOX_DOUBLE
typedef double real;
typedef int64_t lane_int;
#define LANES (VECTOR_BYTES / 8)
#else
typedef float real;
typedef int32_t lane_int;
#define LANES (VECTOR_BYTES / 4)
#endif

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef lane_int ivec __attribute__((vector_size(VECTOR_BYTES)));
typedef real vec_unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

INLINE vec v_load(const real *p) { return *(const vec_unaligned *)p; }
INLINE void v_store(real *p, vec a) { *(vec_unaligned *)p = a; }
INLINE vec v_set1(real a) { return a - (vec){0}; }
INLINE vec v_zero(void) { return (vec){0}; }

/* a * b + c: fused where the instruction set can, two roundings on SSE2. */
INLINE vec v_fma(vec a, vec b, vec c) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (vec)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(VOX_ISA_avx512)
  return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(VOX_ISA_avx2) && VOX_DOUBLE
  return (vec)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(VOX_ISA_avx2)
  return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__) && VOX_DOUBLE
  return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#elif defined(__aarch64__)
  return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

/* The same on one element, with the same rounding as a lane of v_fma. */
INLINE real s_fma(real a, real b, real c) { return v_fma(v_set1(a), v_set1(b), v_set1(c))[0]; }

/* The first n lanes, 0 <= n <= LANES, the others zero; p[n] and beyond is not read. */
INLINE vec v_load_n(const real *p, int64_t n) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (vec)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
#elif defined(VOX_ISA_avx512)
  return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
  vec a = v_zero();
  if (n >= LANES) return v_load(p);
  memcpy(&a, p, (size_t)n * sizeof(real));
  return a;
#endif
}

/* The first n lanes; p[n] and beyond is not written. */
INLINE void v_store_n(real *p, vec a, int64_t n) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)a);
#elif defined(VOX_ISA_avx512)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)a);
#else
  if (n >= LANES)
    v_store(p, a);
  else
    memcpy(p, &a, (size_t)n * sizeof(real));
#endif
}

/* mask ? a : b, lane by lane; a mask lane is all ones or all zeros, as comparisons give. */
INLINE vec v_select(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }
INLINE ivec v_select_int(ivec mask, ivec a, ivec b) { return (mask & a) | (~mask & b); }

/* Lanes 0, 2, 4, ... of the 2 * LANES - 1 elements whose first LANES are a and whose last LANES are b: what a stride
 * of 2 wants, from two loads that do not reach past the last element wanted. */
INLINE vec v_stride2(vec a, vec b) {
#if LANES == 16
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29, 31);
#elif LANES == 8
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 9, 11, 13, 15);
#elif LANES == 4
  return __builtin_shufflevector(a, b, 0, 2, 5, 7);
#else
  return __builtin_shufflevector(a, b, 0, 3);
#endif
}

/* n elements, 1 <= n <= LANES, that lie 2 apart from p on; nothing beyond the last of them is read. */
INLINE vec v_load_stride2(const real *p, int64_t n) {
  int64_t span = 2 * n - 1;
  vec a = v_load_n(p, span < LANES ? span : LANES);
  vec b = span < LANES ? v_zero() : v_load_n(p + LANES - 1, span - (LANES - 1));
  return v_stride2(a, b);
}

/* n elements, 1 <= n <= LANES, that lie 4 apart from p on; nothing beyond the last of them is read. */
INLINE vec v_load_stride4(const real *p, int64_t n) {
#if LANES == 2
  return (vec){p[0], n > 1 ? p[4] : 0};
#else
  int64_t span = 4 * n - 3; /* the fourth load ends at the last element wanted, so it starts 3 early */
  vec a = span >= LANES ? v_load(p) : v_load_n(p, span);
  vec b = span >= 2 * LANES ? v_load(p + LANES) : span > LANES ? v_load_n(p + LANES, span - LANES) : v_zero();
  vec c = span >= 3 * LANES ? v_load(p + 2 * LANES) : span > 2 * LANES ? v_load_n(p + 2 * LANES, span - 2 * LANES) : v_zero();
  vec d = span > 3 * LANES - 3 ? v_load_n(p + 3 * LANES - 3, span - (3 * LANES - 3)) : v_zero();
#if LANES == 16
  vec ab = __builtin_shufflevector(a, b, 0, 4, 8, 12, 16, 20, 24, 28, -1, -1, -1, -1, -1, -1, -1, -1);
  vec cd = __builtin_shufflevector(c, d, 0, 4, 8, 12, 19, 23, 27, 31, -1, -1, -1, -1, -1, -1, -1, -1);
  return __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
#elif LANES == 8
  vec ab = __builtin_shufflevector(a, b, 0, 4, 8, 12, -1, -1, -1, -1);
  vec cd = __builtin_shufflevector(c, d, 0, 4, 11, 15, -1, -1, -1, -1);
  return __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11);
#else
  vec ab = __builtin_shufflevector(a, b, 0, 4, -1, -1);
  vec cd = __builtin_shufflevector(c, d, 0, 7, -1, -1);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
#endif
#endif
}

/* a0 b0 a1 b1 ...: the first and the second half of the lanes. */
INLINE vec v_zip_low(vec a, vec b) {
#if LANES == 16
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif LANES == 8
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#elif LANES == 4
  return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#else
  return __builtin_shufflevector(a, b, 0, 2);
#endif
}
INLINE vec v_zip_high(vec a, vec b) {
#if LANES == 16
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif LANES == 8
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#elif LANES == 4
  return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#else
  return __builtin_shufflevector(a, b, 1, 3);
#endif
}

INLINE void prefetch(const void *p) { __builtin_prefetch(p, 0, 2); }

#endif
