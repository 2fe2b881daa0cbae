/* libFuzzer for the reader of files and for the step: whatever opens must run.
 *
 * The checksum would hide the reader, so every input gets magic, length and checksum that fit, unless its first byte
 * says otherwise. What opens hears the bytes of its own file as samples, NaN and infinity among them. */

#include <stdlib.h>

#include "hark.c"

enum { MOST_MEMORY = 1 << 24, MOST_SAMPLES = 600 };

static void put_u32(uint8_t *to, uint32_t value) {
  for (int i = 0; i < 4; i++) to[i] = (uint8_t)(value >> 8 * i);
}

static void seal(uint8_t *file, size_t bytes) {
  if (bytes < 14) return;
  memcpy(file, "HARK", 4);
  put_u32(file + 8, (uint32_t)bytes);
  put_u32(file + 4, crc32(file + 8, bytes - 8));
}

/* Memory of exactly so many bytes, so that AddressSanitizer sees the first byte too many. */
static void *exactly(size_t bytes) {
  void *memory = NULL;
  return posix_memalign(&memory, HARK_ALIGNMENT < 64 ? 64 : HARK_ALIGNMENT, bytes ? bytes : 1) ? NULL : memory;
}

static void listen(const hark_model *model, const uint8_t *file, size_t bytes) {
  enum { STREAMS = 2 };
  size_t state = hark_state_bytes(model);
  uint8_t *states = exactly(STREAMS * state);
  void *scratch = exactly(hark_scratch_bytes(model));
  float *samples = exactly(STREAMS * MOST_SAMPLES * sizeof *samples);
  for (size_t i = 0; i < STREAMS * MOST_SAMPLES * sizeof *samples; i++) ((uint8_t *)samples)[i] = file[i % bytes];
  for (size_t s = 0; s < STREAMS; s++) hark_reset(model, states + s * state);
  for (size_t chunk = 0; chunk < 4; chunk++) {
    size_t count = file[(chunk + 14) % bytes] * MOST_SAMPLES / 255;
    hark_sound sound = {chunk % 2 ? (const int16_t *)(const void *)samples : NULL, chunk % 2 ? NULL : samples, count};
    size_t numbers = STREAMS * hark_steps(model, states, count) * model->classes;
    float *logits = exactly(numbers * sizeof *logits), *posteriors = exactly(numbers * sizeof *posteriors);
    long steps = hark_step_many(model, STREAMS, states, scratch, sound, logits, posteriors);
    if (steps < 0 || (size_t)steps * STREAMS * model->classes != numbers) abort();
    free(logits);
    free(posteriors);
  }
  free(states);
  free(scratch);
  free(samples);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static hark_model model;
  if (size < 2) return 0;
  size_t bytes = size - 1;
  uint8_t *file = exactly(bytes);
  memcpy(file, data + 1, bytes);
  if (data[0] % 8 != 0) seal(file, bytes);
  if (hark_open(&model, file, bytes) == HARK_OK) {
    size_t needs = hark_memory_bytes(&model) + 2 * hark_state_bytes(&model) + hark_scratch_bytes(&model);
    if (needs <= MOST_MEMORY) {
      void *memory = exactly(hark_memory_bytes(&model));
      hark_prepare(&model, memory);
      listen(&model, file, bytes);
      free(memory);
    }
  }
  free(file);
  return 0;
}
