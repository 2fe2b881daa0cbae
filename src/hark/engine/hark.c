/* The whole engine, as one unit: hark.h says what it does. */

#include "hark.h"

#include <float.h>

#if __STDC_HOSTED__
#include <string.h>
#else
void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
void *memset(void *to, int byte, size_t bytes);
#endif

#if FLT_EVAL_METHOD != 0
#error "each float32 operation must be rounded once: on 32-bit x86, compile with -msse2 -mfpmath=sse"
#endif
#ifdef __FAST_MATH__
#error "-ffast-math changes the bits of every result"
#endif

#include "lanes.h"
#include "memory.h"
#include "tables.h"
#include "fft.h"
#include "front_end.h"
#include "constants.h"
#include "sound.h"
#include "reader.h"
#include "format.h"
#include "arithmetic.h"
#include "matrix.h"
#include "affine.h"
#include "cell_bias.h"
#include "window.h"
#include "convolution.h"
#include "attention.h"
#include "network.h"
#include "float_layers.h"
#include "integer_layers.h"

/* The memory of a call: the streams' log-mels, and what front end and network need one after the other. */
typedef struct {
  float *frames; /* (streams, FRAMES_AT_ONCE, frame_pitch) */
  frame_queue queue;
  network_scratch network;
  float *logits; /* (streams, padded classes) */
} call_scratch;

static call_scratch scratch_pieces(const hark_model *model, pieces *p) {
  const hark_front_end *f = &model->front_end;
  call_scratch c;
  pieces queue = *p, network = *p;
  c.frames = piece(p, STREAMS_AT_ONCE * FRAMES_AT_ONCE * frame_pitch(f) * sizeof *c.frames);
  network.used = p->used;
  /* A frame alone lies where its bins were. */
  if (FRAMES_AT_ONCE > 1) queue.used = p->used;
  c.queue = frame_queue_pieces(f, &queue);
  c.network = network_pieces(model, &network);
  c.logits = piece(&network, STREAMS_AT_ONCE * padded(model->classes) * sizeof *c.logits);
  p->used = larger_size(queue.used, network.used);
  return c;
}

/* Computes the front end's constants and arranges the weights; without memory it only counts. */
static void arrange(hark_model *model, pieces *memory) {
  (void)memory;
  hark_front_end *f = &model->front_end;
  if (!find_rom(f)) {
#ifndef HARK_ROM_FRONT_END_ONLY
    float *floats = piece(memory, count_constants(f) * sizeof *floats);
    uint16_t *indices = piece(memory, count_indices(f) * sizeof *indices);
    if (floats) fill_constants(f, floats, indices);
#endif
  }
#if HARK_LANES > 1
  for (int i = 0; i < model->layer_count; i++) {
    hark_layer *layer = &model->layers[i];
    if (layer->kind == AFFINE) prepare_affine(model, layer, memory);
    else if (is_convolution(layer)) prepare_convolution(model, layer, memory);
    else {
      if (layer->bias) prepare_cell_bias(model, layer, memory);
      if (layer->first.inputs) prepare_matrix(model, &layer->first, memory);
      if (layer->second.inputs) prepare_matrix(model, &layer->second, memory);
    }
  }
#endif
}

HARK_API int hark_open(hark_model *model, const void *file, size_t bytes) {
  int error = read_file(model, file, bytes);
  if (error != HARK_OK) return error;
  model->front_end.passes = (uint8_t)find_radices(model->front_end.n_fft, model->front_end.radices);
  if (model->front_end.passes == 0) return HARK_NO_SUCH_FFT;
#ifdef HARK_ROM_FRONT_END_ONLY
  if (!find_rom(&model->front_end)) return HARK_NO_SUCH_FFT;
#endif
  lay_out(model);
  pieces memory = {NULL, 0}, scratch = {NULL, 0};
  arrange(model, &memory);
  scratch_pieces(model, &scratch);
  model->memory_bytes = (uint32_t)memory.used;
  model->scratch_bytes = (uint32_t)scratch.used;
  return HARK_OK;
}

HARK_API size_t hark_memory_bytes(const hark_model *model) { return model->memory_bytes; }

HARK_API void hark_prepare(hark_model *model, void *memory) {
  pieces all = {memory, 0};
  if (memory) arrange(model, &all);
}

HARK_API size_t hark_state_bytes(const hark_model *model) { return model->state_bytes; }

HARK_API size_t hark_scratch_bytes(const hark_model *model) { return model->scratch_bytes; }

HARK_API void hark_reset(const hark_model *model, void *state) {
  memset(state, 0, model->state_bytes);
  sound_of(state)->filled = (uint32_t)(model->front_end.n_fft - model->front_end.hop_length);
}

/* Frames that come out of a window of `size` frames every `hop` when `count` go in. */
static size_t windows_in(size_t count, size_t size, size_t hop) {
  return count < size ? 0 : (count - size) / hop + 1;
}

HARK_API size_t hark_steps(const hark_model *model, const void *state, size_t count) {
  const hark_front_end *f = &model->front_end;
  count = windows_in(sound_of(state)->filled + count, f->n_fft, f->hop_length);
  for (int i = 0; i < model->layer_count; i++) {
    const hark_layer *layer = &model->layers[i];
    if (!is_window(layer)) continue;
    size_t kept = *frames_kept((const uint8_t *)state + layer->state);
    count = windows_in(kept + count, layer->kernel_frames, layer->stride_frames);
  }
  return count;
}

HARK_API uint32_t hark_replaced_samples(const void *state) { return sound_of(state)->replaced; }

/* Whether all streams have heard chunks of the same lengths, up to whole steps. */
static int are_in_step(const hark_model *model, size_t streams, const uint8_t *states) {
  for (size_t s = 1; s < streams; s++) {
    const uint8_t *state = states + s * model->state_bytes;
    if (sound_of(state)->filled != sound_of(states)->filled) return 0;
    for (int i = 0; i < model->layer_count; i++) {
      const hark_layer *layer = &model->layers[i];
      if (!is_window(layer)) continue;
      if (*frames_kept(state + layer->state) != *frames_kept(states + layer->state)) return 0;
    }
  }
  return 1;
}

/* Where results go: (streams, pitch, classes) each, or nowhere. */
typedef struct {
  float *logits, *posteriors;
  size_t pitch;
} outputs;

static void put_step(const hark_model *model, const call_scratch *c, const outputs *to, size_t stream, size_t step,
                     const float *logits) {
  size_t place = (stream * to->pitch + step) * model->classes;
  if (to->logits) memcpy(to->logits + place, logits, model->classes * sizeof *logits);
  if (to->posteriors) posteriors_f32(model->classes, logits, c->network.sums[0], to->posteriors + place);
}

/* Whether the frames that `count` more samples complete are too few for the lanes, and no step needs them yet. */
static int can_wait(const hark_model *model, const void *state, size_t count, size_t frames) {
  return frames > 0 && frames < FRAMES_AT_ONCE && hark_steps(model, state, count) == 0;
}

/* Streams `first` on, no more than STREAMS_AT_ONCE. */
static long step_group(const hark_model *model, call_scratch *c, size_t first, size_t streams, uint8_t *states,
                       hark_sound sound, const outputs *to) {
  const hark_front_end *f = &model->front_end;
  size_t pitch = frame_pitch(f), stream_frames = FRAMES_AT_ONCE * pitch, done = 0, steps = 0;
  f32_rows logits = {c->logits, padded(model->classes)};
  while (done < sound.count) {
    size_t filled = sound_of(states)->filled, room = sound_capacity(f) - filled;
    size_t count = sound.count - done < room ? sound.count - done : room;
    size_t frames = windows_in(filled + count, f->n_fft, f->hop_length);
    if (can_wait(model, states, count, frames)) {
      for (size_t s = 0; s < streams; s++)
        keep(sound_of(states + s * model->state_bytes), sound, (first + s) * sound.count + done, count);
      break; /* there was room for all */
    }
    for (size_t s = 0; s < streams; s++)
      hear(f, &c->queue, sound_of(states + s * model->state_bytes), sound, (first + s) * sound.count + done, count,
           c->frames + s * stream_frames);
    flush_frames(f, &c->queue);
    for (size_t frame = 0; frame < frames; frame++) {
      f32_rows features = {c->frames + frame * pitch, stream_frames};
      int is_step = model->is_integer ? network_i16(model, &c->network, streams, states, features, logits)
                                      : network_f32(model, &c->network, streams, states, features, logits);
      if (!is_step) continue;
      for (size_t s = 0; s < streams; s++) put_step(model, c, to, first + s, steps, logits.values + s * logits.pitch);
      steps++;
    }
    done += count;
  }
  return (long)steps;
}

HARK_API long hark_step_many(const hark_model *model, size_t streams, void *states, void *scratch, hark_sound sound,
                             float *logits, float *posteriors) {
  if (!are_in_step(model, streams, states)) return HARK_OUT_OF_STEP;
  pieces memory = {scratch, 0};
  call_scratch c = scratch_pieces(model, &memory);
  outputs to = {logits, posteriors, streams > 1 ? hark_steps(model, states, sound.count) : 0};
  long steps = 0;
  for (size_t first = 0; first < streams; first += STREAMS_AT_ONCE) {
    size_t group = streams - first < STREAMS_AT_ONCE ? streams - first : STREAMS_AT_ONCE;
    steps = step_group(model, &c, first, group, (uint8_t *)states + first * model->state_bytes, sound, &to);
  }
  return steps;
}

HARK_API long hark_step(const hark_model *model, void *state, void *scratch, hark_sound sound, float *logits,
                        float *posteriors) {
  return hark_step_many(model, 1, state, scratch, sound, logits, posteriors);
}

HARK_API void hark_describe(const hark_model *model, hark_description *description) {
  const hark_front_end *f = &model->front_end;
  description->sample_rate = f->sample_rate;
  description->step_samples = model->step_frames * f->hop_length;
  description->first_step_samples = model->first_step_frames * f->hop_length;
  description->classes = model->classes;
  description->is_integer = model->is_integer;
  description->smoothing_steps = model->smoothing_steps;
  description->threshold = model->threshold;
  description->refractory_ms = model->refractory_ms;
}

HARK_API const char *hark_label(const hark_model *model, size_t class_index, size_t *bytes) {
  const uint8_t *label = model->labels;
  for (size_t i = 0; i < class_index; i++) label += 1 + *label;
  *bytes = *label;
  return (const char *)(label + 1);
}
