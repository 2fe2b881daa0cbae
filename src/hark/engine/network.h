/* What a network needs besides its weights: each stream's state, and scratch for the call. */

typedef struct {
  void *frames[2]; /* (streams, width) what goes into a layer and what comes out, in turn */
  void *sums[2];   /* (streams, sum_width) int32 or float32 */
  void *window;    /* of one convolution */
} network_scratch;

static size_t larger_size(size_t a, size_t b) { return a > b ? a : b; }

static network_scratch network_pieces(const hark_model *model, pieces *p) {
  network_scratch n;
  size_t window = 0;
  for (int i = 0; i < model->layer_count; i++)
    if (is_convolution(&model->layers[i]))
      window = larger_size(window, convolution_scratch(model, &model->layers[i]));
  for (int i = 0; i < 2; i++) {
    n.frames[i] = piece(p, STREAMS_AT_ONCE * model->width * value_bytes(model));
    n.sums[i] = piece(p, STREAMS_AT_ONCE * model->sum_width * sizeof(float));
  }
  n.window = piece(p, window);
  return n;
}

static size_t layer_state_bytes(const hark_model *model, const hark_layer *layer) {
  if (is_window(layer)) return window_bytes(model, layer);
  switch (layer->kind) {
    case GRU:
    case MINIMAL_GRU:
    case FAST_GRNN: return padded(layer->out_bins) * value_bytes(model);
    case ATTENTION:
    case QUERY_ATTENTION: return attention_bytes(model, layer);
    default: return 0;
  }
}

/* Gives each layer its part of a stream's state, and finds the widest rows. Vectors may reach beyond a row's end. */
static void lay_out(hark_model *model) {
  pieces state = {NULL, 0};
  size_t width = model->front_end.n_mels, sum_width = 0;
  piece(&state, sizeof(sound_state) + kept_samples(&model->front_end) * sizeof(kept_sample));
  for (int i = 0; i < model->layer_count; i++) {
    hark_layer *layer = &model->layers[i];
    lay_out_rows(layer);
    layer->state = (uint32_t)state.used;
    piece(&state, layer_state_bytes(model, layer));
    width = larger_size(width, (size_t)layer->out_channels * layer->out_bins);
    if (is_window(layer)) continue;
    sum_width = larger_size(sum_width, layer->first.rows);
    sum_width = larger_size(sum_width, layer->kernel_frames); /* of attention */
  }
  const size_t slack = HARK_LANES > 1 ? 2 * HARK_LANES : 0;
  model->state_bytes = (uint32_t)state.used;
  model->width = (uint16_t)(padded(width) + slack);
  model->sum_width = (uint16_t)(padded(sum_width) + slack);
}
