/* Vectors of HARK_LANES numbers, one for each of as many independent frames, rows or bins.
 *
 * Lanes never meet in a float32 sum, so that their number changes no bit of a result. With one lane all this is plain
 * C99; with more, the vectors of GCC (9 or later) and clang: 4 lanes for any target with vectors, 8 for AVX2, 16 for
 * AVX-512. */
#ifndef HARK_LANES
#if defined(__AVX2__)
#define HARK_LANES 8
#elif defined(__SSE2__) || defined(__wasm_simd128__) || (defined(__aarch64__) && defined(__ARM_NEON))
#define HARK_LANES 4
#else
#define HARK_LANES 1
#endif
#endif

#if HARK_LANES > 1
#define INLINE static inline __attribute__((always_inline))
typedef float f32_lanes __attribute__((vector_size(4 * HARK_LANES)));
typedef int32_t i32_lanes __attribute__((vector_size(4 * HARK_LANES)));
typedef int16_t i16_lanes __attribute__((vector_size(2 * HARK_LANES)));
typedef uint32_t u32_lanes __attribute__((vector_size(4 * HARK_LANES)));
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif
#else
#define INLINE static inline
typedef float f32_lanes;
typedef int32_t i32_lanes;
#endif

INLINE f32_lanes load_f32(const float *from) {
  f32_lanes x;
  memcpy(&x, from, sizeof x);
  return x;
}

INLINE void store_f32(float *to, f32_lanes x) { memcpy(to, &x, sizeof x); }

INLINE i32_lanes load_i32(const int32_t *from) {
  i32_lanes x;
  memcpy(&x, from, sizeof x);
  return x;
}

INLINE void store_i32(int32_t *to, i32_lanes x) { memcpy(to, &x, sizeof x); }

/* The same bits as another type. */
INLINE i32_lanes bits_of(f32_lanes x) {
  i32_lanes bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

INLINE f32_lanes of_bits(i32_lanes bits) {
  f32_lanes x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

INLINE f32_lanes to_f32(i32_lanes x) {
#if HARK_LANES > 1
  return __builtin_convertvector(x, f32_lanes);
#else
  return (float)x;
#endif
}

INLINE i32_lanes to_i32(f32_lanes x) {
#if HARK_LANES > 1
  return __builtin_convertvector(x, i32_lanes);
#else
  return (int32_t)x;
#endif
}

/* int16 as int32. GCC 12 needs to be told that x86 has instructions for this and its inverse. */
INLINE i32_lanes load_i16(const int16_t *from) {
#if HARK_LANES == 16 && defined(__AVX512F__)
  return (i32_lanes)_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)from));
#elif HARK_LANES == 8 && defined(__AVX2__)
  return (i32_lanes)_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(const void *)from));
#elif HARK_LANES > 1
  i16_lanes narrow;
  memcpy(&narrow, from, sizeof narrow);
  return __builtin_convertvector(narrow, i32_lanes);
#else
  return *from;
#endif
}

/* Numbers that fit 16 bits. */
INLINE void store_i16(int16_t *to, i32_lanes x) {
#if HARK_LANES == 16 && defined(__AVX512F__)
  _mm256_storeu_si256((__m256i *)(void *)to, _mm512_cvtepi32_epi16((__m512i)x));
#elif HARK_LANES == 8 && defined(__AVX2__)
  __m256i halves = _mm256_packs_epi32((__m256i)x, (__m256i)x);
  _mm_storeu_si128((__m128i *)(void *)to, _mm256_castsi256_si128(_mm256_permute4x64_epi64(halves, 8)));
#elif HARK_LANES > 1
  i16_lanes narrow = __builtin_convertvector(x, i16_lanes);
  memcpy(to, &narrow, sizeof narrow);
#else
  *to = (int16_t)x;
#endif
}

INLINE i32_lanes all_lanes(int32_t x) {
#if HARK_LANES > 1
  return x - (i32_lanes){0};
#else
  return x;
#endif
}

INLINE i32_lanes clamp(i32_lanes x) {
#if HARK_LANES > 1
  i32_lanes is_low = x < -32767, is_high = x > 32767;
  return (x & ~is_low & ~is_high) | (is_low & -32767) | (is_high & 32767);
#else
  return x < -32767 ? -32767 : x > 32767 ? 32767 : x;
#endif
}

/* x > y ? x : y, which is y where x is not a number; and x < y ? x : y. */
INLINE f32_lanes larger(f32_lanes x, float y) {
#if HARK_LANES > 1
  f32_lanes all = y - (f32_lanes){0};
  i32_lanes is_larger = x > all;
  return of_bits((is_larger & bits_of(x)) | (~is_larger & bits_of(all)));
#else
  return x > y ? x : y;
#endif
}

INLINE f32_lanes smaller(f32_lanes x, float y) {
#if HARK_LANES > 1
  f32_lanes all = y - (f32_lanes){0};
  i32_lanes is_smaller = x < all;
  return of_bits((is_smaller & bits_of(x)) | (~is_smaller & bits_of(all)));
#else
  return x < y ? x : y;
#endif
}

#if HARK_LANES > 1

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (i32_lanes){__VA_ARGS__})
#endif

/* Four numbers each from rows[0], rows[4], ... as one vector. */
INLINE f32_lanes load_fours(const float *const *rows, size_t at) {
#if HARK_LANES == 4
  return load_f32(rows[0] + at);
#elif HARK_LANES == 8
  __m256 low = _mm256_castps128_ps256(_mm_loadu_ps(rows[0] + at));
  return (f32_lanes)_mm256_insertf128_ps(low, _mm_loadu_ps(rows[4] + at), 1);
#else
  __m512 first = _mm512_castps128_ps512(_mm_loadu_ps(rows[0] + at));
  __m512 two = _mm512_insertf32x4(first, _mm_loadu_ps(rows[4] + at), 1);
  __m512 three = _mm512_insertf32x4(two, _mm_loadu_ps(rows[8] + at), 2);
  return (f32_lanes)_mm512_insertf32x4(three, _mm_loadu_ps(rows[12] + at), 3);
#endif
}

/* The same choice in every four lanes. */
#if HARK_LANES == 4
#define EACH_FOUR(a, b, c, d) a, b, c, d
#elif HARK_LANES == 8
#define EACH_FOUR(a, b, c, d) a, b, c, d, a + 4, b + 4, c + 4, d + 4
#else
#define EACH_FOUR(a, b, c, d) \
  a, b, c, d, a + 4, b + 4, c + 4, d + 4, a + 8, b + 8, c + 8, d + 8, a + 12, b + 12, c + 12, d + 12
#endif

/* Columns `at` to at + 3 of HARK_LANES rows: number i of each vector is of row i. */
INLINE void load_columns(const float *const rows[HARK_LANES], size_t at, f32_lanes columns[4]) {
  enum { B = HARK_LANES }; /* where the second of two vectors begins */
  f32_lanes a = load_fours(rows, at), b = load_fours(rows + 1, at);
  f32_lanes c = load_fours(rows + 2, at), d = load_fours(rows + 3, at);
  f32_lanes ab_low = SHUFFLE(a, b, EACH_FOUR(0, B, 1, B + 1));
  f32_lanes ab_high = SHUFFLE(a, b, EACH_FOUR(2, B + 2, 3, B + 3));
  f32_lanes cd_low = SHUFFLE(c, d, EACH_FOUR(0, B, 1, B + 1));
  f32_lanes cd_high = SHUFFLE(c, d, EACH_FOUR(2, B + 2, 3, B + 3));
  columns[0] = SHUFFLE(ab_low, cd_low, EACH_FOUR(0, 1, B, B + 1));
  columns[1] = SHUFFLE(ab_low, cd_low, EACH_FOUR(2, 3, B + 2, B + 3));
  columns[2] = SHUFFLE(ab_high, cd_high, EACH_FOUR(0, 1, B, B + 1));
  columns[3] = SHUFFLE(ab_high, cd_high, EACH_FOUR(2, 3, B + 2, B + 3));
}

#else

INLINE void load_columns(const float *const rows[1], size_t at, f32_lanes columns[4]) {
  memcpy(columns, rows[0] + at, 4 * sizeof *columns);
}

#endif
