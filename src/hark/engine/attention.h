/* Attention over the last steps: what a stream keeps of each is the frame and its energy, which never changes. */

typedef struct {
  uint32_t *filled; /* steps kept, up to the window */
  uint32_t *next;   /* slot of the next */
  void *energies;   /* (window) float32 or int32 */
  void *frames;     /* (window, size) */
  size_t size;      /* values of a frame */
} attention_memory;

static attention_memory attention_at(const hark_layer *layer, uint8_t *state) {
  uint32_t *counts = (uint32_t *)(void *)state;
  attention_memory a = {counts, counts + 1, counts + 2, counts + 2 + layer->kernel_frames, 0};
  a.size = (size_t)layer->channels * layer->bins;
  return a;
}

/* Whole vectors are loaded from the last frame. */
static size_t attention_bytes(const hark_model *model, const hark_layer *layer) {
  size_t size = (size_t)layer->channels * layer->bins, slack = HARK_LANES > 1 ? HARK_LANES : 0;
  return 8 + layer->kernel_frames * sizeof(float) + (layer->kernel_frames * size + slack) * value_bytes(model);
}

/* Makes room for one more step and returns its slot. */
static size_t next_slot(const hark_layer *layer, const attention_memory *a) {
  size_t slot = *a->next;
  *a->next = slot + 1 == layer->kernel_frames ? 0 : (uint32_t)slot + 1;
  if (*a->filled < layer->kernel_frames) *a->filled += 1;
  return slot;
}

/* The slot of step t, the oldest being 0. */
static size_t slot_of(const hark_layer *layer, const attention_memory *a, size_t t) {
  size_t slot = *a->next + layer->kernel_frames - *a->filled + t;
  return slot < layer->kernel_frames ? slot : slot - layer->kernel_frames;
}

static void attend_f32(const hark_layer *layer, uint8_t *state, const float *frame, float energy, float *weights,
                       float *y) {
  attention_memory a = attention_at(layer, state);
  float *energies = a.energies, *frames = a.frames;
  const size_t newest = next_slot(layer, &a), filled = *a.filled;
  energies[newest] = energy;
  memcpy(frames + newest * a.size, frame, a.size * sizeof *frames);

  float largest = -3.4028235e38f, total = 0;
  for (size_t t = 0; t < filled; t++) largest = energies[t] > largest ? energies[t] : largest;
  for (size_t t = 0; t < padded(filled); t++) weights[t] = t < filled ? energies[slot_of(layer, &a, t)] - largest : 0;
  exponential_of(weights, filled);
  for (size_t t = 0; t < filled; t++) total += weights[t];
  for (size_t t = 0; t < filled; t++) weights[t] /= total;
  for (size_t i = 0; i < a.size; i += HARK_LANES) {
    f32_lanes sum = of_bits(all_lanes(0));
    for (size_t t = 0, slot = slot_of(layer, &a, 0); t < filled; t++) {
      sum += weights[t] * load_f32(frames + slot * a.size + i);
      slot = slot + 1 == layer->kernel_frames ? 0 : slot + 1;
    }
    store_f32(y + i, sum);
  }
}

static void attend_i16(const hark_layer *layer, uint8_t *state, const int16_t *frame, int32_t energy,
                       int32_t *weights, int16_t *y) {
  attention_memory a = attention_at(layer, state);
  int32_t *energies = a.energies;
  int16_t *frames = a.frames;
  const size_t newest = next_slot(layer, &a), filled = *a.filled;
  energies[newest] = energy;
  memcpy(frames + newest * a.size, frame, a.size * sizeof *frames);

  int32_t largest = energies[0];
  uint32_t total = 0;
  for (size_t t = 1; t < filled; t++) largest = energies[t] > largest ? energies[t] : largest;
  for (size_t t = 0; t < filled; t++) {
    weights[t] = exp2_minus((uint32_t)largest - (uint32_t)energies[t]);
    total += (uint32_t)weights[t];
  }
  for (size_t t = 0; t < filled; t++) weights[t] = (int32_t)(((uint32_t)weights[t] * 32768 + total / 2) / total);
  for (size_t i = 0; i < a.size; i += HARK_LANES) {
    i32_lanes sum = all_lanes(0);
    for (size_t t = 0; t < filled; t++) sum += weights[t] * load_i16(frames + t * a.size + i);
    store_i16(y + i, clamp((sum + 16384) >> 15));
  }
}
