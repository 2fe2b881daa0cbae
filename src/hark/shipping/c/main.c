/* Finds words in WAV files and prints when: an example of how a spotter is used. `./spot` alone tells how. */

#include <stdlib.h>
#include <string.h>

#include "spotter.h"
#include "wav.h"

enum { CHUNK_SAMPLES = 160 };

typedef struct {
  const char *path;
  int is_json;
} printing;

/* A text from anywhere as part of a line: nothing that a terminal or a reader of JSON would obey. */
static void put_text(const char *text, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) {
    unsigned char byte = (unsigned char)text[i];
    if (byte < 0x20 || byte == 0x7F || byte == '"' || byte == '\\') printf("\\u%04x", byte);
    else putchar(byte);
  }
}

static void put_detection(const spotter_detection *found, void *context) {
  const printing *how = context;
  double time_s = (double)found->sample / MODEL_SAMPLE_RATE;
  if (how->is_json) fputs("{\"file\": \"", stdout);
  put_text(how->path, strlen(how->path));
  if (how->is_json) printf("\", \"time_s\": %.17g, \"score\": %.17g, \"label\": \"", time_s, found->score);
  else printf("  %.3f s  %.3f  ", time_s, found->score);
  put_text(found->label, found->label_bytes);
  puts(how->is_json ? "\"}" : "");
}

static int fail(const char *what, const char *fault) {
  fprintf(stderr, "%s: %s\n", what, fault);
  return 1;
}

static int spot(spotter *word, printing *how) {
  int16_t samples[CHUNK_SAMPLES];
  size_t count;
  wav_reader wav;
  FILE *file = fopen(how->path, "rb");
  if (!file) return fail(how->path, "cannot be opened");
  if (wav_open(&wav, file, MODEL_SAMPLE_RATE) == 0) {
    spotter_reset(word);
    while ((count = wav_read(&wav, samples, CHUNK_SAMPLES)) > 0)
      spotter_hear(word, samples, count, put_detection, how);
  }
  fclose(file);
  return *wav.fault ? fail(how->path, wav.fault) : 0;
}

static int usage(const char *fault) {
  fprintf(stderr,
          "%s\n"
          "usage: spot [--threshold SCORE] [--smoothing STEPS] [--refractory SECONDS] [--json] FILE...\n"
          "FILE: WAV, mono, 16-bit PCM, %u Hz. What is not told is the model's own.\n",
          fault, (unsigned)MODEL_SAMPLE_RATE);
  return 2;
}

/* Takes a number from least to most; 0 where the text is none. */
static int take_number(const char *text, double least, double most, double *number) {
  char *end = NULL;
  double read = text ? strtod(text, &end) : 0;
  if (!text || end == text || *end || !(read >= least && read <= most)) return 0;
  *number = read;
  return 1;
}

/* Takes an option with its value; 0 where it is none. */
static int take_option(const char *name, const char *value, spotter_point *point) {
  double steps = 0;
  if (strcmp(name, "--threshold") == 0) return take_number(value, 0, 1, &point->threshold);
  if (strcmp(name, "--refractory") == 0) return take_number(value, 0, 1e9, &point->refractory_s);
  if (strcmp(name, "--smoothing") != 0 || !take_number(value, 1, SPOTTER_MOST_SMOOTHING, &steps)) return 0;
  point->smoothing_steps = (uint32_t)steps;
  return point->smoothing_steps == steps;
}

int main(int argc, char **argv) {
  static spotter word;
  printing how = {NULL, 0};
  int at = 1, failed = 0, has_threshold;
  if (spotter_start(&word) != 0) return fail("model.c", "does not open; export the model again");
  has_threshold = word.point.smoothing_steps > 0;
  if (!has_threshold) word.point = (spotter_point){.refractory_s = 1, .smoothing_steps = 1};
  for (; at < argc && strncmp(argv[at], "--", 2) == 0; at++) {
    has_threshold |= strcmp(argv[at], "--threshold") == 0;
    if (strcmp(argv[at], "--json") == 0) how.is_json = 1;
    else if (take_option(argv[at], argv[at + 1], &word.point)) at++;
    else return usage(argv[at]);
  }
  if (at == argc) return usage("no FILE");
  if (!has_threshold) return usage("the model has no operating point: give --threshold");
  for (; at < argc; at++) {
    how.path = argv[at];
    failed |= spot(&word, &how);
  }
  return failed;
}
