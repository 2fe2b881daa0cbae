/* The functions of both arithmetics, each bit as docs/quantisation.md says. */

/* ---- float32 ---- */

/* The nearest integer, ties to even, of |x| < 2^22. */
INLINE f32_lanes nearest(f32_lanes x) { return (x + 12582912.0f) - 12582912.0f; }

INLINE f32_lanes exponential_f32(f32_lanes x) {
  x = smaller(larger(x, -87.0f), 88.0f);
  f32_lanes k = nearest(x * 1.44269504f);
  f32_lanes r = x - k * 0.693359375f;
  r = r - k * -2.12194440e-4f;
  f32_lanes q = r * r;
  f32_lanes y = r * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 0.5f;
  y = y * q;
  y = y + r;
  y = y + 1.0f;
  return y * of_bits((to_i32(k) + 127) * (1 << 23));
}

INLINE f32_lanes sigmoid_f32(f32_lanes x) { return 1.0f / (1.0f + exponential_f32(-x)); }

INLINE f32_lanes tanh_f32(f32_lanes x) { return 2.0f * sigmoid_f32(2.0f * x) - 1.0f; }

/* Functions of each of `count` numbers; whole vectors of both arrays are used. */

static void exponential_of(float *x, size_t count) {
  for (size_t i = 0; i < count; i += HARK_LANES) store_f32(x + i, exponential_f32(load_f32(x + i)));
}

static void sigmoid_of(float *x, size_t count) {
  for (size_t i = 0; i < count; i += HARK_LANES) store_f32(x + i, sigmoid_f32(load_f32(x + i)));
}

static void tanh_of(float *x, size_t count) {
  for (size_t i = 0; i < count; i += HARK_LANES) store_f32(x + i, tanh_f32(load_f32(x + i)));
}

/* ---- integers ---- */

/* An accumulator in the unit of the output: times multiplier * 2^(shift - 32), rounded half up. */
INLINE i32_lanes requantize(i32_lanes accumulator, i32_lanes multiplier, int shift) {
#if HARK_LANES > 1 /* the product of 48 bits in two parts */
  u32_lanes low = (u32_lanes)(accumulator & 0xFFFF) * (u32_lanes)multiplier;
  i32_lanes high = (accumulator >> 16) * multiplier + (i32_lanes)(low >> 16);
  return (high + (1 << (15 - shift))) >> (16 - shift);
#else
  return (int32_t)(((int64_t)accumulator * (multiplier * (1 << shift)) + ((int64_t)1 << 31)) >> 32);
#endif
}

/* Entry i of the tanh table and the one behind it, as low and high half. */
INLINE i32_lanes tanh_entries(i32_lanes i) {
#if HARK_LANES == 16 && defined(__AVX512F__)
  return (i32_lanes)_mm512_i32gather_epi32((__m512i)i, (const void *)tanh_table, 2);
#elif HARK_LANES == 8 && defined(__AVX2__)
  return (i32_lanes)_mm256_i32gather_epi32((const int *)(const void *)tanh_table, (__m256i)i, 2);
#elif HARK_LANES > 1
  int32_t places[HARK_LANES], entries[HARK_LANES];
  store_i32(places, i);
  for (int k = 0; k < HARK_LANES; k++) memcpy(entries + k, tanh_table + places[k], sizeof *entries);
  return load_i32(entries);
#else
  return tanh_table[i] | tanh_table[i + 1] * (1 << 16);
#endif
}

/* Q15 tanh of Q12: a table and straight lines. */
INLINE i32_lanes tanh_q12(i32_lanes a) {
  i32_lanes sign = a >> 31, size = (a ^ sign) - sign, f = size & 127;
  i32_lanes entries = tanh_entries(size >> 7);
  i32_lanes y = ((entries & 0xFFFF) * (128 - f) + (entries >> 16) * f + 64) >> 7;
  return (y ^ sign) - sign;
}

/* 0 to 32,767 for 2^-d, d in octaves of 12 fraction bits. */
static int32_t exp2_minus(uint32_t d) {
  uint32_t octaves = d >> 12, i = (d & 4095) >> 6, f = d & 63;
  if (octaves > 15) return 0;
  uint32_t line = (uint32_t)exp2_table[i] * (64 - f) + (uint32_t)exp2_table[i + 1] * f;
  return (int32_t)((line + (1u << (5 + octaves))) >> (6 + octaves));
}
