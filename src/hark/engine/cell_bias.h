/* The biases of a FastGRNN, of its gate and then of its candidate: they are added to sums that both share. With
 * vectors, hark_prepare puts them into an array (2, padded units). */

#if HARK_LANES > 1

static void prepare_cell_bias(const hark_model *model, hark_layer *layer, pieces *memory) {
  const size_t units = layer->out_bins, pitch = padded(units);
  void *bias = zeros(memory, 2 * pitch);
  if (!bias) return;
  for (size_t i = 0; i < 2 * units; i++) {
    size_t place = i < units ? i : pitch + i - units;
    if (model->is_integer) ((int32_t *)bias)[place] = i16_at(layer->bias, i);
    else ((float *)bias)[place] = f32_at(layer->bias, i);
  }
  layer->bias = bias;
}

INLINE f32_lanes cell_bias_f32(const hark_layer *layer, size_t i) { return load_f32((const float *)layer->bias + i); }

INLINE i32_lanes cell_bias_i32(const hark_layer *layer, size_t i) {
  return load_i32((const int32_t *)layer->bias + i);
}

#else

static float cell_bias_f32(const hark_layer *layer, size_t i) { return f32_at(layer->bias, i); }

static int32_t cell_bias_i32(const hark_layer *layer, size_t i) { return i16_at(layer->bias, i); }

#endif
