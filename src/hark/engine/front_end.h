/* The front end: sound to log-mel frames, HARK_LANES frames at once. front_end.py says the same in NumPy. */

/* Samples as a stream keeps them. An int16 is worth x / 32768, which no float32 rounds. */
#ifdef HARK_INT16_ONLY
#if HARK_LANES > 1
#error "HARK_INT16_ONLY is for builds without vectors: HARK_LANES=1"
#endif
typedef int16_t kept_sample;

INLINE void load_samples(const kept_sample *const frames[1], size_t at, f32_lanes samples[4]) {
  for (size_t k = 0; k < 4; k++) samples[k] = (float)frames[0][at + k] * (1.0f / 32768.0f);
}
#else
typedef float kept_sample;

INLINE void load_samples(const kept_sample *const frames[HARK_LANES], size_t at, f32_lanes samples[4]) {
  load_columns(frames, at, samples);
}
#endif

/* Windows frames and puts each pair of samples, as one complex number, where the first pass wants it.
 *
 * frames  where each frame begins; loaded in fours, so that two numbers behind its end may be read */
static void load_frames(const hark_front_end *f, const kept_sample *const frames[HARK_LANES], f32_bin *bins) {
  for (size_t i = 0; i < f->n_fft; i += 4) {
    f32_lanes samples[4];
    load_samples(frames, i, samples);
    for (size_t k = 0; k < 4 && i + k < f->n_fft; k += 2) {
      f32_bin *bin = &bins[f->place[(i + k) / 2]];
      bin->re = samples[k] * f->half_window[i + k];
      bin->im = samples[k + 1] * f->half_window[i + k + 1];
    }
  }
}

/* From a complex FFT of half the size to the power of bins 1 to n_fft / 2 - 1, left in `re`: bins k and n_fft / 2 - k
 * hold what both need. */
static void power_spectrum(const hark_front_end *f, f32_bin *bins) {
  size_t size = f->n_fft / 2u;
  for (size_t k = 1; k <= size / 2; k++) {
    f32_bin low = bins[k], high = bins[size - k];
    f32_bin even = {low.re + high.re, low.im - high.im}, odd = {low.im + high.im, high.re - low.re};
    odd = rotate(odd, f->split + 2 * (k - 1));
    f32_bin sum = plus(even, odd), difference = minus(even, odd);
    bins[k].re = sum.re * sum.re + sum.im * sum.im;
    bins[size - k].re = difference.re * difference.re + difference.im * difference.im;
  }
}

/* ln x to 2e-7 of max(1, |ln x|), for positive, normal, finite x: ln 2 times the exponent, and of the rest a minimax
 * polynomial, in pairs (Estrin's scheme) so that few operations wait for another. */
INLINE f32_lanes logarithm(f32_lanes x) {
  i32_lanes exponent = (bits_of(x) - 0x3F3504F3) >> 23; /* of x / sqrt(1/2), so that 1 + f lies around 1 */
  f32_lanes f = of_bits(bits_of(x) - exponent * (1 << 23)) - 1.0f;
  f32_lanes f2 = f * f, f4 = f2 * f2;
  f32_lanes low = (0.99999994f + -0.50000364f * f) + f2 * (0.3333506f + -0.24969909f * f);
  f32_lanes high = (0.19900161f + -0.17250839f * f) + f2 * (0.1622263f + -0.10106931f * f);
  return f * (low + f4 * high) + to_f32(exponent) * 0.6931472f;
}

/* The log-mels of HARK_LANES frames, left in `im` of the first n_mels bins.
 *
 * Between two corners one band rises and the one below falls: both sums go on side by side. */
static void log_mels(const hark_front_end *f, f32_bin *bins) {
  f32_lanes rising = {0};
  for (size_t band = 0; band <= f->n_mels; band++) {
    f32_lanes falling = rising;
    rising = of_bits(all_lanes(0));
    for (size_t k = f->corners[band]; k < f->corners[band + 1]; k++) {
      falling += bins[k].re * f->bands[k][1];
      rising += bins[k].re * f->bands[k][0];
    }
    if (band > 0) bins[band - 1].im = falling;
  }
  /* Apart from the sums, whose lengths no processor foresees, the logarithms overlap. */
  for (size_t band = 0; band < f->n_mels; band++) bins[band].im = logarithm(larger(bins[band].im, 1e-9f));
}

/* The log-mels of frames that begin at `from`; each is written, in whole vectors, to where `to` says. */
static void log_mel_frames(const hark_front_end *f, const kept_sample *const from[HARK_LANES], f32_bin *bins,
                           float *const to[HARK_LANES]) {
  size_t size = f->n_fft / 2u, length = f->radices[0];
  const float *turns = f->turns;
  load_frames(f, from, bins);
  first_pass(f->radices[0], bins, size);
  for (int i = 1; i < f->passes; i++) {
    turned_pass(f->radices[i], bins, size, length, turns);
    turns += 2 * length * (f->radices[i] - 1u);
    length *= f->radices[i];
  }
  power_spectrum(f, bins);
  log_mels(f, bins);
#if HARK_LANES > 1
  for (size_t band = 0; band < f->n_mels; band += HARK_LANES) {
    const float *rows[HARK_LANES];
    for (size_t i = 0; i < HARK_LANES; i++) rows[i] = (const float *)&bins[band + i].im;
    for (size_t lane = 0; lane < HARK_LANES; lane += 4) {
      f32_lanes mels[4];
      load_columns(rows, lane, mels);
      for (size_t i = 0; i < 4; i++) store_f32(to[lane + i] + band, mels[i]);
    }
  }
#else
  for (size_t band = 0; band < f->n_mels; band++) to[0][band] = bins[band].im;
#endif
}
