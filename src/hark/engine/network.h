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
    if (model->layers[i].kind == CONVOLUTION)
      window = larger_size(window, convolution_scratch(model, &model->layers[i]));
  for (int i = 0; i < 2; i++) {
    n.frames[i] = piece(p, STREAMS_AT_ONCE * model->width * value_bytes(model));
    n.sums[i] = piece(p, STREAMS_AT_ONCE * model->sum_width * sizeof(float));
  }
  n.window = piece(p, window);
  return n;
}

static size_t layer_state_bytes(const hark_model *model, const hark_layer *layer) {
  switch (layer->kind) {
    case CONVOLUTION:
    case MEAN_POOLING: return window_bytes(model, layer);
    case GRU: return padded(layer->out_bins) * value_bytes(model);
    case ATTENTION: return attention_bytes(model, layer);
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
    if (layer->kind != CONVOLUTION) sum_width = larger_size(sum_width, layer->first.rows);
    if (layer->kind == ATTENTION) sum_width = larger_size(sum_width, layer->kernel_frames);
  }
  const size_t slack = HARK_LANES > 1 ? 2 * HARK_LANES : 0;
  model->state_bytes = (uint32_t)state.used;
  model->width = (uint16_t)(padded(width) + slack);
  model->sum_width = (uint16_t)(padded(sum_width) + slack);
}
