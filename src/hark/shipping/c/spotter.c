#include "spotter.h"

#include "engine/hark.c"

int spotter_start(spotter *s) {
  hark_description about;
  int error = hark_open(&s->model, model_file.bytes, sizeof model_file.bytes);
  if (error != HARK_OK) return error;
  if (hark_memory_bytes(&s->model) > 0) return SPOTTER_NO_ROOM;
  if (hark_state_bytes(&s->model) > sizeof s->state.bytes) return SPOTTER_NO_ROOM;
  if (hark_scratch_bytes(&s->model) > sizeof s->scratch.bytes) return SPOTTER_NO_ROOM;
  hark_describe(&s->model, &about);
  if (about.classes > MODEL_CLASSES || about.smoothing_steps > SPOTTER_MOST_SMOOTHING) return SPOTTER_NO_ROOM;
  s->point.threshold = about.threshold;
  s->point.refractory_s = about.refractory_ms / 1000.0;
  s->point.smoothing_steps = about.smoothing_steps;
  s->step_samples = about.step_samples;
  s->first_step_samples = about.first_step_samples;
  spotter_reset(s);
  return HARK_OK;
}

void spotter_reset(spotter *s) {
  hark_reset(&s->model, s->state.bytes);
  s->steps = 0;
  memset(s->words, 0, sizeof s->words);
}

/* The nearest whole number, of two that are equally near the even one. */
static uint64_t whole_samples(double x) {
  uint64_t whole = (uint64_t)x;
  double rest = x - (double)whole;
  return whole + (rest > 0.5 || (rest == 0.5 && whole % 2 == 1));
}

/* The mean of the last posteriors, or of as many as there were since the stream began, added from the oldest on. */
static double smoothed(const spotter_word *word, uint64_t step, uint32_t window) {
  uint32_t filled = step < window ? (uint32_t)step + 1 : window;
  double total = 0;
  for (uint32_t i = filled; i-- > 0;) total += word->recent[(step - i) % window];
  return total / filled;
}

/* A posterior that completes step s->steps. */
static void hear_posterior(spotter *s, size_t class_index, spotter_listener *tell, void *context) {
  spotter_word *word = &s->words[class_index];
  spotter_detection found;
  float posterior = s->posteriors[class_index];
  int was_above = word->is_above;
  found.label = hark_label(&s->model, class_index, &found.label_bytes);
  if (found.label_bytes == 0) return; /* the class of everything else */
  word->recent[s->steps % s->point.smoothing_steps] = posterior - posterior == 0 ? posterior : 0;
  found.score = smoothed(word, s->steps, s->point.smoothing_steps);
  word->is_above = found.score >= s->point.threshold;
  found.sample = s->first_step_samples + s->steps * s->step_samples;
  if (!word->is_above || was_above || found.sample < word->ready_at_sample) return;
  word->ready_at_sample = found.sample + whole_samples(s->point.refractory_s * MODEL_SAMPLE_RATE);
  tell(&found, context);
}

void spotter_hear(spotter *s, const int16_t *samples, size_t count, spotter_listener *tell, void *context) {
  while (count > 0) {
    hark_sound sound = {samples, count < MODEL_HOP_SAMPLES ? count : MODEL_HOP_SAMPLES}; /* one step at most */
    long steps = hark_step(&s->model, s->state.bytes, s->scratch.bytes, sound, NULL, s->posteriors);
    if (steps > 0) {
      for (size_t i = 0; i < MODEL_CLASSES && s->point.smoothing_steps > 0; i++) hear_posterior(s, i, tell, context);
      s->steps++;
    }
    samples += sound.count;
    count -= sound.count;
  }
}
