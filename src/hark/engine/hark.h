/* hark: hears a word in a stream of sound.
 *
 * A model is a .hark file (docs/format.md); this engine runs it from raw samples to posteriors, with the same bits on
 * every platform and for every chunking. It allocates nothing, has no variables of its own, and needs no library but
 * memcpy, memmove and memset: all memory is the caller's. hark.c is the whole engine; compile it with
 * -std=c99 -ffp-contract=off and, for speed, -fno-math-errno -fno-trapping-math, but never with -ffast-math.
 *
 *     hark_model model;
 *     int error = hark_open(&model, file, file_bytes);
 *     hark_prepare(&model, memory);                       hark_memory_bytes(&model) of it
 *     hark_reset(&model, state);                          hark_state_bytes(&model) of it, for each stream
 *     hark_sound sound = {.int16 = samples, .count = 160};
 *     steps = hark_step(&model, state, scratch, sound, logits, posteriors);
 *
 * `scratch` (hark_scratch_bytes(&model)) lives for the call only: streams of one thread can share one. A model is
 * never written to after hark_prepare, so that threads can share it.
 *
 * Switches, all for hark.c: HARK_LANES, numbers in a vector (1, 4, 8 or 16; by default what the target has);
 * HARK_ROM_FRONT_END_ONLY, no front end but the one compiled in, and no float64; HARK_NO_ROM_FRONT_END, the opposite;
 * HARK_STREAMS_AT_ONCE, 1 where there is one stream only. And for all that includes this file: HARK_MOST_LAYERS, and
 * in a build without vectors HARK_INT16_ONLY, by which a stream takes no float32 and keeps its sound in half the
 * room. */
#ifndef HARK_H
#define HARK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef HARK_API
#define HARK_API extern
#endif

/* Layers that a model may have. Each takes some 80 bytes of hark_model; a small device may set what it needs. */
#ifndef HARK_MOST_LAYERS
#define HARK_MOST_LAYERS 32
#endif

enum { HARK_ALIGNMENT = 32 }; /* of memory, states and scratch, in bytes; 8 is enough in a build without vectors */

enum hark_error {
  HARK_OK = 0,
  HARK_NOT_A_MODEL = -1,     /* does not begin with "HARK" */
  HARK_TRUNCATED = -2,       /* ends before the length that it states */
  HARK_DAMAGED = -3,         /* its checksum is not that of its bytes */
  HARK_OTHER_VERSION = -4,   /* written for another engine */
  HARK_UNKNOWN_KIND = -5,    /* of front end, arithmetic, layer, activation or weights */
  HARK_MALFORMED = -6,       /* a number is out of its bounds, or the parts do not fill the length */
  HARK_NO_SUCH_FFT = -7,     /* an n_fft that this build cannot do */
  HARK_TOO_MANY_LAYERS = -8, /* for HARK_MOST_LAYERS */
  HARK_OUT_OF_STEP = -9,     /* streams side by side that have not heard chunks of the same lengths */
};

/* What follows up to hark_model is the engine's own; read a model by hark_describe. */

typedef struct {
  uint32_t sample_rate;
  uint16_t n_fft, hop_length, n_mels;
  uint8_t passes;
  uint8_t radices[8];       /* of the FFT's passes */
  const float *half_window; /* (n_fft) half of a periodic Hann window; the FFT makes up for the half */
  const uint16_t *place;    /* (n_fft / 2) where each pair of samples stands before the first pass */
  const float *turns;       /* for each pass but the first: (length, radix - 1, {cos, sin}) */
  const float *split;       /* (n_fft / 4, {cos, sin}) */
  const uint16_t *corners;  /* (n_mels + 2) the first FFT bin that is not below each corner of the mel bands */
  const float (*bands)[2];  /* (n_fft / 2) weights of a bin in the band that rises there and the one that falls */
} hark_front_end;

typedef struct {
  const void *weights;     /* in the file, or as hark_prepare has arranged them */
  const void *multipliers; /* (rows), or one for all; integers only */
  const void *bias;        /* (rows - bias_row), or null */
  uint32_t inputs;
  uint16_t rows;
  uint16_t bias_row;       /* the first row that has a bias: a GRU's second matrix has one for its last gate */
  uint8_t form;            /* float32, int8 or int4 */
  uint8_t multiplier_step; /* from one row's multiplier to the next one's: 0 where there is one */
  uint8_t shift, bias_shift;
} hark_matrix;

typedef struct {
  hark_matrix first, second; /* an affine's scale and shift are multipliers and bias of the first */
  const void *bias;          /* of a FastGRNN (2, units), whose sums begin with 0 */
  uint32_t state;            /* where its part of a stream's state begins */
  uint16_t channels, bins;   /* of a frame that comes in */
  uint16_t out_channels, out_bins;
  uint16_t kernel_bins, kernel_frames; /* frames: of attention, its window */
  uint16_t stride_bins, stride_frames;
  uint16_t phases, phase_bins, row_values; /* how a window keeps a frame: window.h */
  uint8_t kind, option;                    /* option: of an activation, its function; of an affine, its exponent */
} hark_layer;

typedef struct {
  const uint8_t *file;
  const uint8_t *labels; /* in the file: for each its length, then its bytes */
  hark_front_end front_end;
  hark_layer layers[HARK_MOST_LAYERS];
  uint32_t state_bytes, scratch_bytes, memory_bytes;
  uint32_t step_frames, first_step_frames;
  uint32_t refractory_ms;
  float threshold;
  uint16_t smoothing_steps;
  uint16_t classes;
  uint16_t width, sum_width; /* values of the widest frame between layers, and of sums, with room for whole vectors */
  uint8_t layer_count, is_integer, logit_bits;
} hark_model;

typedef struct {
  uint32_t sample_rate;        /* Hz */
  uint32_t step_samples;       /* of sound between two steps */
  uint32_t first_step_samples; /* of sound before the first */
  uint32_t classes;
  int is_integer;           /* or float32 */
  uint32_t smoothing_steps; /* of the operating point; 0: the file has none */
  float threshold;
  uint32_t refractory_ms;
} hark_description;

/* Samples, contiguous (streams, count): exactly one of the two pointers is set. An int16 is worth x / 32768; a float
 * that is not a number, infinite or beyond +-2^20 is taken for 0 and counted. */
typedef struct {
  const int16_t *int16;
#ifndef HARK_INT16_ONLY
  const float *float32;
#endif
  size_t count;
} hark_sound;

/* Checks a whole file and describes it in `model`, which refers to the file's bytes from then on. Returns HARK_OK or
 * an error; then the model is of no use. */
HARK_API int hark_open(hark_model *model, const void *file, size_t bytes);

/* Memory that hark_prepare needs; 0 on a device without vectors whose front end is compiled in. */
HARK_API size_t hark_memory_bytes(const hark_model *model);

/* Computes the front end's constants and arranges the weights for this machine's vectors. Once for each model. */
HARK_API void hark_prepare(hark_model *model, void *memory);

/* Memory for one stream; in which a stream is all there is to it, and can be copied. */
HARK_API size_t hark_state_bytes(const hark_model *model);

/* Memory that a call to hark_step needs besides; its contents needn't be kept. */
HARK_API size_t hark_scratch_bytes(const hark_model *model);

/* Begins a stream. */
HARK_API void hark_reset(const hark_model *model, void *state);

/* Steps that `count` more samples of a stream will complete: count / step_samples, or one more. */
HARK_API size_t hark_steps(const hark_model *model, const void *state, size_t count);

/* Hears the next samples of a stream and returns how many steps they completed. Either output may be null.
 *
 * logits, posteriors  (hark_steps, classes) */
HARK_API long hark_step(const hark_model *model, void *state, void *scratch, hark_sound sound, float *logits,
                        float *posteriors);

/* The same for streams that have heard chunks of the same lengths, or HARK_OUT_OF_STEP. Their states lie one after the
 * other.
 *
 * logits, posteriors  (streams, hark_steps, classes) */
HARK_API long hark_step_many(const hark_model *model, size_t streams, void *states, void *scratch, hark_sound sound,
                             float *logits, float *posteriors);

/* Samples of a stream that were no numbers so far. */
HARK_API uint32_t hark_replaced_samples(const void *state);

HARK_API void hark_describe(const hark_model *model, hark_description *description);

/* The label of a class, UTF-8 without an end mark, and its length in bytes. The empty one stands for all else. */
HARK_API const char *hark_label(const hark_model *model, size_t class_index, size_t *bytes);

#ifdef __cplusplus
}
#endif

#endif
