/* Hears the words of model.c in a stream of sound: the engine, and behind it the law by which posteriors become
 * detections. It allocates nothing; a spotter is one stream, all of its memory included.
 *
 *     static spotter word;
 *     int error = spotter_start(&word);
 *     spotter_hear(&word, samples, count, heard, context);    any number of samples; calls heard() for each detection
 *
 * Compile spotter.c and model.c with -std=c99 -ffp-contract=off, and never with -ffast-math. */
#ifndef SPOTTER_H
#define SPOTTER_H

#include "model.h"
#include "engine/hark.h"

/* Steps that a score can be averaged over; each takes 4 bytes for each class. */
#ifndef SPOTTER_MOST_SMOOTHING
#define SPOTTER_MOST_SMOOTHING MODEL_SMOOTHING_STEPS
#endif

enum { SPOTTER_NO_ROOM = 1 }; /* the engine was compiled with other switches than those in model.h */

/* When posteriors become a detection. */
typedef struct {
  double threshold;         /* a score that reaches it counts */
  double refractory_s;      /* after a detection, for that long there is no other of the same word */
  uint32_t smoothing_steps; /* the score is the mean of that many last posteriors; 0: nothing is detected */
} spotter_point;

typedef struct {
  double score;
  uint64_t sample;      /* of the stream, when the score reached the threshold; MODEL_SAMPLE_RATE of them are a second */
  const char *label;    /* UTF-8, without an end mark */
  size_t label_bytes;
} spotter_detection;

typedef void spotter_listener(const spotter_detection *detection, void *context);

typedef struct {
  uint64_t ready_at_sample; /* the refractory time is over */
  float recent[SPOTTER_MOST_SMOOTHING]; /* a ring of posteriors */
  uint8_t is_above; /* whether the last score had reached the threshold */
} spotter_word;

typedef struct {
  hark_model model;
  spotter_point point; /* that of the model; a point of one's own may take its place before the stream begins */
  uint64_t steps;      /* made so far */
  uint32_t step_samples, first_step_samples;
  union {
    uint64_t alignment;
    uint8_t bytes[MODEL_STATE_BYTES];
  } state;
  union {
    uint64_t alignment;
    uint8_t bytes[MODEL_SCRATCH_BYTES];
  } scratch;
  float posteriors[MODEL_CLASSES];
  spotter_word words[MODEL_CLASSES];
} spotter;

/* Opens the model and begins a stream; 0, an error of engine/hark.h, or SPOTTER_NO_ROOM. */
int spotter_start(spotter *s);

/* Begins another stream. */
void spotter_reset(spotter *s);

/* Hears the next samples, and tells of the detections in them. */
void spotter_hear(spotter *s, const int16_t *samples, size_t count, spotter_listener *tell, void *context);

#endif
