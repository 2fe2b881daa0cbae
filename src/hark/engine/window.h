/* Windows of frames, for convolution and pooling: a stream keeps the frames that a later window still needs.
 *
 * The state holds the number of frames kept, then the frames, oldest first, row_values apart. With vectors a
 * convolution's bins are in the lanes: of each channel the bins p, p + phases, p + 2 phases ... then lie side by
 * side, phase_bins of them for each p below phases (the stride), so that the inputs of neighbouring outputs are
 * neighbours. */

static void lay_out_rows(hark_layer *layer) {
  int is_apart = HARK_LANES > 1 && is_convolution(layer) && layer->out_bins > 1;
  layer->phases = is_apart ? layer->stride_bins : 1;
  layer->phase_bins = (uint16_t)((layer->bins + layer->phases - 1u) / layer->phases);
  layer->row_values = (uint16_t)(layer->channels * layer->phases * layer->phase_bins);
}

static size_t value_bytes(const hark_model *model) { return model->is_integer ? sizeof(int16_t) : sizeof(float); }

static uint32_t *frames_kept(const void *state) { return (uint32_t *)state; }

/* Whole vectors are loaded from the last frame. */
static size_t window_bytes(const hark_model *model, const hark_layer *layer) {
  size_t slack = HARK_LANES > 1 ? HARK_LANES : 0;
  return 8 + (layer->kernel_frames * layer->row_values + slack) * value_bytes(model);
}

/* Puts every phases-th bin of each channel side by side. Most networks have two phases: these go as vectors, and what
 * they write behind a row's end, another row overwrites. */

static void deinterleave_f32(const hark_layer *layer, const float *frame, float *row) {
  for (size_t channel = 0; channel < layer->channels; channel++, frame += layer->bins)
    for (size_t phase = 0; phase < layer->phases; phase++, row += layer->phase_bins) {
      if (layer->phases == 2)
        for (size_t i = 0; i < layer->phase_bins; i++) row[i] = frame[2 * i + phase];
      else
        for (size_t i = 0, bin = phase; bin < layer->bins; i++, bin += layer->phases) row[i] = frame[bin];
    }
}

static void deinterleave_i16(const hark_layer *layer, const int16_t *frame, int16_t *row) {
  for (size_t channel = 0; channel < layer->channels; channel++, frame += layer->bins)
    for (size_t phase = 0; phase < layer->phases; phase++, row += layer->phase_bins) {
      if (layer->phases == 2)
        for (size_t i = 0; i < layer->phase_bins; i += HARK_LANES) {
          i32_lanes pair = load_i32((const int32_t *)(const void *)(frame + 2 * i));
          store_i16(row + i, phase == 0 ? pair << 16 >> 16 : pair >> 16);
        }
      else
        for (size_t i = 0, bin = phase; bin < layer->bins; i++, bin += layer->phases) row[i] = frame[bin];
    }
}

/* Adds a frame; returns the window if it is now complete. window_done must be called before the next. */
static const void *push_frame(const hark_model *model, const hark_layer *layer, uint8_t *state, const void *frame) {
  uint32_t *filled = frames_kept(state);
  uint8_t *rows = state + 8, *row = rows + *filled * layer->row_values * value_bytes(model);
  if (HARK_LANES == 1 || layer->phases == 1) {
    memcpy(row, frame, layer->row_values * value_bytes(model));
  } else if (model->is_integer) {
    deinterleave_i16(layer, frame, (int16_t *)(void *)row);
  } else {
    deinterleave_f32(layer, frame, (float *)(void *)row);
  }
  *filled += 1;
  return *filled == layer->kernel_frames ? rows : NULL;
}

/* Forgets the frames that no later window needs. */
static void window_done(const hark_model *model, const hark_layer *layer, uint8_t *state) {
  uint32_t *filled = frames_kept(state);
  size_t row_bytes = layer->row_values * value_bytes(model);
  *filled -= layer->stride_frames;
  memmove(state + 8, state + 8 + layer->stride_frames * row_bytes, *filled * row_bytes);
}
