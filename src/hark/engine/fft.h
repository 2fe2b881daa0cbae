/* The FFT of HARK_LANES frames at once, by decimation in time: one pass for each radix. */

typedef struct {
  f32_lanes re, im;
} f32_bin;

/* e^(-i theta) times z, for cos theta and sin theta. */
INLINE f32_bin rotate(f32_bin z, const float turn[2]) {
  f32_bin y = {turn[0] * z.re + turn[1] * z.im, turn[0] * z.im - turn[1] * z.re};
  return y;
}

INLINE f32_bin plus(f32_bin a, f32_bin b) {
  f32_bin y = {a.re + b.re, a.im + b.im};
  return y;
}

INLINE f32_bin minus(f32_bin a, f32_bin b) {
  f32_bin y = {a.re - b.re, a.im - b.im};
  return y;
}

INLINE f32_bin times(float factor, f32_bin z) {
  f32_bin y = {factor * z.re, factor * z.im};
  return y;
}

/* -i times z. */
INLINE f32_bin turned(f32_bin z) {
  f32_bin y = {z.im, -z.re};
  return y;
}

INLINE void butterfly2(f32_bin z[2]) {
  f32_bin a = z[0], b = z[1];
  z[0] = plus(a, b);
  z[1] = minus(a, b);
}

INLINE void butterfly3(f32_bin z[3]) {
  f32_bin total = plus(z[1], z[2]);
  f32_bin difference = turned(times(0.86602540378443865f, minus(z[1], z[2])));
  f32_bin middle = minus(z[0], times(0.5f, total));
  z[0] = plus(z[0], total);
  z[1] = plus(middle, difference);
  z[2] = minus(middle, difference);
}

INLINE void butterfly4(f32_bin z[4]) {
  f32_bin even = plus(z[0], z[2]), even_difference = minus(z[0], z[2]);
  f32_bin odd = plus(z[1], z[3]), odd_difference = turned(minus(z[1], z[3]));
  z[0] = plus(even, odd);
  z[1] = plus(even_difference, odd_difference);
  z[2] = minus(even, odd);
  z[3] = minus(even_difference, odd_difference);
}

INLINE void butterfly5(f32_bin z[5]) {
  const float sin_5 = 0.95105651629515357f, sin_10 = 0.58778525229247313f, root_5_quarter = 0.55901699437494742f;
  f32_bin outer = plus(z[1], z[4]), outer_difference = minus(z[1], z[4]);
  f32_bin inner = plus(z[2], z[3]), inner_difference = minus(z[2], z[3]);
  f32_bin total = plus(outer, inner);
  f32_bin middle = minus(z[0], times(0.25f, total));
  f32_bin spread = times(root_5_quarter, minus(outer, inner));
  f32_bin near = plus(middle, spread), far = minus(middle, spread);
  f32_bin near_turn = turned(plus(times(sin_5, outer_difference), times(sin_10, inner_difference)));
  f32_bin far_turn = turned(minus(times(sin_10, outer_difference), times(sin_5, inner_difference)));
  z[0] = plus(z[0], total);
  z[1] = plus(near, near_turn);
  z[2] = plus(far, far_turn);
  z[3] = minus(far, far_turn);
  z[4] = minus(near, near_turn);
}

INLINE void butterfly8(f32_bin z[8]) {
  const float root_half = 0.70710678118654752f;
  f32_bin even[4] = {z[0], z[2], z[4], z[6]}, odd[4] = {z[1], z[3], z[5], z[7]};
  butterfly4(even);
  butterfly4(odd);
  f32_bin first = {odd[1].re + odd[1].im, odd[1].im - odd[1].re};
  f32_bin third = {odd[3].im - odd[3].re, -(odd[3].re + odd[3].im)};
  odd[1] = times(root_half, first);
  odd[2] = turned(odd[2]);
  odd[3] = times(root_half, third);
  for (int i = 0; i < 4; i++) {
    z[i] = plus(even[i], odd[i]);
    z[i + 4] = minus(even[i], odd[i]);
  }
}

INLINE void butterfly(const int radix, f32_bin *z) {
  switch (radix) {
    case 2: butterfly2(z); break;
    case 3: butterfly3(z); break;
    case 4: butterfly4(z); break;
    case 5: butterfly5(z); break;
    default: butterfly8(z); break;
  }
}

/* A pass: groups of `radix` bins `length` apart are turned, combined and put back. The first pass turns nothing.
 *
 * bins   (size)
 * turns  (length, radix - 1, {cos, sin}) */
INLINE void pass_of_radix(const int radix, const int is_first, f32_bin *bins, size_t size, size_t length,
                          const float *turns) {
  for (size_t offset = 0; offset < length; offset++) {
    for (f32_bin *group = bins + offset; group < bins + size; group += (size_t)radix * length) {
      f32_bin z[8];
      z[0] = group[0];
      for (int q = 1; q < radix; q++) {
        z[q] = group[(size_t)q * length];
        if (!is_first) z[q] = rotate(z[q], turns + 2 * (q - 1));
      }
      butterfly(radix, z);
      for (int q = 0; q < radix; q++) group[(size_t)q * length] = z[q];
    }
    if (!is_first) turns += 2 * (radix - 1);
  }
}

/* Constant radices, so that each butterfly stays in registers. */

static void first_pass(int radix, f32_bin *bins, size_t size) {
  switch (radix) {
    case 2: pass_of_radix(2, 1, bins, size, 1, NULL); break;
    case 3: pass_of_radix(3, 1, bins, size, 1, NULL); break;
    case 4: pass_of_radix(4, 1, bins, size, 1, NULL); break;
    case 5: pass_of_radix(5, 1, bins, size, 1, NULL); break;
    default: pass_of_radix(8, 1, bins, size, 1, NULL); break;
  }
}

static void turned_pass(int radix, f32_bin *bins, size_t size, size_t length, const float *turns) {
  switch (radix) {
    case 2: pass_of_radix(2, 0, bins, size, length, turns); break;
    case 3: pass_of_radix(3, 0, bins, size, length, turns); break;
    case 4: pass_of_radix(4, 0, bins, size, length, turns); break;
    default: pass_of_radix(5, 0, bins, size, length, turns); break;
  }
}
