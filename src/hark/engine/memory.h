/* Pieces of the caller's memory, one after the other, each aligned for vectors. With nothing to cut from it only
 * counts. */

typedef struct {
  uint8_t *base; /* null: only count */
  size_t used;
} pieces;

static void *piece(pieces *p, size_t bytes) {
  const size_t unit = HARK_LANES > 1 ? 4 * HARK_LANES : sizeof(void *);
  void *taken = p->base ? p->base + p->used : NULL;
  p->used += (bytes + unit - 1) / unit * unit;
  return taken;
}

/* `count` rounded up to whole vectors. */
static size_t padded(size_t count) { return (count + HARK_LANES - 1) / HARK_LANES * HARK_LANES; }

/* A row of numbers for each of the streams that are computed side by side. */
typedef struct {
  float *values;
  size_t pitch; /* from one stream's row to the next one's */
} f32_rows;

typedef struct {
  int16_t *values;
  size_t pitch;
} i16_rows;

typedef struct {
  int32_t *values;
  size_t pitch;
} i32_rows;
