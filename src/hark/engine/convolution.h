/* Convolution over frequency and time. Inputs are counted time first, then channel, then frequency.
 *
 * With vectors, output bins are in the lanes and two output channels share what is loaded; hark_prepare arranges
 *
 *   first   float32 weights (pairs of channels, inputs, 2), or
 *           int16 weights (pairs of channels, pairs of frames, taps, 2 channels, 2 frames)
 *   second  uint32 (taps): where the inputs of output bin 0 lie in a frame, for each channel seen and kernel bin
 *
 * where a depthwise convolution, whose channels have nothing to share, has pairs of one channel and zeros; and
 * integers of two frames are interleaved in scratch, so that one instruction takes both. */

/* The first of the channels that come in which an output channel sees. */
static size_t first_seen(const hark_layer *layer, size_t channel) { return layer->kind == CONVOLUTION ? 0 : channel; }

#if HARK_LANES > 1

#ifdef __OPTIMIZE_SIZE__ /* fewer of the loops below */
enum { BLOCK_VECTORS = 2 };
#else
enum { BLOCK_VECTORS = 4 }; /* of output bins, whose sums stay in registers */
#endif

/* Output channels in a pair. */
static size_t pair_channels(const hark_layer *layer) { return layer->kind == CONVOLUTION ? 2 : 1; }

/* Kernel bins of all channels that an output channel sees. */
static size_t count_taps(const hark_layer *layer) {
  return layer->kind == CONVOLUTION ? (size_t)layer->channels * layer->kernel_bins : layer->kernel_bins;
}

/* Adds the products of a window's frames to the sums of two output channels, over `vectors` vectors of bins. */
INLINE void add_window_f32(const hark_layer *layer, const float *window, const size_t vectors, const float *weights,
                           f32_lanes acc[2][BLOCK_VECTORS]) {
  const uint32_t *place = layer->second.weights;
  const size_t taps = count_taps(layer);
  for (size_t frame = 0; frame < layer->kernel_frames; frame++, window += layer->row_values)
    for (size_t tap = 0; tap < taps; tap++, weights += 2)
      for (size_t v = 0; v < vectors; v++) {
        f32_lanes inputs = load_f32(window + place[tap] + v * HARK_LANES);
        acc[0][v] += inputs * weights[0];
        acc[1][v] += inputs * weights[1];
      }
}

INLINE void add_window_i16(const hark_layer *layer, const int32_t *window, const size_t vectors,
                           const int32_t *weights, i32_lanes acc[2][BLOCK_VECTORS]) {
  const uint32_t *place = layer->second.weights;
  const size_t taps = count_taps(layer);
  for (size_t frame = 0; frame < layer->kernel_frames; frame += 2, window += layer->row_values)
    for (size_t tap = 0; tap < taps; tap++, weights += 2)
      for (size_t v = 0; v < vectors; v++) {
        i32_lanes inputs = load_i32(window + place[tap] + v * HARK_LANES);
        acc[0][v] = add_pair_products(acc[0][v], inputs, all_lanes(weights[0]));
        acc[1][v] = add_pair_products(acc[1][v], inputs, all_lanes(weights[1]));
      }
}

/* A constant number of vectors keeps the sums in registers. */
#define ADD_WINDOW(add_window)                                                            \
  if (vectors == 1) add_window(layer, window, 1, weights, acc);                           \
  else if (vectors == 2) add_window(layer, window, 2, weights, acc);                      \
  else if (BLOCK_VECTORS > 2 && vectors == 3) add_window(layer, window, 3, weights, acc); \
  else if (BLOCK_VECTORS > 2) add_window(layer, window, BLOCK_VECTORS, weights, acc);

/* A block of a convolution's outputs: up to two channels and up to BLOCK_VECTORS vectors of bins. */
typedef struct {
  size_t channel, channels, bin, bins;
} output_block;

/* Goes on to the next block; returns 0 after the last. */
static int next_block(const hark_layer *layer, output_block *b) {
  const size_t most = BLOCK_VECTORS * HARK_LANES;
  b->bin += b->bins;
  if (b->bin == layer->out_bins) b->bin = 0, b->channel += b->channels;
  b->channels = b->channel + 1u < layer->out_channels ? pair_channels(layer) : layer->out_channels - b->channel;
  b->bins = layer->out_bins - b->bin < most ? layer->out_bins - b->bin : most;
  return b->channels > 0;
}

/* Where the inputs of a block begin in each frame. */
static size_t block_place(const hark_layer *layer, const output_block *b) {
  return first_seen(layer, b->channel) * layer->phases * layer->phase_bins + b->bin;
}

/* Where its weights are, in numbers of four bytes. */
static size_t block_weights(const hark_layer *layer, const output_block *b, size_t pair_numbers) {
  return b->channel / pair_channels(layer) * pair_numbers;
}

/* y (channels, out_bins) of a window. */
static void convolve_f32(const hark_layer *layer, const float *rows, void *scratch, float *y) {
  const hark_matrix *m = &layer->first;
  (void)scratch;
  for (output_block b = {0, 0, 0, 0}; next_block(layer, &b);) {
    const float *window = rows + block_place(layer, &b);
    const float *weights = (const float *)m->weights + block_weights(layer, &b, 2 * m->inputs);
    const size_t vectors = padded(b.bins) / HARK_LANES;
    f32_lanes acc[2][BLOCK_VECTORS];
    for (size_t c = 0; c < 2; c++)
      for (size_t v = 0; v < BLOCK_VECTORS; v++)
        acc[c][v] = bias_f32(m, b.channel + (c < b.channels ? c : 0)) - (f32_lanes){0};
    ADD_WINDOW(add_window_f32)
    for (size_t c = 0; c < b.channels; c++)
      memcpy(y + (b.channel + c) * layer->out_bins + b.bin, acc[c], b.bins * sizeof *y);
  }
}

/* Two frames each, value by value; the last of an odd number beside what its weight of 0 hides. */
static void interleave_frames(const hark_layer *layer, const int16_t *rows, int32_t *pairs) {
  size_t values = layer->row_values;
  for (size_t frame = 0; frame < layer->kernel_frames; frame += 2, rows += 2 * values, pairs += values) {
    const int16_t *next = frame + 1 < layer->kernel_frames ? rows + values : rows;
    for (size_t i = 0; i < values; i += HARK_LANES)
      store_i32(pairs + i, (load_i16(rows + i) & 0xFFFF) | load_i16(next + i) << 16);
  }
}

/* Bytes of scratch for the interleaved frames; whole vectors are loaded from the last. */
static size_t convolution_scratch(const hark_model *model, const hark_layer *layer) {
  if (!model->is_integer) return 0;
  return ((layer->kernel_frames + 1u) / 2 * layer->row_values + HARK_LANES) * sizeof(int32_t);
}

static void convolve_i16(const hark_layer *layer, const int16_t *rows, void *scratch, int16_t *y) {
  const hark_matrix *m = &layer->first;
  const size_t pair_numbers = (layer->kernel_frames + 1u) / 2 * count_taps(layer) * 2;
  interleave_frames(layer, rows, scratch);
  for (output_block b = {0, 0, 0, 0}; next_block(layer, &b);) {
    const int32_t *window = (const int32_t *)scratch + block_place(layer, &b);
    const int32_t *weights = (const int32_t *)m->weights + block_weights(layer, &b, pair_numbers);
    const size_t vectors = padded(b.bins) / HARK_LANES;
    i32_lanes acc[2][BLOCK_VECTORS];
    memset(acc, 0, sizeof acc);
    ADD_WINDOW(add_window_i16)
    for (size_t c = 0; c < b.channels; c++) {
      int16_t results[BLOCK_VECTORS * HARK_LANES];
      i32_lanes multiplier = all_lanes(multiplier_of(m, b.channel + c));
      i32_lanes bias = all_lanes(bias_i32(m, b.channel + c));
      for (size_t v = 0; v < vectors; v++)
        store_i16(results + v * HARK_LANES, clamp(requantize(acc[c][v], multiplier, m->shift) + bias));
      memcpy(y + (b.channel + c) * layer->out_bins + b.bin, results, b.bins * sizeof *y);
    }
  }
}

static void prepare_convolution(const hark_model *model, hark_layer *layer, pieces *memory) {
  hark_matrix *m = &layer->first;
  size_t taps = count_taps(layer), channels = pair_channels(layer);
  size_t channel_pairs = (layer->out_channels + channels - 1) / channels;
  size_t frame_pairs = (layer->kernel_frames + 1u) / 2;
  size_t pair_numbers = model->is_integer ? frame_pairs * taps * 2 : m->inputs * 2u; /* of four bytes */
  uint32_t *place = piece(memory, taps * sizeof *place);
  void *weights = zeros(memory, channel_pairs * pair_numbers);
  if (!weights) return;
  for (size_t tap = 0; tap < taps; tap++) {
    size_t channel = tap / layer->kernel_bins, k = tap % layer->kernel_bins;
    place[tap] = (uint32_t)((channel * layer->phases + k % layer->phases) * layer->phase_bins + k / layer->phases);
  }
  const uint8_t *row = m->weights;
  for (size_t c = 0; c < layer->out_channels; c++, row += model->is_integer ? row_bytes(m) : 4 * m->inputs) {
    for (size_t i = 0; i < m->inputs; i++) {
      size_t frame = i / taps, pair = c / channels * frame_pairs + frame / 2, half = c % channels;
      if (model->is_integer)
        ((int16_t *)weights)[((pair * taps + i % taps) * 2 + half) * 2 + frame % 2] = (int16_t)weight_at(m, row, i);
      else ((float *)weights)[(c / channels * m->inputs + i) * 2 + half] = f32_at(row, i);
    }
  }
  m->weights = weights;
  layer->second.weights = place;
}

#else

static size_t convolution_scratch(const hark_model *model, const hark_layer *layer) {
  (void)model, (void)layer;
  return 0;
}

/* From one channel that an output channel sees to the next, over the end of a frame to the next frame's. */
static size_t next_seen(const hark_layer *layer) { return layer->kind == CONVOLUTION ? 1 : layer->channels; }

static void convolve_f32(const hark_layer *layer, const float *rows, void *scratch, float *y) {
  (void)scratch;
  const hark_matrix *m = &layer->first;
  const size_t end = (size_t)layer->kernel_frames * layer->channels, step = next_seen(layer);
  for (size_t c = 0; c < layer->out_channels; c++)
    for (size_t bin = 0; bin < layer->out_bins; bin++) {
      size_t i = c * m->inputs;
      float acc = bias_f32(m, c);
      for (size_t row = first_seen(layer, c); row < end; row += step) {
        const float *x = rows + row * layer->bins + bin * layer->stride_bins;
        for (size_t k = 0; k < layer->kernel_bins; k++, i++) acc += f32_at(m->weights, i) * x[k];
      }
      *y++ = acc;
    }
}

static void convolve_i16(const hark_layer *layer, const int16_t *rows, void *scratch, int16_t *y) {
  (void)scratch;
  const hark_matrix *m = &layer->first;
  const size_t end = (size_t)layer->kernel_frames * layer->channels, step = next_seen(layer);
  const uint8_t *weights = m->weights;
  for (size_t c = 0; c < layer->out_channels; c++, weights += row_bytes(m))
    for (size_t bin = 0; bin < layer->out_bins; bin++) {
      size_t i = 0;
      int32_t acc = 0;
      for (size_t row = first_seen(layer, c); row < end; row += step) {
        const int16_t *x = rows + row * layer->bins + bin * layer->stride_bins;
        for (size_t k = 0; k < layer->kernel_bins; k++, i++) acc += weight_at(m, weights, i) * x[k];
      }
      acc = requantize(acc, multiplier_of(m, c), m->shift);
      *y++ = (int16_t)clamp(acc + bias_i32(m, c));
    }
}

#endif
