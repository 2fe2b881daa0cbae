/* The front end's constants from its settings, in float64 from the four operations alone, so that they are the same
 * everywhere; each is rounded once. front_end_settings.py says the same in Python. */

/* The radices of an FFT of n_fft / 2 complex numbers. Returns their number, 0 for a size it cannot do. */
static int find_radices(unsigned n_fft, uint8_t radices[8]) {
  static const uint8_t choice[] = {8, 5, 4, 3, 2};
  int passes = 0;
  unsigned rest = n_fft / 2;
  /* The first pass alone has no turns: the largest radix saves most there. */
  for (size_t i = 0; i < sizeof choice; i++) {
    while (rest % choice[i] == 0 && (choice[i] != 8 || passes == 0)) {
      if (passes == 8) return 0;
      radices[passes++] = choice[i];
      rest /= choice[i];
    }
  }
  return n_fft % 2 == 0 && rest == 1 ? passes : 0;
}

/* Takes the constants that are compiled in; returns 0 if there are none for these settings. */
static int find_rom(hark_front_end *f) {
#ifdef HARK_NO_ROM_FRONT_END
  (void)f;
  return 0;
#else
  if (f->sample_rate != ROM_SAMPLE_RATE || f->n_fft != ROM_N_FFT || f->n_mels != ROM_N_MELS) return 0;
  f->half_window = rom_half_window;
  f->place = rom_place;
  f->turns = rom_turns;
  f->split = rom_split;
  f->corners = rom_corners;
  f->bands = rom_bands;
  return 1;
#endif
}

#ifndef HARK_ROM_FRONT_END_ONLY

/* Floats that the constants take: window, turns, split and bands. */
static size_t count_constants(const hark_front_end *f) { return 3u * f->n_fft + f->n_fft / 2u; }

/* 16-bit numbers that they take. */
static size_t count_indices(const hark_front_end *f) { return f->n_fft / 2u + f->n_mels + 2u; }

/* cos and sin of 2 pi numerator / denominator: folded into the first eighth of a turn, then Taylor's series. */
static void turn(unsigned numerator, unsigned denominator, double *cosine, double *sine) {
  int below = 0, left = 0, steep = 0;
  numerator = 8 * (numerator % denominator);
  denominator *= 8;
  if (2 * numerator > denominator) numerator = denominator - numerator, below = 1;
  if (4 * numerator > denominator) numerator = denominator / 2 - numerator, left = 1;
  if (8 * numerator > denominator) numerator = denominator / 4 - numerator, steep = 1;

  double angle = 6.283185307179586 * numerator / denominator;
  double square = angle * angle, c = 1, s = 1;
  for (int n = 18; n > 0; n -= 2) {
    c = 1 - c * square / (n * (n - 1));
    s = 1 - s * square / (n * (n + 1));
  }
  s *= angle;
  *cosine = steep ? s : c;
  *sine = steep ? c : s;
  if (left) *cosine = -*cosine;
  if (below) *sine = -*sine;
}

static const double ln_2_high = 6.93147180369123816490e-01, ln_2_low = 1.90821492927058770002e-10;

/* ln x for x >= 1, by the series of 2 artanh. */
static double natural_logarithm(double x) {
  int exponent = 0;
  for (; x > 1.5; x /= 2) exponent++;
  double s = (x - 1) / (x + 1), square = s * s, total = 0;
  for (int n = 25; n > 0; n -= 2) total = total * square + 1.0 / n;
  return exponent * ln_2_high + (exponent * ln_2_low + 2 * s * total);
}

/* e^x for 0 <= x < 700, by Taylor's series of what whole octaves leave. */
static double exponential(double x) {
  int octaves = (int)(x / ln_2_high + 0.5);
  double rest = (x - octaves * ln_2_high) - octaves * ln_2_low, total = 1;
  for (int n = 14; n > 0; n--) total = 1 + total * rest / n;
  for (; octaves > 0; octaves--) total *= 2;
  return total;
}

/* Where each input stands before the first pass: the last pass joins inputs that are its radix apart; so did, within
 * each of its parts, the one before. */
static void fill_places(const hark_front_end *f, uint16_t *place) {
  for (unsigned n = 0; n < f->n_fft / 2u; n++) {
    unsigned rest = n, block = f->n_fft / 2u, at = 0;
    for (int i = f->passes - 1; i >= 0; i--) {
      block /= f->radices[i];
      at += rest % f->radices[i] * block;
      rest /= f->radices[i];
    }
    place[n] = (uint16_t)at;
  }
}

/* Window, turns and split. */
static void fill_turns(hark_front_end *f, float *to) {
  double cosine, sine;
  f->half_window = to;
  for (unsigned n = 0; n < f->n_fft; n++) {
    turn(n, f->n_fft, &cosine, &sine);
    *to++ = (float)(0.5 * (0.5 - 0.5 * cosine));
  }
  f->turns = to;
  unsigned length = f->radices[0];
  for (int i = 1; i < f->passes; i++) {
    unsigned radix = f->radices[i];
    for (unsigned j = 0; j < length; j++) {
      for (unsigned q = 1; q < radix; q++) {
        turn(j * q, length * radix, &cosine, &sine);
        *to++ = (float)cosine;
        *to++ = (float)sine;
      }
    }
    length *= radix;
  }
  f->split = to;
  for (unsigned k = 1; k <= f->n_fft / 4u; k++) {
    turn(k, f->n_fft, &cosine, &sine);
    *to++ = (float)cosine;
    *to++ = (float)sine;
  }
}

/* Triangles on the HTK mel scale, not normalised by area: equal steps in mel are equal ratios of 1 + f / 700. */
static void fill_bands(hark_front_end *f, float (*bands)[2], uint16_t *corners) {
  double top = f->sample_rate / 2.0, step = natural_logarithm(1 + top / 700) / (f->n_mels + 1);
  double low = 0;
  unsigned k = 0;
  corners[0] = 0;
  for (unsigned band = 0; band <= f->n_mels; band++) {
    double high = band == f->n_mels ? top : 700 * (exponential((band + 1) * step) - 1);
    for (; k < f->n_fft / 2u; k++) {
      double hertz = (double)(k * f->sample_rate) / f->n_fft;
      if (hertz >= high) break;
      bands[k][0] = band < f->n_mels ? (float)((hertz - low) / (high - low)) : 0;
      bands[k][1] = band > 0 ? (float)((high - hertz) / (high - low)) : 0;
    }
    corners[band + 1] = (uint16_t)k;
    low = high;
  }
  f->bands = (const float (*)[2])bands;
  f->corners = corners;
}

/* Computes the constants into memory: count_constants(f) floats and count_indices(f) 16-bit numbers. */
static void fill_constants(hark_front_end *f, float *floats, uint16_t *indices) {
  f->place = indices;
  fill_places(f, indices);
  fill_bands(f, (float (*)[2])floats, indices + f->n_fft / 2u);
  fill_turns(f, floats + f->n_fft);
}

#endif
