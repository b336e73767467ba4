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
#define NOINLINE static __attribute__((noinline))
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

/* Integers without a sign; differences that wrap round, of integers of which nothing is known. */
#if VOX_DOUBLE
typedef uint64_t uvec __attribute__((vector_size(VECTOR_BYTES)));
#else
typedef uint32_t uvec __attribute__((vector_size(VECTOR_BYTES)));
#endif
INLINE ivec v_minus_int(ivec a, ivec b) { return (ivec)((uvec)a - (uvec)b); }

INLINE vec v_load(const real *p) { return *(const vec_unaligned *)p; }
INLINE void v_store(real *p, vec a) { *(vec_unaligned *)p = a; }
/* The same to a multiple of a vector's bytes, past the caches, for results that would not stay there; v_stream_end before
 * anybody is told of them. */
INLINE void v_stream(real *p, vec a) {
#if defined(VOX_ISA_avx512)
  _mm512_stream_si512((void *)p, (__m512i)a);
#elif defined(VOX_ISA_avx2)
  _mm256_stream_si256((void *)p, (__m256i)a);
#elif defined(__x86_64__)
  _mm_stream_si128((void *)p, (__m128i)a);
#else
  v_store(p, a);
#endif
}
INLINE void v_stream_end(void) {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}
INLINE int is_aligned(const void *p) { return ((uintptr_t)p & (VECTOR_BYTES - 1)) == 0; }
INLINE vec v_set1(real a) { return a - (vec){0}; }
INLINE vec v_zero(void) { return (vec){0}; }

/* The same values, of which the compiler knows nothing: so it keeps a broadcast in its register instead of loading it
 * again with each use, and steps a pointer instead of holding one for each row. */
INLINE vec v_opaque(vec a) {
#if defined(__aarch64__)
  __asm__("" : "+w"(a));
#elif defined(VOX_ISA_avx512)
  __asm__("" : "+v"(a));
#elif defined(__x86_64__)
  __asm__("" : "+x"(a));
#endif
  return a;
}
INLINE const real *p_opaque(const real *p) {
  __asm__("" : "+r"(p));
  return p;
}
INLINE int64_t i_opaque(int64_t a) {
  __asm__("" : "+r"(a));
  return a;
}

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

INLINE vec v_sqrt(vec a) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (vec)_mm512_sqrt_pd((__m512d)a);
#elif defined(VOX_ISA_avx512)
  return (vec)_mm512_sqrt_ps((__m512)a);
#elif defined(VOX_ISA_avx2) && VOX_DOUBLE
  return (vec)_mm256_sqrt_pd((__m256d)a);
#elif defined(VOX_ISA_avx2)
  return (vec)_mm256_sqrt_ps((__m256)a);
#elif defined(__x86_64__) && VOX_DOUBLE
  return (vec)_mm_sqrt_pd((__m128d)a);
#elif defined(__x86_64__)
  return (vec)_mm_sqrt_ps((__m128)a);
#elif defined(__aarch64__) && VOX_DOUBLE
  return (vec)vsqrtq_f64((float64x2_t)a);
#elif defined(__aarch64__)
  return (vec)vsqrtq_f32((float32x4_t)a);
#else
  for (int i = 0; i < LANES; i++) a[i] = (real)__builtin_sqrt(a[i]); /* of a float, the same as its own root */
  return a;
#endif
}

/* v_fma on one element, with the same rounding as a lane of v_fma. */
INLINE real s_fma(real a, real b, real c) {
#if defined(__x86_64__) && defined(VOX_ISA_base)
  return a * b + c;
#elif VOX_DOUBLE
  return __builtin_fma(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

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

/* Lanes [first, last) of p, the others `fill`; first and last may lie outside [0, LANES], and nothing else is read. */
INLINE vec v_load_range(const real *p, int64_t first, int64_t last, vec fill) {
  first = first < 0 ? 0 : first > LANES ? LANES : first;
  last = last < first ? first : last > LANES ? LANES : last;
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (vec)_mm512_mask_loadu_pd((__m512d)fill, (__mmask8)((1u << last) - (1u << first)), p);
#elif defined(VOX_ISA_avx512)
  return (vec)_mm512_mask_loadu_ps((__m512)fill, (__mmask16)((1u << last) - (1u << first)), p);
#else
  memcpy((char *)&fill + first * (int64_t)sizeof(real), p + first, (size_t)(last - first) * sizeof(real));
  return fill;
#endif
}

/* The lanes whose bits are set in `lanes`, packed one behind the other at p; nothing beyond them is written. */
enum { ALL_LANES = (1 << LANES) - 1 };
INLINE void v_store_lanes(real *p, vec a, uint32_t lanes) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  v_store_n(p, (vec)_mm512_maskz_compress_pd((__mmask8)lanes, (__m512d)a), __builtin_popcount(lanes));
#elif defined(VOX_ISA_avx512)
  v_store_n(p, (vec)_mm512_maskz_compress_ps((__mmask16)lanes, (__m512)a), __builtin_popcount(lanes));
#else
  for (; lanes; lanes &= lanes - 1) *p++ = a[__builtin_ctz(lanes)];
#endif
}

/* Which lanes: mask registers where there are some, all ones or all zeros elsewhere. */
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
typedef __mmask8 vmask;
#elif defined(VOX_ISA_avx512)
typedef __mmask16 vmask;
#else
typedef ivec vmask;
#endif

/* The sum of all lanes, halves first. */
INLINE real v_sum(vec a) {
#if VECTOR_BYTES == 64
  typedef real half_vec __attribute__((vector_size(32)));
  half_vec low, high;
  memcpy(&low, &a, 32);
  memcpy(&high, (const char *)&a + 32, 32);
  low += high;
#else
  vec low = a;
#endif
#if VECTOR_BYTES >= 32
  typedef real quarter_vec __attribute__((vector_size(16)));
  quarter_vec first, second;
  memcpy(&first, &low, 16);
  memcpy(&second, (const char *)&low + 16, 16);
  first += second;
#else
  vec first = low;
#endif
#if VOX_DOUBLE
  return first[0] + first[1];
#else
  return (first[0] + first[2]) + (first[1] + first[3]);
#endif
}

/* Lanes first <= i < last; either may lie outside the vector. */
INLINE vmask v_range(int64_t first, int64_t last) {
  first = first < 0 ? 0 : first > LANES ? LANES : first;
  last = last < first ? first : last > LANES ? LANES : last;
#if defined(VOX_ISA_avx512)
  return (vmask)((1u << last) - (1u << first));
#else
  ivec lane;
  for (int i = 0; i < LANES; i++) lane[i] = i;
  return (lane >= (lane_int)first) & (lane < (lane_int)last);
#endif
}

/* The mask's lanes, the others zero; what belongs to the others is not read. */
INLINE vec v_load_masked(const real *p, vmask mask) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (vec)_mm512_maskz_loadu_pd(mask, p);
#elif defined(VOX_ISA_avx512)
  return (vec)_mm512_maskz_loadu_ps(mask, p);
#elif defined(VOX_ISA_avx2) && VOX_DOUBLE
  return (vec)_mm256_maskload_pd(p, (__m256i)mask);
#elif defined(VOX_ISA_avx2)
  return (vec)_mm256_maskload_ps(p, (__m256i)mask);
#else
  vec a = v_zero();
  for (int i = 0; i < LANES; i++)
    if (mask[i]) a[i] = p[i];
  return a;
#endif
}

/* The mask's lanes, the others `fill`. */
INLINE vec v_load_masked_or(const real *p, vmask mask, vec fill) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (vec)_mm512_mask_loadu_pd((__m512d)fill, mask, p);
#elif defined(VOX_ISA_avx512)
  return (vec)_mm512_mask_loadu_ps((__m512)fill, mask, p);
#else
  return (vec)((mask & (ivec)v_load_masked(p, mask)) | (~mask & (ivec)fill));
#endif
}

/* The mask's lanes; what belongs to the others is not written. */
INLINE void v_store_masked(real *p, vec a, vmask mask) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  _mm512_mask_storeu_pd(p, mask, (__m512d)a);
#elif defined(VOX_ISA_avx512)
  _mm512_mask_storeu_ps(p, mask, (__m512)a);
#elif defined(VOX_ISA_avx2) && VOX_DOUBLE
  _mm256_maskstore_pd(p, (__m256i)mask, (__m256d)a);
#elif defined(VOX_ISA_avx2)
  _mm256_maskstore_ps(p, (__m256i)mask, (__m256)a);
#else
  for (int i = 0; i < LANES; i++)
    if (mask[i]) p[i] = a[i];
#endif
}

/* a > b, or a is not a number. */
INLINE vmask v_replaces(vec a, vec b) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ) | _mm512_cmp_pd_mask((__m512d)a, (__m512d)a, _CMP_UNORD_Q);
#elif defined(VOX_ISA_avx512)
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ) | _mm512_cmp_ps_mask((__m512)a, (__m512)a, _CMP_UNORD_Q);
#else
  return (a > b) | (a != a);
#endif
}

INLINE vmask v_greater(vec a, vec b) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ);
#elif defined(VOX_ISA_avx512)
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
#else
  return a > b;
#endif
}

/* a or b is not a number. */
INLINE vmask v_unordered(vec a, vec b) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_UNORD_Q);
#elif defined(VOX_ISA_avx512)
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_UNORD_Q);
#else
  return (a != a) | (b != b);
#endif
}

INLINE int v_any(vmask mask) {
#if defined(VOX_ISA_avx512)
  return mask != 0;
#elif defined(VOX_ISA_avx2)
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
  lane_int any = 0;
  for (int i = 0; i < LANES; i++) any |= mask[i];
  return any != 0;
#endif
}

/* a, with all bits set in the mask's lanes: masks that a loop collects stay out of general registers this way. */
INLINE ivec v_mark(ivec a, vmask mask) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (ivec)_mm512_mask_mov_epi64((__m512i)a, mask, _mm512_set1_epi64(-1));
#elif defined(VOX_ISA_avx512)
  return (ivec)_mm512_mask_mov_epi32((__m512i)a, mask, _mm512_set1_epi32(-1));
#else
  return a | mask;
#endif
}

INLINE int v_any_int(ivec a) {
#if defined(VOX_ISA_avx512)
  return _mm512_test_epi32_mask((__m512i)a, (__m512i)a) != 0;
#else
  return v_any(a != 0);
#endif
}

INLINE vmask v_equal_int(ivec a, ivec b) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return _mm512_cmpeq_epi64_mask((__m512i)a, (__m512i)b);
#elif defined(VOX_ISA_avx512)
  return _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b);
#else
  return a == b;
#endif
}

/* a >= b */
INLINE vmask v_not_below(uvec a, uvec b) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return _mm512_cmpge_epu64_mask((__m512i)a, (__m512i)b);
#elif defined(VOX_ISA_avx512)
  return _mm512_cmpge_epu32_mask((__m512i)a, (__m512i)b);
#else
  return (ivec)(a >= b);
#endif
}
INLINE uvec v_min_unsigned(uvec a, uvec b) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (uvec)_mm512_min_epu64((__m512i)a, (__m512i)b);
#elif defined(VOX_ISA_avx512)
  return (uvec)_mm512_min_epu32((__m512i)a, (__m512i)b);
#else
  const uvec less = (uvec)(a < b);
  return (less & a) | (~less & b);
#endif
}
INLINE uvec v_max_unsigned(uvec a, uvec b) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (uvec)_mm512_max_epu64((__m512i)a, (__m512i)b);
#elif defined(VOX_ISA_avx512)
  return (uvec)_mm512_max_epu32((__m512i)a, (__m512i)b);
#else
  const uvec more = (uvec)(a > b);
  return (more & a) | (~more & b);
#endif
}
/* a + b in the mask's lanes, a in the others. */
INLINE vec v_add_masked(vec a, vmask mask, vec b) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (vec)_mm512_mask_add_pd((__m512d)a, mask, (__m512d)a, (__m512d)b);
#elif defined(VOX_ISA_avx512)
  return (vec)_mm512_mask_add_ps((__m512)a, mask, (__m512)a, (__m512)b);
#else
  return (vec)((mask & (ivec)(a + b)) | (~mask & (ivec)a));
#endif
}

/* mask ? a : b */
INLINE ivec v_select_int(vmask mask, ivec a, ivec b) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (ivec)_mm512_mask_blend_epi64(mask, (__m512i)b, (__m512i)a);
#elif defined(VOX_ISA_avx512)
  return (ivec)_mm512_mask_blend_epi32(mask, (__m512i)b, (__m512i)a);
#else
  return (mask & a) | (~mask & b);
#endif
}
INLINE vec v_select(vmask mask, vec a, vec b) { return (vec)v_select_int(mask, (ivec)a, (ivec)b); }

INLINE ivec v_max_int(ivec a, ivec b) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (ivec)_mm512_max_epi64((__m512i)a, (__m512i)b);
#elif defined(VOX_ISA_avx512)
  return (ivec)_mm512_max_epi32((__m512i)a, (__m512i)b);
#else
  return v_select_int(a > b, a, b);
#endif
}

/* a > b ? a : b */
INLINE vec v_max(vec a, vec b) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (vec)_mm512_max_pd((__m512d)a, (__m512d)b);
#elif defined(VOX_ISA_avx512)
  return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(VOX_ISA_avx2) && VOX_DOUBLE
  return (vec)_mm256_max_pd((__m256d)a, (__m256d)b);
#elif defined(VOX_ISA_avx2)
  return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return v_select(a > b, a, b);
#endif
}

/* mask ? v_max(a, b) : other */
INLINE vec v_max_masked(vmask mask, vec a, vec b, vec other) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (vec)_mm512_mask_max_pd((__m512d)other, mask, (__m512d)a, (__m512d)b);
#elif defined(VOX_ISA_avx512)
  return (vec)_mm512_mask_max_ps((__m512)other, mask, (__m512)a, (__m512)b);
#else
  return v_select(mask, v_max(a, b), other);
#endif
}

/* y < 0 ? a : y; a NaN stays. */
INLINE vec v_if_negative(vec y, vec a) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (vec)_mm512_mask_mov_pd((__m512d)y, _mm512_cmp_pd_mask((__m512d)y, _mm512_setzero_pd(), _CMP_LT_OQ), (__m512d)a);
#elif defined(VOX_ISA_avx512)
  return (vec)_mm512_mask_mov_ps((__m512)y, _mm512_cmp_ps_mask((__m512)y, _mm512_setzero_ps(), _CMP_LT_OQ), (__m512)a);
#else
  return v_select(y < v_zero(), a, y);
#endif
}

/* to[i] = base + i * step + a[i] for the first n lanes, as 64-bit integers. */
INLINE void v_store_index(int64_t *to, int64_t base, int64_t step, ivec a, int64_t n) {
  enum { HALF = VECTOR_BYTES / 8 };
  typedef int64_t wide __attribute__((vector_size(VECTOR_BYTES)));
  wide ramp, part;
  for (int i = 0; i < HALF; i++) ramp[i] = i;
  ramp = ramp * step + base;
  UNROLL for (int half = 0; half < LANES / HALF; half++) {
#if VOX_DOUBLE
    part = a;
#elif defined(VOX_ISA_avx512)
    part = (wide)_mm512_cvtepi32_epi64(half ? _mm512_extracti64x4_epi64((__m512i)a, 1) : _mm512_castsi512_si256((__m512i)a));
#else
    typedef lane_int half_lanes __attribute__((vector_size(VECTOR_BYTES / 2)));
    half_lanes lanes;
    memcpy(&lanes, (const char *)&a + half * (VECTOR_BYTES / 2), sizeof lanes);
    part = __builtin_convertvector(lanes, wide);
#endif
    part += ramp + half * HALF * step;
    int64_t left = n - half * HALF;
    if (left >= HALF)
      memcpy(to + half * HALF, &part, sizeof part);
    else if (left > 0)
#if defined(VOX_ISA_avx512)
      _mm512_mask_storeu_epi64(to + half * HALF, (__mmask8)((1u << left) - 1), (__m512i)part);
#else
      memcpy(to + half * HALF, &part, (size_t)left * sizeof(int64_t));
#endif
  }
}

/* The first n lanes, small numbers that a byte holds each, from memory and there; the others are zero. */
typedef uint8_t byte_lanes __attribute__((vector_size(LANES)));
INLINE ivec v_load_bytes(const uint8_t *p, int64_t n) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (ivec)_mm512_cvtepu8_epi64(_mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1), p));
#elif defined(VOX_ISA_avx512)
  return (ivec)_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1), p));
#else
  byte_lanes bytes = {0};
  memcpy(&bytes, p, (size_t)(n < LANES ? n : LANES));
  return __builtin_convertvector(bytes, ivec);
#endif
}
INLINE void v_store_bytes(uint8_t *p, ivec a, int64_t n) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  _mm512_mask_cvtepi64_storeu_epi8(p, (__mmask8)((1u << n) - 1), (__m512i)a);
#elif defined(VOX_ISA_avx512)
  _mm512_mask_cvtepi32_storeu_epi8(p, (__mmask16)((1u << n) - 1), (__m512i)a);
#else
  byte_lanes bytes = __builtin_convertvector(a, byte_lanes);
  memcpy(p, &bytes, (size_t)(n < LANES ? n : LANES));
#endif
}

/* Lanes [first, LANES) of a, the others of b. */
INLINE vec v_from_lane(int64_t first, vec a, vec b) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (vec)_mm512_mask_mov_pd((__m512d)b, (__mmask8)((uint32_t)ALL_LANES << first), (__m512d)a);
#elif defined(VOX_ISA_avx512)
  return (vec)_mm512_mask_mov_ps((__m512)b, (__mmask16)((uint32_t)ALL_LANES << first), (__m512)a);
#else
  ivec lane;
  for (int i = 0; i < LANES; i++) lane[i] = i;
  ivec mask = lane >= (lane_int)first;
  return (vec)((mask & (ivec)a) | (~mask & (ivec)b));
#endif
}

/* y <= 0 ? 0 : a; where y is not a number, a. */
INLINE vec v_if_positive(vec y, vec a) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (vec)_mm512_maskz_mov_pd(_mm512_cmp_pd_mask((__m512d)y, _mm512_setzero_pd(), _CMP_NLE_UQ), (__m512d)a);
#elif defined(VOX_ISA_avx512)
  return (vec)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)y, _mm512_setzero_ps(), _CMP_NLE_UQ), (__m512)a);
#else
  return (vec)(~(y <= v_zero()) & (ivec)a);
#endif
}

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

/* a0 a2 ... b0 b2 ..., and a1 a3 ... b1 b3 ... */
INLINE vec v_even(vec a, vec b) {
#if LANES == 16
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
#elif LANES == 8
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
#elif LANES == 4
  return __builtin_shufflevector(a, b, 0, 2, 4, 6);
#else
  return __builtin_shufflevector(a, b, 0, 2);
#endif
}
INLINE vec v_odd(vec a, vec b) {
#if LANES == 16
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif LANES == 8
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#elif LANES == 4
  return __builtin_shufflevector(a, b, 1, 3, 5, 7);
#else
  return __builtin_shufflevector(a, b, 1, 3);
#endif
}

/* The same elements in an order that takes no crossing of 16-byte parts, and what brings that into the order above. */
INLINE vec v_even_mixed(vec a, vec b) {
#if VECTOR_BYTES == 16
  return v_even(a, b);
#elif LANES == 16
  return __builtin_shufflevector(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30);
#elif LANES == 8 && VOX_DOUBLE
  return __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
#elif LANES == 8
  return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14);
#else
  return __builtin_shufflevector(a, b, 0, 4, 2, 6);
#endif
}
INLINE vec v_odd_mixed(vec a, vec b) {
#if VECTOR_BYTES == 16
  return v_odd(a, b);
#elif LANES == 16
  return __builtin_shufflevector(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
#elif LANES == 8 && VOX_DOUBLE
  return __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
#elif LANES == 8
  return __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
#else
  return __builtin_shufflevector(a, b, 1, 5, 3, 7);
#endif
}
INLINE vec v_unmixed(vec a) {
  typedef int64_t wide __attribute__((vector_size(VECTOR_BYTES)));
  const wide pairs = (wide)a;
#if VECTOR_BYTES == 64
  return (vec)__builtin_shufflevector(pairs, pairs, 0, 2, 4, 6, 1, 3, 5, 7);
#elif VECTOR_BYTES == 32
  return (vec)__builtin_shufflevector(pairs, pairs, 0, 2, 1, 3);
#else
  return (vec)pairs;
#endif
}

/* The first n of p, cut to what lanes hold, and in `beyond` what is cut off; the other lanes are 0. */
INLINE ivec v_load_index(const int64_t *p, int64_t n, ivec *beyond) {
  typedef int64_t wide __attribute__((vector_size(VECTOR_BYTES)));
  enum { HALF = VECTOR_BYTES / 8, PARTS = LANES / HALF };
  wide part[PARTS];
  UNROLL for (int i = 0; i < PARTS; i++) {
#if defined(VOX_ISA_avx512)
    part[i] = (wide)_mm512_maskz_loadu_epi64((__mmask8)(((1u << n) - 1) >> i * HALF), p + i * HALF);
#else
    const int64_t left = n - i * HALF;
    part[i] = (wide){0};
    if (left >= HALF)
      memcpy(&part[i], p + i * HALF, sizeof part[i]);
    else if (left > 0)
      memcpy(&part[i], p + i * HALF, (size_t)left * sizeof *p);
#endif
  }
#if VOX_DOUBLE
  *beyond = (ivec){0};
  return part[0];
#else
  *beyond = (ivec)v_odd((vec)part[0], (vec)part[1]);
  return (ivec)v_even((vec)part[0], (vec)part[1]);
#endif
}

/* b0 b1 ... one lane on, after the last of a; and a1 a2 ... one lane back, before the first of b. */
INLINE vec v_after(vec a, vec b) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (vec)_mm512_alignr_epi64((__m512i)b, (__m512i)a, LANES - 1);
#elif defined(VOX_ISA_avx512)
  return (vec)_mm512_alignr_epi32((__m512i)b, (__m512i)a, LANES - 1);
#elif LANES == 8
  return __builtin_shufflevector(a, b, 7, 8, 9, 10, 11, 12, 13, 14);
#elif LANES == 4
  return __builtin_shufflevector(a, b, 3, 4, 5, 6);
#else
  return __builtin_shufflevector(a, b, 1, 2);
#endif
}
INLINE vec v_before(vec a, vec b) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (vec)_mm512_alignr_epi64((__m512i)b, (__m512i)a, 1);
#elif defined(VOX_ISA_avx512)
  return (vec)_mm512_alignr_epi32((__m512i)b, (__m512i)a, 1);
#elif LANES == 8
  return __builtin_shufflevector(a, b, 1, 2, 3, 4, 5, 6, 7, 8);
#elif LANES == 4
  return __builtin_shufflevector(a, b, 1, 2, 3, 4);
#else
  return __builtin_shufflevector(a, b, 1, 2);
#endif
}

/* Lanes `from`, below 2 * LANES, of a and then b. */
INLINE vec v_pick(vec a, vec b, ivec from) {
#if defined(VOX_ISA_avx512) && VOX_DOUBLE
  return (vec)_mm512_permutex2var_pd((__m512d)a, (__m512i)from, (__m512d)b);
#elif defined(VOX_ISA_avx512)
  return (vec)_mm512_permutex2var_ps((__m512)a, (__m512i)from, (__m512)b);
#else
  vec c;
  for (int i = 0; i < LANES; i++) c[i] = from[i] < LANES ? a[from[i]] : b[from[i] - LANES];
  return c;
#endif
}

/* In every four lanes, where there are so many, one lane on or one back; 0 where nothing comes from within the four. */
INLINE vec v_on_of_four(vec a) {
#if LANES == 16
  return __builtin_shufflevector(a, v_zero(), 16, 0, 1, 2, 16, 4, 5, 6, 16, 8, 9, 10, 16, 12, 13, 14);
#elif LANES == 8
  return __builtin_shufflevector(a, v_zero(), 8, 0, 1, 2, 8, 4, 5, 6);
#elif LANES == 4
  return __builtin_shufflevector(a, v_zero(), 4, 0, 1, 2);
#else
  return a;
#endif
}
INLINE vec v_back_of_four(vec a) {
#if LANES == 16
  return __builtin_shufflevector(a, v_zero(), 1, 2, 3, 16, 5, 6, 7, 16, 9, 10, 11, 16, 13, 14, 15, 16);
#elif LANES == 8
  return __builtin_shufflevector(a, v_zero(), 1, 2, 3, 8, 5, 6, 7, 8);
#elif LANES == 4
  return __builtin_shufflevector(a, v_zero(), 1, 2, 3, 4);
#else
  return a;
#endif
}

/* Elements first, first + 3, ... of a, b and c in a row, first < 3. */
INLINE vec v_third(vec a, vec b, vec c, const int first) {
#if LANES == 16
  if (first == 0)
    return __builtin_shufflevector(__builtin_shufflevector(a, b, 0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, -1, -1, -1, -1, -1),
                                   c, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 20, 23, 26, 29);
  if (first == 1)
    return __builtin_shufflevector(__builtin_shufflevector(a, b, 1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, -1, -1, -1, -1, -1),
                                   c, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 18, 21, 24, 27, 30);
  return __builtin_shufflevector(__builtin_shufflevector(a, b, 2, 5, 8, 11, 14, 17, 20, 23, 26, 29, -1, -1, -1, -1, -1, -1),
                                 c, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 19, 22, 25, 28, 31);
#else
  vec v;
  const vec from[3] = {a, b, c};
  UNROLL for (int i = 0; i < LANES; i++) v[i] = from[(first + 3 * i) / LANES][(first + 3 * i) % LANES];
  return v;
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

/* The first half of a's lanes, then that of b's; and the second half of a's lanes, then the first. */
INLINE vec v_halves(vec a, vec b) {
#if LANES == 16
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
#elif LANES == 8
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
#elif LANES == 4
  return __builtin_shufflevector(a, b, 0, 1, 4, 5);
#else
  return __builtin_shufflevector(a, b, 0, 2);
#endif
}
/* Pairs of neighbouring lanes: every second one from the first on, then the others. */
INLINE vec v_pairs(vec a) {
#if LANES == 16
  return __builtin_shufflevector(a, a, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
#elif LANES == 8
  return __builtin_shufflevector(a, a, 0, 1, 4, 5, 2, 3, 6, 7);
#else
  return a;
#endif
}
INLINE vec v_upper(vec a) {
#if LANES == 16
  return __builtin_shufflevector(a, a, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
#elif LANES == 8
  return __builtin_shufflevector(a, a, 4, 5, 6, 7, 0, 1, 2, 3);
#elif LANES == 4
  return __builtin_shufflevector(a, a, 2, 3, 0, 1);
#else
  return __builtin_shufflevector(a, a, 1, 0);
#endif
}

/* Rows a[0], a[1], ... of a square become its columns. */
INLINE void v_transpose(vec *a) {
  vec b[LANES];
  UNROLL for (int size = 1; size < LANES; size *= 2) {
    UNROLL for (int i = 0; i < LANES / 2; i++) {
      b[2 * i] = v_zip_low(a[i], a[i + LANES / 2]);
      b[2 * i + 1] = v_zip_high(a[i], a[i + LANES / 2]);
    }
    UNROLL for (int i = 0; i < LANES; i++) a[i] = b[i];
  }
}

INLINE void prefetch(const void *p) { __builtin_prefetch(p, 0, 2); }
INLINE void prefetch_near(const void *p) { __builtin_prefetch(p, 0, 3); }
INLINE void prefetch_write(const void *p) { __builtin_prefetch(p, 1, 3); }
/* Of a stream that is read once: what the processor's own prefetching fetches too late from beyond L2. */
INLINE void prefetch_ahead(const void *p) { __builtin_prefetch((const char *)p + 4096, 0, 3); }
/* The same of packed weights, of which a step takes no more than a line. */
INLINE void prefetch_weights(const void *p) { __builtin_prefetch((const char *)p + 8192, 0, 3); }
INLINE void prefetch_write_ahead(const void *p) { __builtin_prefetch((const char *)p + 4096, 1, 3); }

#endif
