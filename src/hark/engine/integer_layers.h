/* The layers in integers. */

static void clamp_all(const int32_t *x, int16_t *y, size_t count) {
  for (size_t i = 0; i < count; i += HARK_LANES) store_i16(y + i, clamp(load_i32(x + i)));
}

/* The next states (units) from what the gates get from input and state (3 units each). */
static void gru_cell_i16(size_t units, const int32_t *from_x, const int32_t *from_h, const int16_t *state,
                         int16_t *y) {
  for (size_t i = 0; i < units; i += HARK_LANES) {
    i32_lanes reset = 32768 + tanh_q12(clamp(load_i32(from_x + i) + load_i32(from_h + i)));
    i32_lanes update = tanh_q12(clamp(load_i32(from_x + units + i) + load_i32(from_h + units + i)));
    i32_lanes recurrent = (reset * clamp(load_i32(from_h + 2 * units + i)) + 32768) >> 16;
    i32_lanes candidate = tanh_q12(clamp(load_i32(from_x + 2 * units + i) + recurrent));
    store_i16(y + i, ((32768 - update) * candidate + (32768 + update) * load_i16(state + i) + 32768) >> 16);
  }
}

static void gru_i16(const hark_layer *layer, size_t streams, i16_rows x, i16_rows state, i32_rows sums[2],
                    i16_rows y) {
  product_i16(&layer->first, streams, x, sums[0]);
  product_i16(&layer->second, streams, state, sums[1]);
  for (size_t s = 0; s < streams; s++) {
    int16_t *h = state.values + s * state.pitch, *next = y.values + s * y.pitch;
    gru_cell_i16(layer->out_bins, sums[0].values + s * sums[0].pitch, sums[1].values + s * sums[1].pitch, h, next);
    memcpy(h, next, layer->out_bins * sizeof *h);
  }
}

static void activate_i16(const hark_layer *layer, const int16_t *x, int16_t *y) {
  size_t count = (size_t)layer->channels * layer->bins;
  for (size_t i = 0; i < count; i += HARK_LANES) {
    i32_lanes values = load_i16(x + i);
    if (layer->option == RELU) values &= ~(values >> 31);
    else values = tanh_q12(clamp(values)); /* clamped for what lies behind the frame */
    store_i16(y + i, layer->option == SIGMOID ? (32768 + values) >> 1 : values);
  }
}

/* y (channels, out_bins) of a window (kernel_frames, channels, bins) */
static void pool_i16(const hark_layer *layer, const int16_t *rows, int16_t *y) {
  uint32_t count = (uint32_t)layer->kernel_bins * layer->kernel_frames;
  for (size_t channel = 0; channel < layer->channels; channel++)
    for (size_t bin = 0; bin < layer->out_bins; bin++) {
      uint32_t sum = 32768 * count + count / 2; /* kept above 0, so that division rounds down */
      for (size_t frame = 0; frame < layer->kernel_frames; frame++)
        for (size_t k = 0; k < layer->kernel_bins; k++)
          sum += (uint32_t)rows[(frame * layer->channels + channel) * layer->bins + bin * layer->stride_bins + k];
      *y++ = (int16_t)((int32_t)(sum / count) - 32768);
    }
}

static void attention_i16(const hark_layer *layer, size_t streams, i16_rows x, uint8_t *states, size_t state_pitch,
                          i32_rows sums[2], i16_rows y) {
  i16_rows projected = {(int16_t *)sums[1].values, 2 * sums[1].pitch};
  product_i16(&layer->first, streams, x, sums[0]);
  for (size_t s = 0; s < streams; s++) {
    const int32_t *from = sums[0].values + s * sums[0].pitch;
    int16_t *to = projected.values + s * projected.pitch;
    for (size_t i = 0; i < layer->first.rows; i += HARK_LANES) store_i16(to + i, tanh_q12(clamp(load_i32(from + i))));
  }
  product_i16(&layer->second, streams, projected, sums[0]);
  for (size_t s = 0; s < streams; s++)
    attend_i16(layer, states + s * state_pitch, x.values + s * x.pitch, sums[0].values[s * sums[0].pitch],
               sums[1].values, y.values + s * y.pitch);
}

/* A window's frames of each stream become one; returns 0 if the next window is not complete yet. */
static int window_i16(const hark_model *model, const hark_layer *layer, size_t streams, i16_rows x, uint8_t *states,
                      void *scratch, i16_rows y) {
  int is_complete = 0;
  for (size_t s = 0; s < streams; s++) {
    uint8_t *state = states + s * model->state_bytes;
    const int16_t *window = push_frame(model, layer, state, x.values + s * x.pitch);
    is_complete = window != NULL;
    if (!is_complete) continue;
    if (layer->kind == CONVOLUTION) convolve_i16(layer, window, scratch, y.values + s * y.pitch);
    else pool_i16(layer, window, y.values + s * y.pitch);
    window_done(model, layer, state);
  }
  return is_complete;
}

static void linear_i16(const hark_matrix *m, size_t streams, i16_rows x, i32_rows sums, i16_rows y) {
  product_i16(m, streams, x, sums);
  for (size_t s = 0; s < streams; s++) clamp_all(sums.values + s * sums.pitch, y.values + s * y.pitch, m->rows);
}

/* The last layer, which does not clamp. */
static void logits_i16(const hark_model *model, const hark_matrix *m, size_t streams, i16_rows x, i32_rows sums,
                       f32_rows logits) {
  const float unit = 1.0f / (float)(1u << model->logit_bits);
  product_i16(m, streams, x, sums);
  for (size_t s = 0; s < streams; s++)
    for (size_t row = 0; row < m->rows; row++)
      logits.values[s * logits.pitch + row] = (float)sums.values[s * sums.pitch + row] * unit;
}

/* One log-mel frame of each stream through the network; returns whether it has completed a step.
 *
 * features  the frames (streams, n_mels); logits (streams, classes) */
static int network_i16(const hark_model *model, const network_scratch *n, size_t streams, uint8_t *states,
                       f32_rows features, f32_rows logits) {
  i32_rows sums[2] = {{n->sums[0], model->sum_width}, {n->sums[1], model->sum_width}};
  i16_rows x = {n->frames[0], model->width};
  for (size_t s = 0; s < streams; s++)
    affine_i16(model, &model->layers[0], features.values + s * features.pitch, x.values + s * x.pitch);
  for (int i = 1; i + 1 < model->layer_count; i++) {
    const hark_layer *layer = &model->layers[i];
    uint8_t *own = states + layer->state;
    i16_rows y = {n->frames[i % 2], model->width};
    i16_rows state = {(int16_t *)(void *)own, model->state_bytes / sizeof(int16_t)};
    switch (layer->kind) {
      case GRU: gru_i16(layer, streams, x, state, sums, y); break;
      case ATTENTION: attention_i16(layer, streams, x, own, model->state_bytes, sums, y); break;
      case LINEAR: linear_i16(&layer->first, streams, x, sums[0], y); break;
      case ACTIVATION:
        for (size_t s = 0; s < streams; s++) activate_i16(layer, x.values + s * x.pitch, y.values + s * y.pitch);
        break;
      default:
        if (!window_i16(model, layer, streams, x, own, n->window, y)) return 0;
    }
    x = y;
  }
  logits_i16(model, &model->layers[model->layer_count - 1].first, streams, x, sums[0], logits);
  return 1;
}
