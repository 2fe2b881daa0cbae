/* What firmware does: sound from the microphone as it comes, and a call for each word. */

#include "spotter.h"

/* Yours: waits for the next samples at MODEL_SAMPLE_RATE, at most so many, and gives their number. */
size_t microphone_read(int16_t *samples, size_t most);

/* Yours: a word was heard. */
void word_heard(const spotter_detection *detection, void *context);

int main(void) {
  static spotter word;
  static int16_t samples[MODEL_HOP_SAMPLES];
  if (spotter_start(&word) != 0) return 1;
  for (;;) {
    size_t count = microphone_read(samples, MODEL_HOP_SAMPLES);
    spotter_hear(&word, samples, count, word_heard, NULL);
  }
}
