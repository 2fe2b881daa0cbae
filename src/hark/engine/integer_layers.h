/* The layers in integers. */

static void clamp_all(const int32_t *x, int16_t *y, size_t count) {
  for (size_t i = 0; i < count; i += HARK_LANES) store_i16(y + i, clamp(load_i32(x + i)));
}

/* `open` where the gate, of which this is the tanh, is 1; `shut` where it is -1. */
INLINE i32_lanes mixed(i32_lanes gate, i32_lanes open, i32_lanes shut) {
  return ((32768 - gate) * shut + (32768 + gate) * open + 32768) >> 16;
}

/* The next states (units) of a GRU or minimal GRU from what the gates get from input and state (units each). The
 * first gate resets, and in a minimal GRU it updates too. */
static void gated_cell_i16(const hark_layer *layer, const int32_t *from_x, const int32_t *from_h,
                           const int16_t *state, int16_t *y) {
  const size_t units = layer->out_bins, last = layer->first.rows - units;
  for (size_t i = 0; i < units; i += HARK_LANES) {
    i32_lanes reset = tanh_q12(clamp(load_i32(from_x + i) + load_i32(from_h + i))), h = load_i16(state + i);
    i32_lanes recurrent = ((32768 + reset) * clamp(load_i32(from_h + last + i)) + 32768) >> 16;
    i32_lanes candidate = tanh_q12(clamp(load_i32(from_x + last + i) + recurrent));
    if (layer->kind == GRU) {
      i32_lanes update = tanh_q12(clamp(load_i32(from_x + units + i) + load_i32(from_h + units + i)));
      store_i16(y + i, mixed(update, h, candidate));
    } else {
      store_i16(y + i, mixed(reset, candidate, h));
    }
  }
}

/* The same of a FastGRNN, whose gate and candidate differ in their biases alone. */
static void fast_cell_i16(const hark_layer *layer, const int32_t *from_x, const int32_t *from_h, const int16_t *state,
                          int16_t *y) {
  const size_t units = layer->out_bins;
  for (size_t i = 0; i < units; i += HARK_LANES) {
    i32_lanes both = load_i32(from_x + i) + load_i32(from_h + i);
    i32_lanes update = tanh_q12(clamp((both + cell_bias_i32(layer, i) + 1) >> 1));
    i32_lanes candidate = tanh_q12(clamp(both + cell_bias_i32(layer, padded(units) + i)));
    store_i16(y + i, mixed(update, load_i16(state + i), candidate));
  }
}

static void cell_i16(const hark_layer *layer, size_t streams, i16_rows x, i16_rows state, i32_rows sums[2],
                     i16_rows y) {
  product_i16(&layer->first, streams, x, sums[0]);
  product_i16(&layer->second, streams, state, sums[1]);
  for (size_t s = 0; s < streams; s++) {
    int16_t *h = state.values + s * state.pitch, *next = y.values + s * y.pitch;
    const int32_t *from_x = sums[0].values + s * sums[0].pitch, *from_h = sums[1].values + s * sums[1].pitch;
    if (layer->kind == FAST_GRNN) fast_cell_i16(layer, from_x, from_h, h, next);
    else gated_cell_i16(layer, from_x, from_h, h, next);
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
  i16_rows projected = x;
  if (layer->kind == ATTENTION) {
    projected = (i16_rows){(int16_t *)sums[1].values, 2 * sums[1].pitch};
    product_i16(&layer->first, streams, x, sums[0]);
    for (size_t s = 0; s < streams; s++) {
      const int32_t *from = sums[0].values + s * sums[0].pitch;
      int16_t *to = projected.values + s * projected.pitch;
      for (size_t i = 0; i < layer->first.rows; i += HARK_LANES)
        store_i16(to + i, tanh_q12(clamp(load_i32(from + i))));
    }
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
    if (is_convolution(layer)) convolve_i16(layer, window, scratch, y.values + s * y.pitch);
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
      case GRU:
      case MINIMAL_GRU:
      case FAST_GRNN: cell_i16(layer, streams, x, state, sums, y); break;
      case ATTENTION:
      case QUERY_ATTENTION: attention_i16(layer, streams, x, own, model->state_bytes, sums, y); break;
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
