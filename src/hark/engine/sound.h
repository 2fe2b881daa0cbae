/* From a stream's samples to its log-mel frames. */

enum { FRAMES_AT_ONCE = HARK_LANES > 1 ? 8 : 1 }; /* of a stream */

/* The head of a stream's state; the layers' parts follow. */
typedef struct {
  uint32_t filled;       /* samples kept, the silence before the stream included */
  uint32_t replaced;     /* samples that were no numbers, up to 2^32 - 1 */
  kept_sample samples[]; /* (kept_samples) */
} sound_state;

static sound_state *sound_of(const void *state) { return (sound_state *)state; }

/* Frames that wait until every lane has one, of whatever streams. */
typedef struct {
  f32_bin *bins;       /* (n_fft / 2), and some that only complete a square */
  kept_sample *sounds; /* (HARK_LANES, sound_pitch) the sound that they lie in, of one stream each */
  const kept_sample *from[HARK_LANES];
  float *to[HARK_LANES];
  size_t waiting, next_sound;
} frame_queue;

/* Samples of a stream that can be transformed at once. */
static size_t sound_capacity(const hark_front_end *f) { return f->n_fft + (FRAMES_AT_ONCE - 1u) * f->hop_length; }

/* Room for them between two calls; a frame is loaded in fours. */
static size_t kept_samples(const hark_front_end *f) { return (sound_capacity(f) + 3u) / 4 * 4; }

/* Floats of a frame of log-mels: whole vectors. */
static size_t frame_pitch(const hark_front_end *f) { return padded(f->n_mels); }

static size_t sound_pitch(const hark_front_end *f) { return padded(sound_capacity(f)) + HARK_LANES; }

static frame_queue frame_queue_pieces(const hark_front_end *f, pieces *p) {
  frame_queue q = {0};
  if (HARK_LANES > 1) q.sounds = piece(p, HARK_LANES * sound_pitch(f) * sizeof *q.sounds);
  q.bins = piece(p, (f->n_fft / 2u + (HARK_LANES > 1 ? HARK_LANES : 0)) * sizeof *q.bins);
  return q;
}

/* Transforms the frames that wait; lanes without one repeat another. */
static void flush_frames(const hark_front_end *f, frame_queue *q) {
  if (q->waiting == 0) return;
  for (size_t lane = q->waiting; lane < HARK_LANES; lane++) {
    q->from[lane] = q->from[0];
    q->to[lane] = q->to[0];
  }
  log_mel_frames(f, q->from, q->bins, q->to);
  q->waiting = 0;
}

static void queue_frame(const hark_front_end *f, frame_queue *q, const kept_sample *from, float *to) {
  q->from[q->waiting] = from;
  q->to[q->waiting] = to;
  if (++q->waiting == HARK_LANES) flush_frames(f, q);
}

#ifdef HARK_INT16_ONLY

static void take_samples(sound_state *state, hark_sound sound, size_t done, kept_sample *to, size_t count) {
  (void)state;
  memcpy(to, sound.int16 + done, count * sizeof *to);
}

#else

static void samples_of_int16(const int16_t *from, float *to, size_t count) {
  const float unit = 1.0f / 32768.0f;
  size_t i = 0;
  for (; i + HARK_LANES <= count; i += HARK_LANES) store_f32(to + i, to_f32(load_i16(from + i)) * unit);
  for (; i < count; i++) to[i] = (float)from[i] * unit;
}

/* Returns how many were no numbers, or beyond 2^20, and are now 0. */
static uint32_t samples_of_float32(const float *from, float *to, size_t count) {
  uint32_t replaced = 0;
  for (size_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, from + i, sizeof bits);
    uint32_t is_no_number = (bits & 0x7FFFFFFF) > 0x49800000;
    to[i] = is_no_number ? 0 : from[i];
    replaced += is_no_number;
  }
  return replaced;
}

/* Takes the next `count` samples of a stream, of which `done` were heard before, into the sound that `filled` are in.
 */
static void take_samples(sound_state *state, hark_sound sound, size_t done, float *to, size_t count) {
  if (sound.int16) {
    samples_of_int16(sound.int16 + done, to, count);
  } else {
    uint32_t replaced = samples_of_float32(sound.float32 + done, to, count);
    state->replaced = replaced > UINT32_MAX - state->replaced ? UINT32_MAX : state->replaced + replaced;
  }
}

#endif

/* Keeps `count` more samples of a stream, no more than there is room for, until more frames fill the lanes. */
static void keep(sound_state *state, hark_sound sound, size_t done, size_t count) {
  take_samples(state, sound, done, state->samples + state->filled, count);
  state->filled += (uint32_t)count;
}

/* Hears `count` more samples of a stream, no more than there is room for; queues the frames that they complete. */
static void hear(const hark_front_end *f, frame_queue *q, sound_state *state, hark_sound sound, size_t done,
                 size_t count, float *frames) {
  size_t filled = state->filled + count, hop = f->hop_length;
  size_t completed = filled >= f->n_fft ? (filled - f->n_fft) / hop + 1 : 0;
  kept_sample *samples = state->samples; /* must be free again before the next stream's turn */
  if (HARK_LANES > 1 && completed > 0) {
    if (q->waiting == 0) q->next_sound = 0; /* as long as it can be the same, it stays in the cache */
    samples = q->sounds + q->next_sound * sound_pitch(f);
    q->next_sound = (q->next_sound + 1) % HARK_LANES;
    memcpy(samples, state->samples, state->filled * sizeof *samples);
  }
  take_samples(state, sound, done, samples + state->filled, count);
  for (size_t frame = 0; frame < completed; frame++)
    queue_frame(f, q, samples + frame * hop, frames + frame * frame_pitch(f));
  state->filled = (uint32_t)(filled - completed * hop);
  memmove(state->samples, samples + completed * hop, state->filled * sizeof *samples);
}
