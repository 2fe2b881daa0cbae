/* The affine: log-mels to a network's first values. With vectors, hark_prepare puts scales and shifts into arrays. */

static float affine_scale(const hark_model *model, const hark_layer *layer, size_t band) {
  const hark_matrix *m = &layer->first;
  size_t i = m->rows == 1 ? 0 : band;
  if (!model->is_integer) return f32_at(m->multipliers, i);
  return (float)u16_at(m->multipliers, i) * (1.0f / (float)(1u << layer->option));
}

static float affine_shift(const hark_model *model, const hark_layer *layer, size_t band) {
  const hark_matrix *m = &layer->first;
  size_t i = m->rows == 1 ? 0 : band;
  return model->is_integer ? (float)i16_at(m->bias, i) : f32_at(m->bias, i);
}

#if HARK_LANES > 1

static void prepare_affine(const hark_model *model, hark_layer *layer, pieces *memory) {
  float *scale = zeros(memory, layer->bins), *shift = zeros(memory, layer->bins);
  if (!scale) return;
  for (size_t band = 0; band < layer->bins; band++) {
    scale[band] = affine_scale(model, layer, band);
    shift[band] = affine_shift(model, layer, band);
  }
  layer->first.multipliers = scale;
  layer->first.bias = shift;
}

#endif

INLINE f32_lanes scaled_and_shifted(const hark_model *model, const hark_layer *layer, const float *x, size_t band) {
#if HARK_LANES > 1
  (void)model;
  const float *scale = layer->first.multipliers, *shift = layer->first.bias;
  return load_f32(x + band) * load_f32(scale + band) + load_f32(shift + band);
#else
  return x[band] * affine_scale(model, layer, band) + affine_shift(model, layer, band);
#endif
}

static void affine_f32(const hark_model *model, const hark_layer *layer, const float *x, float *y) {
  for (size_t band = 0; band < layer->bins; band += HARK_LANES)
    store_f32(y + band, scaled_and_shifted(model, layer, x, band));
}

static void affine_i16(const hark_model *model, const hark_layer *layer, const float *x, int16_t *y) {
  for (size_t band = 0; band < layer->bins; band += HARK_LANES) {
    f32_lanes v = scaled_and_shifted(model, layer, x, band);
    store_i16(y + band, to_i32(nearest(smaller(larger(v, -32767.0f), 32767.0f))));
  }
}
