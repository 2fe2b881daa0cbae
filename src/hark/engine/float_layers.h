/* The layers in float32, every sum in its one order. */

/* The next states y (units) of a GRU or minimal GRU from what the gates get from input and state (units each).
 *
 * Gate after gate, so that few operations wait for another; the first, which resets, leaves its product with the
 * candidate's part in place of that part, and the one that updates waits in y: the first too in a minimal GRU. */
static void gated_cell_f32(const hark_layer *layer, const float *from_x, float *from_h, const float *state,
                           float *y) {
  const size_t units = layer->out_bins, last = layer->first.rows - units;
  for (size_t i = 0; i < units; i += HARK_LANES) {
    f32_lanes reset = sigmoid_f32(load_f32(from_x + i) + load_f32(from_h + i));
    store_f32(y + i, reset);
    store_f32(from_h + last + i, reset * load_f32(from_h + last + i));
  }
  for (size_t i = 0; i < units && layer->kind == GRU; i += HARK_LANES)
    store_f32(y + i, sigmoid_f32(load_f32(from_x + units + i) + load_f32(from_h + units + i)));
  for (size_t i = 0; i < units; i += HARK_LANES) {
    f32_lanes candidate = tanh_f32(load_f32(from_x + last + i) + load_f32(from_h + last + i));
    f32_lanes h = load_f32(state + i), update = load_f32(y + i);
    store_f32(y + i, layer->kind == GRU ? candidate + update * (h - candidate) : h + update * (candidate - h));
  }
}

/* The same of a FastGRNN, whose gate and candidate differ in their biases alone. */
static void fast_cell_f32(const hark_layer *layer, const float *from_x, const float *from_h, const float *state,
                          float *y) {
  const size_t units = layer->out_bins;
  for (size_t i = 0; i < units; i += HARK_LANES) {
    f32_lanes both = load_f32(from_x + i) + load_f32(from_h + i);
    f32_lanes update = sigmoid_f32(both + cell_bias_f32(layer, i));
    f32_lanes candidate = tanh_f32(both + cell_bias_f32(layer, padded(units) + i));
    store_f32(y + i, candidate + update * (load_f32(state + i) - candidate));
  }
}

static void cell_f32(const hark_layer *layer, size_t streams, f32_rows x, f32_rows state, f32_rows sums[2],
                     f32_rows y) {
  product_f32(&layer->first, streams, x, sums[0]);
  product_f32(&layer->second, streams, state, sums[1]);
  for (size_t s = 0; s < streams; s++) {
    float *h = state.values + s * state.pitch, *next = y.values + s * y.pitch;
    float *from_x = sums[0].values + s * sums[0].pitch, *from_h = sums[1].values + s * sums[1].pitch;
    if (layer->kind == FAST_GRNN) fast_cell_f32(layer, from_x, from_h, h, next);
    else gated_cell_f32(layer, from_x, from_h, h, next);
    memcpy(h, next, layer->out_bins * sizeof *h);
  }
}

static void activate_f32(const hark_layer *layer, const float *x, float *y) {
  size_t count = (size_t)layer->channels * layer->bins;
  for (size_t i = 0; i < count; i++) y[i] = x[i] > 0 || layer->option != RELU ? x[i] : 0;
  if (layer->option == SIGMOID) sigmoid_of(y, count);
  if (layer->option == TANH) tanh_of(y, count);
}

/* y (channels, out_bins) of a window (kernel_frames, channels, bins) */
static void pool_f32(const hark_layer *layer, const float *rows, float *y) {
  float count = (float)((uint32_t)layer->kernel_bins * layer->kernel_frames);
  for (size_t channel = 0; channel < layer->channels; channel++)
    for (size_t bin = 0; bin < layer->out_bins; bin++) {
      float sum = 0;
      for (size_t frame = 0; frame < layer->kernel_frames; frame++)
        for (size_t k = 0; k < layer->kernel_bins; k++)
          sum += rows[(frame * layer->channels + channel) * layer->bins + bin * layer->stride_bins + k];
      *y++ = sum / count;
    }
}

static void attention_f32(const hark_layer *layer, size_t streams, f32_rows x, uint8_t *states, size_t state_pitch,
                          f32_rows sums[2], f32_rows y) {
  f32_rows projected = x;
  if (layer->kind == ATTENTION) {
    projected = sums[0];
    product_f32(&layer->first, streams, x, projected);
    for (size_t s = 0; s < streams; s++) tanh_of(projected.values + s * projected.pitch, layer->first.rows);
  }
  product_f32(&layer->second, streams, projected, sums[1]);
  for (size_t s = 0; s < streams; s++)
    attend_f32(layer, states + s * state_pitch, x.values + s * x.pitch, sums[1].values[s * sums[1].pitch],
               sums[0].values, y.values + s * y.pitch);
}

/* A window's frames of each stream become one; returns 0 if the next window is not complete yet. */
static int window_f32(const hark_model *model, const hark_layer *layer, size_t streams, f32_rows x, uint8_t *states,
                      void *scratch, f32_rows y) {
  int is_complete = 0;
  for (size_t s = 0; s < streams; s++) {
    uint8_t *state = states + s * model->state_bytes;
    const float *window = push_frame(model, layer, state, x.values + s * x.pitch);
    is_complete = window != NULL;
    if (!is_complete) continue;
    if (is_convolution(layer)) convolve_f32(layer, window, scratch, y.values + s * y.pitch);
    else pool_f32(layer, window, y.values + s * y.pitch);
    window_done(model, layer, state);
  }
  return is_complete;
}

/* One log-mel frame of each stream through the network; returns whether it has completed a step.
 *
 * x  the frames (streams, n_mels); logits (streams, classes) */
static int network_f32(const hark_model *model, const network_scratch *n, size_t streams, uint8_t *states, f32_rows x,
                       f32_rows logits) {
  f32_rows sums[2] = {{n->sums[0], model->sum_width}, {n->sums[1], model->sum_width}};
  for (int i = 0; i < model->layer_count; i++) {
    const hark_layer *layer = &model->layers[i];
    uint8_t *own = states + layer->state;
    f32_rows y = {n->frames[i % 2], model->width}, state = {(float *)(void *)own, model->state_bytes / sizeof(float)};
    switch (layer->kind) {
      case AFFINE:
        for (size_t s = 0; s < streams; s++) affine_f32(model, layer, x.values + s * x.pitch, y.values + s * y.pitch);
        break;
      case GRU:
      case MINIMAL_GRU:
      case FAST_GRNN: cell_f32(layer, streams, x, state, sums, y); break;
      case ATTENTION:
      case QUERY_ATTENTION: attention_f32(layer, streams, x, own, model->state_bytes, sums, y); break;
      case LINEAR: product_f32(&layer->first, streams, x, y); break;
      case ACTIVATION:
        for (size_t s = 0; s < streams; s++) activate_f32(layer, x.values + s * x.pitch, y.values + s * y.pitch);
        break;
      default:
        if (!window_f32(model, layer, streams, x, own, n->window, y)) return 0;
    }
    x = y;
  }
  for (size_t s = 0; s < streams; s++)
    memcpy(logits.values + s * logits.pitch, x.values + s * x.pitch, model->classes * sizeof(float));
  return 1;
}

/* p (classes) of logits (classes); `work` has room for whole vectors. */
static void posteriors_f32(size_t classes, const float *logits, float *work, float *p) {
  float largest = -3.4028235e38f, total = 0;
  for (size_t c = 0; c < classes; c++) largest = logits[c] > largest ? logits[c] : largest;
  for (size_t c = 0; c < padded(classes); c++) work[c] = c < classes ? logits[c] : 0;
  if (classes == 1) {
    sigmoid_of(work, 1);
    p[0] = work[0];
    return;
  }
  for (size_t c = 0; c < classes; c++) work[c] -= largest;
  exponential_of(work, classes);
  for (size_t c = 0; c < classes; c++) total += work[c];
  for (size_t c = 0; c < classes; c++) p[c] = work[c] / total;
}
