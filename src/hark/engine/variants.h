/* Several builds of the engine in one library: its functions, as a table for each. */

typedef struct {
  int (*open)(hark_model *model, const void *file, size_t bytes);
  size_t (*memory_bytes)(const hark_model *model);
  void (*prepare)(hark_model *model, void *memory);
  size_t (*state_bytes)(const hark_model *model);
  size_t (*scratch_bytes)(const hark_model *model);
  void (*reset)(const hark_model *model, void *state);
  size_t (*steps)(const hark_model *model, const void *state, size_t count);
  long (*step)(const hark_model *model, void *state, void *scratch, hark_sound sound, float *logits,
               float *posteriors);
  long (*step_many)(const hark_model *model, size_t streams, void *states, void *scratch, hark_sound sound,
                    float *logits, float *posteriors);
  uint32_t (*replaced_samples)(const void *state);
  void (*describe)(const hark_model *model, hark_description *description);
  const char *(*label)(const hark_model *model, size_t class_index, size_t *bytes);
} hark_variant;

extern const hark_variant hark_scalar, hark_baseline;
#ifdef HARK_X86
extern const hark_variant hark_avx2, hark_avx512;
#endif
