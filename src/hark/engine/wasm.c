/* The engine as a WebAssembly module: one model, any number of streams, flat arguments for JavaScript.
 *
 * shipping/wasm_page.py compiles it, shipping/web/hark.js is its other end.
 *
 * JavaScript copies the file and each chunk into memory from reserve(), and reads results there. Nothing is given
 * back: a page that needs another model makes another instance. */

#include "hark.c"

#define EXPORT(name) __attribute__((export_name(name)))

enum { PAGE = 65536, ALIGNMENT = 64 };

extern unsigned char __heap_base;
static size_t heap_end; /* 0 before the first reserve */
static hark_model the_model;
static void *scratch;

void *memcpy(void *restrict to, const void *restrict from, size_t bytes) { return __builtin_memcpy(to, from, bytes); }

void *memmove(void *to, const void *from, size_t bytes) { return __builtin_memmove(to, from, bytes); }

void *memset(void *to, int byte, size_t bytes) { return __builtin_memset(to, byte, bytes); }

/* Memory that nobody else has, or null. */
EXPORT("reserve") void *reserve(size_t bytes) {
  if (heap_end == 0) heap_end = ((size_t)&__heap_base + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  size_t begin = heap_end, end = begin + (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  size_t pages = (end + PAGE - 1) / PAGE, there = __builtin_wasm_memory_size(0);
  if (end < begin || (pages > there && __builtin_wasm_memory_grow(0, pages - there) == (size_t)-1)) return NULL;
  heap_end = end;
  return (void *)begin;
}

/* Opens the file at `file`, which must stay there; 0, an error of hark.h, or 1 without memory. */
EXPORT("open") int open(const void *file, size_t bytes) {
  int error = hark_open(&the_model, file, bytes);
  if (error != HARK_OK) return error;
  void *memory = reserve(hark_memory_bytes(&the_model));
  scratch = reserve(hark_scratch_bytes(&the_model));
  if (!memory || !scratch) return 1;
  hark_prepare(&the_model, memory);
  return HARK_OK;
}

/* A stream that has heard nothing, or null. */
EXPORT("stream") void *stream(void) {
  void *state = reserve(hark_state_bytes(&the_model));
  if (state) hark_reset(&the_model, state);
  return state;
}

EXPORT("reset") void reset(void *state) { hark_reset(&the_model, state); }

/* Hears `count` more float32 samples; gives the steps they complete, as logits or posteriors (steps, classes). */
EXPORT("step") long step(void *state, const float *samples, size_t count, float *logits, float *posteriors) {
  hark_sound sound = {NULL, samples, count};
  return hark_step(&the_model, state, scratch, sound, logits, posteriors);
}

EXPORT("steps") size_t steps(const void *state, size_t count) { return hark_steps(&the_model, state, count); }

/* Where the model is described: hark_description, eight 32-bit numbers. */
EXPORT("describe") const hark_description *describe(void) {
  static hark_description description;
  hark_describe(&the_model, &description);
  return &description;
}

/* Where the label of a class is; its length goes to `bytes`. */
EXPORT("label") const char *label(size_t class_index, size_t *bytes) {
  return hark_label(&the_model, class_index, bytes);
}
