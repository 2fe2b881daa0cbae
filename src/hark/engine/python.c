/* The engine as a Python module: models, streams, and sound through the buffer protocol.
 *
 * Of the stable ABI alone, so that one build serves all versions from 3.11 on. The GIL is released while the engine
 * works; a stream that another thread steps at that moment refuses. runtime.py is what users see of it. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>
#include <string.h>

#include "hark.h"
#include "variants.h"

static PyObject *numpy_empty, *float32, *usage_error;

/* ---- memory ---- */

/* Memory aligned as the engine wants it; the allocation itself is kept in front of it. */
static void *aligned_memory(size_t bytes) {
  enum { ALIGNMENT = 64 }; /* a cache line, and no less than HARK_ALIGNMENT */
  char *whole = bytes > PY_SSIZE_T_MAX - 2 * ALIGNMENT ? NULL : malloc(bytes + 2 * ALIGNMENT);
  if (!whole) return NULL;
  char *aligned = whole + ALIGNMENT + (ALIGNMENT - (uintptr_t)whole % ALIGNMENT) % ALIGNMENT;
  memcpy(aligned - sizeof whole, &whole, sizeof whole);
  return aligned;
}

static void free_aligned(void *aligned) {
  char *whole;
  if (!aligned) return;
  memcpy(&whole, (char *)aligned - sizeof whole, sizeof whole);
  free(whole);
}

/* ---- models ---- */

/* A model as one variant of the engine has arranged it. */
typedef struct {
  const hark_variant *engine;
  hark_model model;
  void *memory;  /* null until it is prepared */
  void *scratch; /* of a call that has ended, for the next; the GIL guards it */
} build;

typedef struct {
  PyObject_HEAD PyObject *file; /* bytes, which the builds refer to */
  build one;                    /* for single streams: vectors no wider than what one stream fills */
  build many;                   /* for streams side by side: the widest vectors there are */
} Model;

static int open_build(build *b, PyObject *file) {
  return b->engine->open(&b->model, PyBytes_AsString(file), (size_t)PyBytes_Size(file));
}

/* Arranges the model when it is first needed. Returns 0 without memory. */
static int prepare(build *b, PyObject *file) {
  if (b->memory) return 1;
  if (b->model.layer_count == 0) open_build(b, file); /* no error: another variant has opened it */
  b->memory = aligned_memory(b->engine->memory_bytes(&b->model));
  if (b->memory) b->engine->prepare(&b->model, b->memory);
  return b->memory != NULL;
}

/* The builds of the engine that this machine can run, the widest vectors last. */
typedef struct {
  const char *name;
  const hark_variant *engine;
} named_variant;

enum { BASELINE = 1, AVX2 = 2, MOST_VARIANTS = 4 };

static int find_variants(named_variant variants[MOST_VARIANTS]) {
  int count = 0;
  variants[count++] = (named_variant){"scalar", &hark_scalar}; /* as on a device without vectors */
  variants[count++] = (named_variant){"baseline", &hark_baseline};
#ifdef HARK_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) variants[count++] = (named_variant){"avx2", &hark_avx2};
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    variants[count++] = (named_variant){"avx512", &hark_avx512};
#endif
  return count;
}

/* The variants for a single stream, whose few frames fill no wider vectors than AVX2's, and for many; or one by name.
 */
static int choose_variants(const char *name, const hark_variant **one, const hark_variant **many) {
  named_variant variants[MOST_VARIANTS];
  int count = find_variants(variants);
  *one = variants[count > AVX2 ? AVX2 : BASELINE].engine;
  *many = variants[count - 1].engine;
  if (!name) return 1;
  for (int i = 0; i < count; i++) {
    if (strcmp(variants[i].name, name) != 0) continue;
    *one = *many = variants[i].engine;
    return 1;
  }
  PyErr_Format(usage_error, "no variant '%s' of the engine here, expected one of hark._engine.VARIANTS", name);
  return 0;
}

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  static char *names[] = {"file", "variant", NULL};
  PyObject *file;
  const char *variant = NULL;
  const hark_variant *one, *many;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "S|z:Model", names, &file, &variant)) return NULL;
  if (!choose_variants(variant, &one, &many)) return NULL;
  allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
  Model *self = (Model *)allocate(type, 0);
  if (!self) return NULL;
  Py_INCREF(file);
  self->file = file;
  self->one.engine = one;
  self->many.engine = many;
  int error = open_build(&self->one, file);
  if (error == HARK_OK) return (PyObject *)self;
  PyErr_SetObject(PyExc_ValueError, PyLong_FromLong(error));
  Py_DECREF((PyObject *)self);
  return NULL;
}

static void model_dealloc(PyObject *object) {
  Model *self = (Model *)object;
  PyTypeObject *type = Py_TYPE(object);
  freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
  for (int i = 0; i < 2; i++) {
    build *b = i == 0 ? &self->one : &self->many;
    free_aligned(b->memory);
    free_aligned(b->scratch);
  }
  Py_XDECREF(self->file);
  release(object);
  Py_DECREF(type);
}

static PyObject *model_labels(const build *b, size_t classes) {
  PyObject *labels = PyTuple_New((Py_ssize_t)classes);
  for (size_t i = 0; labels && i < classes; i++) {
    size_t bytes;
    const char *text = b->engine->label(&b->model, i, &bytes);
    PyObject *label = PyUnicode_DecodeUTF8(text, (Py_ssize_t)bytes, NULL);
    if (!label || PyTuple_SetItem(labels, (Py_ssize_t)i, label) < 0) Py_CLEAR(labels);
  }
  return labels;
}

static PyObject *model_describe(PyObject *self, PyObject *unused) {
  (void)unused;
  const build *b = &((Model *)self)->one;
  hark_description d;
  b->engine->describe(&b->model, &d);
  return Py_BuildValue("{s:I,s:I,s:I,s:N,s:O,s:I,s:d,s:I,s:n}", "sample_rate", d.sample_rate, "step_samples",
                       d.step_samples, "first_step_samples", d.first_step_samples, "labels",
                       model_labels(b, d.classes), "is_integer", d.is_integer ? Py_True : Py_False, "smoothing_steps",
                       d.smoothing_steps, "threshold", (double)d.threshold, "refractory_ms", d.refractory_ms,
                       "state_bytes", (Py_ssize_t)b->engine->state_bytes(&b->model));
}

/* Apart from describe, for it checks the file once more. */
static PyObject *model_describe_device(PyObject *self, PyObject *unused) {
  (void)unused;
  build device = {&hark_scalar, {0}, NULL, NULL};
  open_build(&device, ((Model *)self)->file); /* no error: another variant has opened it */
  return Py_BuildValue("{s:n,s:n}", "state_bytes", (Py_ssize_t)hark_scalar.state_bytes(&device.model), "scratch_bytes",
                       (Py_ssize_t)hark_scalar.scratch_bytes(&device.model));
}

/* ---- streams ---- */

typedef struct {
  PyObject_HEAD Model *model;
  build *build;
  Py_ssize_t count;
  Py_ssize_t classes;
  int is_single; /* sound and results then have no axis for the streams */
  int is_busy;   /* a thread steps it without the GIL */
  char *states;
} Streams;

static PyTypeObject *stream_type, *streams_type;

static Streams *new_streams(PyTypeObject *type, Model *model, Py_ssize_t count) {
  allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
  Streams *self = (Streams *)allocate(type, 0);
  if (!self) return NULL;
  Py_INCREF((PyObject *)model);
  self->model = model;
  self->is_single = type == stream_type;
  self->build = self->is_single ? &model->one : &model->many;
  self->count = count;
  if (prepare(self->build, model->file)) {
    size_t bytes = self->build->engine->state_bytes(&self->build->model);
    hark_description d;
    self->build->engine->describe(&self->build->model, &d);
    self->classes = (Py_ssize_t)d.classes;
    if ((size_t)count <= PY_SSIZE_T_MAX / bytes) self->states = aligned_memory((size_t)count * bytes);
  }
  if (self->states) return self;
  Py_DECREF((PyObject *)self);
  PyErr_NoMemory();
  return NULL;
}

static void reset_all(Streams *self) {
  const hark_variant *engine = self->build->engine;
  size_t bytes = engine->state_bytes(&self->build->model);
  for (Py_ssize_t i = 0; i < self->count; i++) engine->reset(&self->build->model, self->states + (size_t)i * bytes);
}

static PyObject *model_stream(PyObject *self, PyObject *unused) {
  (void)unused;
  Streams *stream = new_streams(stream_type, (Model *)self, 1);
  if (stream) reset_all(stream);
  return (PyObject *)stream;
}

static PyObject *model_streams(PyObject *self, PyObject *number) {
  Py_ssize_t count = PyLong_AsSsize_t(number);
  if (count == -1 && PyErr_Occurred()) return NULL;
  if (count < 1) return PyErr_Format(usage_error, "%zd streams, expected 1 or more", count);
  Streams *streams = new_streams(streams_type, (Model *)self, count);
  if (streams) reset_all(streams);
  return (PyObject *)streams;
}

static void streams_dealloc(PyObject *object) {
  Streams *self = (Streams *)object;
  PyTypeObject *type = Py_TYPE(object);
  freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
  free_aligned(self->states);
  Py_XDECREF((PyObject *)self->model);
  release(object);
  Py_DECREF(type);
}

static int refuse_busy(const Streams *self) {
  if (self->is_busy)
    PyErr_SetString(usage_error, "another thread steps this stream; give each thread a stream of its own");
  return self->is_busy;
}

/* Whether a buffer's format is that of an int16 ('h') or a float32 ('f') of this machine. */
static int has_format(const Py_buffer *view, char kind, Py_ssize_t size) {
  const char *format = view->format ? view->format : "B";
  if (*format == '@' || *format == '=' || *format == (PY_LITTLE_ENDIAN ? '<' : '>')) format++;
  return format[0] == kind && format[1] == 0 && view->itemsize == size;
}

/* The sound in a Python object, whose buffer `view` then holds. */
static int get_sound(const Streams *self, PyObject *object, Py_buffer *view, hark_sound *sound) {
  if (!PyObject_CheckBuffer(object) || PyObject_GetBuffer(object, view, PyBUF_FORMAT | PyBUF_ND) < 0) {
    PyErr_Clear();
    PyErr_Format(usage_error, "sound as %R, expected one contiguous array; numpy.ascontiguousarray makes it one",
                 Py_TYPE(object));
    return 0;
  }
  int dimensions = self->is_single ? 1 : 2;
  int is_int16 = has_format(view, 'h', 2), is_float32 = has_format(view, 'f', 4);
  if (!is_int16 && !is_float32) {
    PyErr_Format(usage_error, "sound of type '%s', expected int16, or float32 in -1 to 1; convert it with .astype",
                 view->format ? view->format : "B");
  } else if (view->ndim != dimensions) {
    PyErr_Format(usage_error, "sound of %d dimensions, expected %s", view->ndim,
                 self->is_single ? "(samples,)" : "(streams, samples)");
  } else if (!self->is_single && view->shape[0] != self->count) {
    PyErr_Format(usage_error, "sound for %zd streams, expected it for %zd", view->shape[0], self->count);
  } else {
    sound->int16 = is_int16 ? view->buf : NULL;
    sound->float32 = is_float32 ? view->buf : NULL;
    sound->count = (size_t)view->shape[dimensions - 1];
    return 1;
  }
  PyBuffer_Release(view);
  return 0;
}

/* A new float32 array for the results of `steps` steps, and where its numbers are. */
static PyObject *new_results(const Streams *self, Py_ssize_t steps, float **numbers) {
  Py_buffer view;
  PyObject *array = self->is_single
                        ? PyObject_CallFunction(numpy_empty, "((nn)O)", steps, self->classes, float32)
                        : PyObject_CallFunction(numpy_empty, "((nnn)O)", self->count, steps, self->classes, float32);
  if (!array) return NULL;
  if (PyObject_GetBuffer(array, &view, PyBUF_WRITABLE) < 0) {
    Py_DECREF(array);
    return NULL;
  }
  *numbers = view.buf; /* stays where it is, for nobody else knows the array */
  PyBuffer_Release(&view);
  return array;
}

/* Steps the streams with the GIL released. Returns 0 without memory. */
static int run(Streams *self, hark_sound sound, float *logits, float *posteriors) {
  build *b = self->build;
  void *scratch = b->scratch ? b->scratch : aligned_memory(b->engine->scratch_bytes(&b->model));
  if (!scratch) return 0;
  b->scratch = NULL;
  self->is_busy = 1;
  Py_BEGIN_ALLOW_THREADS b->engine->step_many(&b->model, (size_t)self->count, self->states, scratch, sound, logits,
                                              posteriors);
  Py_END_ALLOW_THREADS self->is_busy = 0;
  if (b->scratch) free_aligned(scratch);
  else b->scratch = scratch;
  return 1;
}

static PyObject *step(Streams *self, PyObject *object, int wants_logits) {
  Py_buffer view;
  hark_sound sound;
  float *numbers = NULL;
  if (refuse_busy(self) || !get_sound(self, object, &view, &sound)) return NULL;
  size_t steps = self->build->engine->steps(&self->build->model, self->states, sound.count);
  PyObject *results = new_results(self, (Py_ssize_t)steps, &numbers);
  if (results && !run(self, sound, wants_logits ? numbers : NULL, wants_logits ? NULL : numbers)) {
    Py_CLEAR(results);
    PyErr_NoMemory();
  }
  PyBuffer_Release(&view);
  return results;
}

static PyObject *streams_step(PyObject *self, PyObject *sound) { return step((Streams *)self, sound, 0); }

static PyObject *streams_step_logits(PyObject *self, PyObject *sound) { return step((Streams *)self, sound, 1); }

static PyObject *streams_reset(PyObject *object, PyObject *unused) {
  (void)unused;
  if (refuse_busy((Streams *)object)) return NULL;
  reset_all((Streams *)object);
  Py_RETURN_NONE;
}

static PyObject *streams_copy(PyObject *object, PyObject *unused) {
  (void)unused;
  Streams *self = (Streams *)object;
  if (refuse_busy(self)) return NULL;
  Streams *copy = new_streams(Py_TYPE(object), self->model, self->count);
  size_t bytes = self->build->engine->state_bytes(&self->build->model);
  if (copy) memcpy(copy->states, self->states, (size_t)self->count * bytes);
  return (PyObject *)copy;
}

static PyObject *streams_replaced_samples(PyObject *object, void *unused) {
  (void)unused;
  Streams *self = (Streams *)object;
  const hark_variant *engine = self->build->engine;
  size_t bytes = engine->state_bytes(&self->build->model);
  unsigned long long total = 0;
  for (Py_ssize_t i = 0; i < self->count; i++) total += engine->replaced_samples(self->states + (size_t)i * bytes);
  return PyLong_FromUnsignedLongLong(total);
}

/* ---- the module ---- */

static PyMethodDef model_methods[] = {
    {"describe", model_describe, METH_NOARGS, NULL},
    {"describe_device", model_describe_device, METH_NOARGS, NULL},
    {"stream", model_stream, METH_NOARGS, NULL},
    {"streams", model_streams, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef streams_methods[] = {
    {"step", streams_step, METH_O, "Hears more sound; gives the posteriors of the steps that it completes."},
    {"step_logits", streams_step_logits, METH_O, "As step, but gives the logits."},
    {"reset", streams_reset, METH_NOARGS, "Begins anew, as if nothing had been heard."},
    {"copy", streams_copy, METH_NOARGS, "The same stream once more, to go on otherwise."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef streams_attributes[] = {
    {"replaced_samples", streams_replaced_samples, NULL, "Samples so far that were no numbers, and counted as 0.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot model_slots[] = {
    {Py_tp_new, model_new},
    {Py_tp_dealloc, model_dealloc},
    {Py_tp_methods, model_methods},
    {0, NULL},
};

static PyType_Slot streams_slots[] = {
    {Py_tp_dealloc, streams_dealloc},
    {Py_tp_methods, streams_methods},
    {Py_tp_getset, streams_attributes},
    {0, NULL},
};

enum { STREAM_FLAGS = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE };

static PyType_Spec model_spec = {"hark._engine.Model", sizeof(Model), 0, Py_TPFLAGS_DEFAULT, model_slots};
static PyType_Spec stream_spec = {"hark._engine.Stream", sizeof(Streams), 0, STREAM_FLAGS, streams_slots};
static PyType_Spec streams_spec = {"hark._engine.Streams", sizeof(Streams), 0, STREAM_FLAGS, streams_slots};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "hark._engine", NULL, -1, NULL, NULL, NULL, NULL, NULL};

static PyObject *attribute_of(const char *module_name, const char *name) {
  PyObject *module = PyImport_ImportModule(module_name);
  PyObject *attribute = module ? PyObject_GetAttrString(module, name) : NULL;
  Py_XDECREF(module);
  return attribute;
}

static int add_variants(PyObject *module) {
  named_variant variants[MOST_VARIANTS];
  int count = find_variants(variants);
  PyObject *names = PyTuple_New(count);
  for (int i = 0; names && i < count; i++) PyTuple_SetItem(names, i, PyUnicode_FromString(variants[i].name));
  int is_added = names && PyModule_AddObjectRef(module, "VARIANTS", names) == 0;
  Py_XDECREF(names);
  return is_added;
}

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type) {
  *type = (PyTypeObject *)PyType_FromSpec(spec);
  return *type && PyModule_AddType(module, *type) == 0;
}

PyMODINIT_FUNC PyInit__engine(void) {
  static PyTypeObject *model_type;
  numpy_empty = attribute_of("numpy", "empty");
  float32 = attribute_of("numpy", "float32");
  usage_error = attribute_of("hark.errors", "UsageError");
  PyObject *module = PyModule_Create(&module_definition);
  int is_complete = numpy_empty && float32 && usage_error && module && add_variants(module) &&
                    add_type(module, &model_spec, &model_type) && add_type(module, &stream_spec, &stream_type) &&
                    add_type(module, &streams_spec, &streams_type);
  if (!is_complete) Py_CLEAR(module);
  return module;
}
