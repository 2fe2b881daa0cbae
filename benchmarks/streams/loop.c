/* The engine without Python: hears noise in chunks of 80 ms and prints the CPU time of a second of sound, in us.
 *
 *     loop MODEL STREAMS SECONDS */

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "hark.c"

static void *memory(size_t bytes) {
  void *all = NULL;
  if (posix_memalign(&all, 64, bytes ? bytes : 1)) exit(2);
  return memset(all, 0, bytes);
}

static double cpu_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int16_t *noise(size_t count) {
  int16_t *samples = memory(count * sizeof *samples);
  uint32_t random = 1;
  for (size_t i = 0; i < count; i++) samples[i] = (int16_t)((random = random * 1664525u + 1013904223u) >> 18);
  return samples;
}

int main(int count, char **arguments) {
  static uint8_t file[1 << 20];
  hark_model model;
  hark_description about;
  if (count != 4) return 2;
  FILE *from = fopen(arguments[1], "rb");
  size_t bytes = from ? fread(file, 1, sizeof file, from) : 0;
  if (hark_open(&model, file, bytes) != HARK_OK) return 2;
  hark_prepare(&model, memory(hark_memory_bytes(&model)));
  hark_describe(&model, &about);

  size_t streams = strtoul(arguments[2], NULL, 10), state = hark_state_bytes(&model);
  size_t chunk = about.sample_rate * 80 / 1000, chunks = strtoul(arguments[3], NULL, 10) * 1000 / 80;
  uint8_t *states = memory(streams * state);
  void *scratch = memory(hark_scratch_bytes(&model));
  float *posteriors = memory(streams * (chunk / about.step_samples + 1) * about.classes * sizeof *posteriors);
  for (size_t s = 0; s < streams; s++) hark_reset(&model, states + s * state);
  hark_sound sound = {.int16 = noise(streams * chunk), .count = chunk};

  double began = cpu_s();
  for (size_t i = 0; i < chunks; i++) hark_step_many(&model, streams, states, scratch, sound, NULL, posteriors);
  printf("%f\n", (cpu_s() - began) * 1e6 / ((double)(chunks * streams) * 0.08));
  return 0;
}
