/* A .hark file, checked and described: docs/format.md, whose names these are. */

enum { AFFINE = 1, CONVOLUTION, GRU, ATTENTION, LINEAR, ACTIVATION, MEAN_POOLING };
enum { MINIMAL_GRU = 8, FAST_GRNN, QUERY_ATTENTION, DEPTHWISE_CONVOLUTION };
enum { RELU, SIGMOID, TANH };
enum { FLOAT32, INT8, INT4, ONE_MULTIPLIER = 2 /* added to a form: one for all rows */ };

enum {
  LARGEST_FILE = 1 << 24,
  LARGEST_PAST = 1 << 20, /* values that a layer keeps of a stream */
  LARGEST_POOL = 1 << 16, /* values in one mean */
  LARGEST_ROW = 65538,    /* sum of |w|: times 32,767 it is still below 2^31 */
  MOST_FRAMES = 1 << 16,  /* before the first step */
};

static int is_convolution(const hark_layer *layer) {
  return layer->kind == CONVOLUTION || layer->kind == DEPTHWISE_CONVOLUTION;
}

/* Whether a layer keeps frames until a window of them is complete. */
static int is_window(const hark_layer *layer) { return is_convolution(layer) || layer->kind == MEAN_POOLING; }

/* Weight `column` of an integer row that begins at `row`: half a byte is the high half of an int8. */
static int weight_at(const hark_matrix *m, const uint8_t *row, size_t column) {
  if (m->form == INT8) return (int8_t)row[column];
  return (int8_t)(column % 2 ? row[column / 2] & 0xF0 : row[column / 2] << 4 & 0xF0);
}

static size_t row_bytes(const hark_matrix *m) { return m->form == INT8 ? m->inputs : (m->inputs + 1) / 2; }

/* No accumulator may overflow, whatever the inputs; and the half byte that an odd row leaves is 0. */
static void check_rows(reader *r, const hark_matrix *m) {
  const uint8_t *row = m->weights;
  for (size_t i = 0; r->error == HARK_OK && i < m->rows; i++, row += row_bytes(m)) {
    uint32_t sum = 0;
    for (size_t column = 0; column < m->inputs; column++) {
      int w = weight_at(m, row, column);
      sum += (uint32_t)(w < 0 ? -w : w);
    }
    expect(r, sum <= LARGEST_ROW, HARK_MALFORMED);
    if (m->form == INT4 && m->inputs % 2) expect(r, row[m->inputs / 2] < 16, HARK_MALFORMED);
  }
}

static void take_matrix(reader *r, const hark_model *model, hark_matrix *m, uint32_t rows, uint32_t inputs,
                        int has_bias) {
  expect(r, rows == 0 || inputs <= 2u * LARGEST_FILE / rows, HARK_MALFORMED); /* the products below fit 32 bits */
  m->rows = (uint16_t)rows;
  m->inputs = inputs;
  uint32_t form = take_u8(r);
  expect(r, model->is_integer ? 0 < form && form <= INT4 + ONE_MULTIPLIER : form == FLOAT32, HARK_UNKNOWN_KIND);
  expect(r, form <= ONE_MULTIPLIER || rows > 1, HARK_MALFORMED); /* a single row has one in any form */
  m->multiplier_step = form <= ONE_MULTIPLIER;
  m->form = (uint8_t)(m->multiplier_step ? form : form - ONE_MULTIPLIER);
  if (!model->is_integer) {
    m->weights = take_f32(r, model->file, (size_t)rows * inputs);
    m->bias = has_bias ? take_f32(r, model->file, rows) : NULL;
    return;
  }
  uint32_t shifts = take_u8(r);
  m->shift = shifts & 15;
  m->bias_shift = (uint8_t)(shifts >> 4);
  expect(r, has_bias || m->bias_shift == 0, HARK_MALFORMED);
  m->multipliers = take(r, m->multiplier_step ? 2 * (size_t)rows : 2);
  m->weights = take(r, rows * row_bytes(m));
  m->bias = has_bias ? take(r, 2 * (size_t)rows) : NULL;
  check_rows(r, m);
}

static void take_affine(reader *r, hark_model *model, hark_layer *layer) {
  hark_matrix *m = &layer->first;
  uint32_t count = take_varint(r);
  expect(r, count == 1 || count == layer->bins, HARK_MALFORMED);
  m->rows = (uint16_t)count;
  if (model->is_integer) {
    layer->option = (uint8_t)take_u8(r);
    expect(r, layer->option <= 30, HARK_MALFORMED);
    m->multipliers = take(r, 2 * count);
    m->bias = take(r, 2 * count);
  } else {
    m->multipliers = take_f32(r, model->file, count);
    m->bias = take_f32(r, model->file, count);
  }
}

/* Kernel and stride of a window over frequency and time, and the bins that come out. */
static void take_window(reader *r, hark_layer *layer) {
  layer->kernel_bins = take_size(r);
  layer->kernel_frames = take_size(r);
  layer->stride_bins = take_size(r);
  layer->stride_frames = take_size(r);
  expect(r, layer->kernel_bins <= layer->bins && layer->stride_frames <= layer->kernel_frames, HARK_MALFORMED);
  expect(r, (uint32_t)layer->kernel_frames * layer->channels * layer->bins <= LARGEST_PAST, HARK_MALFORMED);
  if (r->error == HARK_OK) layer->out_bins = (uint16_t)((layer->bins - layer->kernel_bins) / layer->stride_bins + 1);
}

/* A recurrent cell: rows of `gates` gates, and a bias more than these. */
static void take_cell(reader *r, hark_model *model, hark_layer *layer, uint32_t inputs, uint32_t gates) {
  uint32_t units = take_size(r), rows = gates * units, biases = rows + units;
  layer->out_channels = 1;
  layer->out_bins = (uint16_t)units;
  take_matrix(r, model, &layer->first, rows, inputs, 0);
  take_matrix(r, model, &layer->second, rows, units, 0);
  const uint8_t *bias = model->is_integer ? take(r, 2 * biases) : take_f32(r, model->file, biases);
  if (!bias) return;
  if (layer->kind == FAST_GRNN) {
    layer->bias = bias;
    return;
  }
  layer->first.bias = bias;
  layer->second.bias = bias + rows * (model->is_integer ? sizeof(int16_t) : sizeof(float));
  layer->second.bias_row = (uint16_t)(rows - units);
}

/* Where a query alone scores, there is no first matrix. */
static void take_attention(reader *r, hark_model *model, hark_layer *layer, uint32_t inputs) {
  uint32_t units = layer->kind == ATTENTION ? take_size(r) : inputs;
  layer->kernel_frames = take_size(r);
  expect(r, layer->kernel_frames * inputs <= LARGEST_PAST, HARK_MALFORMED);
  if (layer->kind == ATTENTION) take_matrix(r, model, &layer->first, units, inputs, 1);
  take_matrix(r, model, &layer->second, 1, units, 0);
}

static void take_convolution(reader *r, hark_model *model, hark_layer *layer) {
  uint32_t inputs = 1;
  if (layer->kind == CONVOLUTION) {
    layer->out_channels = take_size(r);
    inputs = layer->channels;
  }
  take_window(r, layer);
  inputs *= (uint32_t)layer->kernel_frames * layer->kernel_bins;
  take_matrix(r, model, &layer->first, layer->out_channels, inputs, 1);
}

/* A layer that hears frames of layer->channels by layer->bins. */
static void take_layer(reader *r, hark_model *model, hark_layer *layer) {
  uint32_t inputs = (uint32_t)layer->channels * layer->bins;
  layer->out_channels = layer->channels;
  layer->out_bins = layer->bins;
  layer->stride_frames = 1;
  switch (layer->kind) {
    case AFFINE: take_affine(r, model, layer); break;
    case CONVOLUTION:
    case DEPTHWISE_CONVOLUTION: take_convolution(r, model, layer); break;
    case GRU: take_cell(r, model, layer, inputs, 3); break;
    case MINIMAL_GRU: take_cell(r, model, layer, inputs, 2); break;
    case FAST_GRNN: take_cell(r, model, layer, inputs, 1); break;
    case ATTENTION:
    case QUERY_ATTENTION: take_attention(r, model, layer, inputs); break;
    case LINEAR:
      layer->out_channels = 1;
      layer->out_bins = take_size(r);
      take_matrix(r, model, &layer->first, layer->out_bins, inputs, 1);
      break;
    case ACTIVATION:
      layer->option = (uint8_t)take_varint(r);
      expect(r, layer->option <= TANH, HARK_UNKNOWN_KIND);
      break;
    case MEAN_POOLING:
      take_window(r, layer);
      expect(r, (uint32_t)layer->kernel_bins * layer->kernel_frames <= LARGEST_POOL, HARK_MALFORMED);
      break;
    default: expect(r, 0, HARK_UNKNOWN_KIND);
  }
  expect(r, (uint32_t)layer->out_channels * layer->out_bins <= LARGEST_SIZE, HARK_MALFORMED);
}

static void take_layers(reader *r, hark_model *model) {
  uint32_t count = take_u8(r);
  expect(r, count > 0, HARK_MALFORMED);
  expect(r, count <= HARK_MOST_LAYERS, count <= 32 ? HARK_TOO_MANY_LAYERS : HARK_MALFORMED);
  uint16_t channels = 1, bins = model->front_end.n_mels;
  model->step_frames = model->first_step_frames = 1;
  for (uint32_t i = 0; r->error == HARK_OK && i < count; i++) {
    hark_layer *layer = &model->layers[i];
    layer->kind = (uint8_t)take_u8(r);
    layer->channels = channels;
    layer->bins = bins;
    expect(r, layer->kind != AFFINE || i == 0, HARK_MALFORMED);
    expect(r, layer->kind == AFFINE || i > 0 || !model->is_integer, HARK_MALFORMED);
    expect(r, layer->kind == LINEAR || i + 1 < count, HARK_MALFORMED);
    take_layer(r, model, layer);
    channels = layer->out_channels;
    bins = layer->out_bins;
    if (is_window(layer)) model->first_step_frames += (layer->kernel_frames - 1u) * model->step_frames;
    expect(r, model->first_step_frames <= MOST_FRAMES, HARK_MALFORMED);
    model->step_frames *= layer->stride_frames;
    model->layer_count++;
  }
  expect(r, model->classes == bins, HARK_MALFORMED);
}

static void take_front_end(reader *r, hark_front_end *f) {
  expect(r, take_u8(r) == 1, HARK_UNKNOWN_KIND);
  f->sample_rate = take_varint(r);
  f->n_fft = take_size(r);
  f->hop_length = take_size(r);
  f->n_mels = take_size(r);
  expect(r, 1000 <= f->sample_rate && f->sample_rate <= 384000, HARK_MALFORMED);
  expect(r, f->n_fft >= 4 && f->hop_length <= f->n_fft && f->n_mels <= f->n_fft / 4, HARK_MALFORMED);
}

static void take_outputs(reader *r, hark_model *model) {
  model->logit_bits = (uint8_t)take_u8(r);
  expect(r, model->logit_bits <= (model->is_integer ? 30 : 0), HARK_MALFORMED);
  uint32_t smoothing_steps = take_varint(r);
  expect(r, smoothing_steps <= LARGEST_SIZE, HARK_MALFORMED);
  model->smoothing_steps = (uint16_t)smoothing_steps;
  if (smoothing_steps > 0) {
    const uint8_t *threshold = take(r, 4);
    if (threshold) model->threshold = f32_at(threshold, 0);
    expect(r, threshold && (u32_at(threshold, 0) & 0x7F800000) != 0x7F800000, HARK_MALFORMED);
    model->refractory_ms = take_varint(r);
  }
  model->classes = take_size(r);
  model->labels = r->at;
  for (uint32_t i = 0; i < model->classes; i++) take(r, take_u8(r));
}

/* Checks the header and all that follows it up to the stated length. */
static int read_file(hark_model *model, const uint8_t *file, size_t bytes) {
  static const uint8_t magic[] = {'H', 'A', 'R', 'K'};
  for (size_t i = 0; i < sizeof magic; i++)
    if (i >= bytes || file[i] != magic[i]) return HARK_NOT_A_MODEL;
  if (bytes < 14) return HARK_TRUNCATED;
  uint32_t length = u32_at(file, 2);
  if (length > bytes) return HARK_TRUNCATED;
  if (length < 14 || length > LARGEST_FILE) return HARK_MALFORMED;
  if (crc32(file + 8, length - 8) != u32_at(file, 1)) return HARK_DAMAGED;
  if (file[12] != 1) return HARK_OTHER_VERSION;

  reader r = {file + 14, file + length, HARK_OK};
  memset(model, 0, sizeof *model);
  model->file = file;
  expect(&r, file[13] <= 1, HARK_UNKNOWN_KIND);
  model->is_integer = file[13];
  take_front_end(&r, &model->front_end);
  take_outputs(&r, model);
  take_layers(&r, model);
  expect(&r, r.at == r.end, HARK_MALFORMED);
  return r.error;
}

/* Multiplier and bias of a row, as they stand in the file. */

static int32_t multiplier_of(const hark_matrix *m, size_t row) {
  return u16_at(m->multipliers, row * m->multiplier_step);
}

static float bias_f32(const hark_matrix *m, size_t row) {
  return m->bias && row >= m->bias_row ? f32_at(m->bias, row - m->bias_row) : 0;
}

static int32_t bias_i32(const hark_matrix *m, size_t row) {
  return m->bias && row >= m->bias_row ? i16_at(m->bias, row - m->bias_row) * (1 << m->bias_shift) : 0;
}
