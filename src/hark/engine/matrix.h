/* Matrix products, the inner loops of every layer but the convolution.
 *
 * With vectors, rows are in the lanes and four streams share each weight that is loaded; hark_prepare arranges for
 * that
 *
 *   float32   weights (blocks of rows, inputs, BLOCK_ROWS), bias (padded rows)
 *   integers  weights (blocks of rows, pairs of inputs, BLOCK_ROWS, 2) as int16, multipliers and bias (padded rows)
 *             as int32
 *
 * where the last block may be one vector wide. Without vectors the file's own bytes are used where they lie. */

#if HARK_LANES > 1

#ifndef HARK_STREAMS_AT_ONCE /* for hark_step_many: 4 or more; a device that has one stream only may say 1 */
#define HARK_STREAMS_AT_ONCE 8
#endif

#ifdef __OPTIMIZE_SIZE__ /* fewer of the loops below */
enum { MOST_VECTORS = 4 };
#else
enum { MOST_VECTORS = 8 }; /* of rows, whose sums stay in registers */
#endif

enum { STREAMS_AT_ONCE = HARK_STREAMS_AT_ONCE, BLOCK_STREAMS = 4, BLOCK_ROWS = 2 * HARK_LANES };

/* acc + w[0] x[0] + w[1] x[1] in each lane, for two int16 in each: exact, as the rows of a file are bounded. */
INLINE i32_lanes add_pair_products(i32_lanes acc, i32_lanes w, i32_lanes x) {
#if HARK_LANES == 16 && defined(__AVX512BW__)
  return acc + (i32_lanes)_mm512_madd_epi16((__m512i)w, (__m512i)x);
#elif HARK_LANES == 8 && defined(__AVX2__)
  return acc + (i32_lanes)_mm256_madd_epi16((__m256i)w, (__m256i)x);
#elif HARK_LANES == 4 && defined(__SSE2__)
  return acc + (i32_lanes)_mm_madd_epi16((__m128i)w, (__m128i)x);
#elif HARK_LANES == 4 && defined(__wasm_simd128__)
  return acc + (i32_lanes)wasm_i32x4_dot_i16x8((v128_t)w, (v128_t)x);
#else
  return acc + (w << 16 >> 16) * (x << 16 >> 16) + (w >> 16) * (x >> 16);
#endif
}

/* y = W x + bias for `vectors` vectors of rows from row on, and `streams` streams from `first` on; each sum begins
 * with the bias. */
INLINE void block_f32(const hark_matrix *m, size_t row, const size_t vectors, const size_t streams, f32_rows x,
                      f32_rows y, size_t first) {
  x.values += first * x.pitch;
  y.values += first * y.pitch;
  const float *w = (const float *)m->weights + row * m->inputs, *bias = (const float *)m->bias + row;
  const size_t width = vectors == 1 ? HARK_LANES : BLOCK_ROWS, next_block = m->inputs * BLOCK_ROWS;
  f32_lanes acc[BLOCK_STREAMS][MOST_VECTORS];
  for (size_t s = 0; s < streams; s++)
    for (size_t v = 0; v < vectors; v++) acc[s][v] = load_f32(bias + v * HARK_LANES);
  for (size_t i = 0; i < m->inputs; i++, w += width)
    for (size_t v = 0; v < vectors; v++) {
      f32_lanes weights = load_f32(w + v / 2 * next_block + v % 2 * HARK_LANES);
      for (size_t s = 0; s < streams; s++) acc[s][v] += weights * x.values[s * x.pitch + i];
    }
  for (size_t s = 0; s < streams; s++)
    for (size_t v = 0; v < vectors; v++) store_f32(y.values + s * y.pitch + row + v * HARK_LANES, acc[s][v]);
}

/* y = W x, requantised, + bias, for as many. */
INLINE void block_i16(const hark_matrix *m, size_t row, const size_t vectors, const size_t streams, i16_rows x,
                      i32_rows y, size_t first) {
  x.values += first * x.pitch;
  y.values += first * y.pitch;
  const size_t pairs = (m->inputs + 1u) / 2;
  const size_t width = vectors == 1 ? HARK_LANES : BLOCK_ROWS, next_block = pairs * BLOCK_ROWS;
  const int32_t *w = (const int32_t *)m->weights + row * pairs, *bias = (const int32_t *)m->bias + row;
  const int32_t *multipliers = (const int32_t *)m->multipliers + row;
  i32_lanes acc[BLOCK_STREAMS][MOST_VECTORS];
  for (size_t s = 0; s < streams; s++)
    for (size_t v = 0; v < vectors; v++) acc[s][v] = all_lanes(0);
  for (size_t i = 0; i < pairs; i++, w += width) {
    i32_lanes pair[BLOCK_STREAMS];
    for (size_t s = 0; s < streams; s++) {
      int32_t both;
      memcpy(&both, x.values + s * x.pitch + 2 * i, sizeof both);
      pair[s] = all_lanes(both);
    }
    for (size_t v = 0; v < vectors; v++) {
      i32_lanes weights = load_i32(w + v / 2 * next_block + v % 2 * HARK_LANES);
      for (size_t s = 0; s < streams; s++) acc[s][v] = add_pair_products(acc[s][v], weights, pair[s]);
    }
  }
  for (size_t s = 0; s < streams; s++)
    for (size_t v = 0; v < vectors; v++) {
      i32_lanes multiplier = load_i32(multipliers + v * HARK_LANES);
      i32_lanes result = requantize(acc[s][v], multiplier, m->shift) + load_i32(bias + v * HARK_LANES);
      store_i32(y.values + s * y.pitch + row + v * HARK_LANES, result);
    }
}

/* The sums of a block stay in registers: two vectors of rows of each of four streams, or eight of one. The weights of
 * two vectors stay in the cache for all streams. */
#define FOR_BLOCKS(block)                                                                                     \
  const size_t end = padded(m->rows);                                                                         \
  const size_t in_fours = STREAMS_AT_ONCE < BLOCK_STREAMS ? 0 : streams / BLOCK_STREAMS * BLOCK_STREAMS;      \
  for (size_t row = 0; row < end; row += BLOCK_ROWS)                                                          \
    for (size_t s = 0; s < in_fours; s += BLOCK_STREAMS)                                                      \
      if (row + HARK_LANES < end) block(m, row, 2, BLOCK_STREAMS, x, y, s);                                   \
      else block(m, row, 1, BLOCK_STREAMS, x, y, s);                                                          \
  for (size_t s = in_fours; s < streams; s++)                                                                 \
    for (size_t row = 0, vectors; (vectors = (end - row) / HARK_LANES) > 0;)                                  \
      if (vectors >= MOST_VECTORS) block(m, row, MOST_VECTORS, 1, x, y, s), row += MOST_VECTORS * HARK_LANES; \
      else if (vectors >= 4 && MOST_VECTORS > 4) block(m, row, 4, 1, x, y, s), row += 4 * HARK_LANES;         \
      else if (vectors >= 2) block(m, row, 2, 1, x, y, s), row += 2 * HARK_LANES;                             \
      else block(m, row, 1, 1, x, y, s), row += HARK_LANES;

static void product_f32(const hark_matrix *m, size_t streams, f32_rows x, f32_rows y) { FOR_BLOCKS(block_f32) }

static void product_i16(const hark_matrix *m, size_t streams, i16_rows x, i32_rows y) { FOR_BLOCKS(block_i16) }

/* Memory for `count` numbers of four bytes in whole vectors, zero; null when only counting. */
static void *zeros(pieces *memory, size_t count) {
  void *numbers = piece(memory, padded(count) * sizeof(float));
  if (numbers) memset(numbers, 0, padded(count) * sizeof(float));
  return numbers;
}

/* Where the weights of a row begin, and how far apart they are. */
static size_t row_place(const hark_matrix *m, size_t row, size_t inputs, size_t *step) {
  size_t block = row / BLOCK_ROWS * BLOCK_ROWS;
  *step = block + HARK_LANES < padded(m->rows) ? BLOCK_ROWS : HARK_LANES;
  return block * inputs + row % BLOCK_ROWS;
}

static void prepare_f32(hark_matrix *m, pieces *memory) {
  float *weights = zeros(memory, m->inputs * padded(m->rows)), *bias = zeros(memory, m->rows);
  if (!weights) return;
  for (size_t row = 0; row < m->rows; row++) {
    size_t step, place = row_place(m, row, m->inputs, &step);
    for (size_t i = 0; i < m->inputs; i++) weights[place + i * step] = f32_at(m->weights, i * m->rows + row);
    bias[row] = bias_f32(m, row);
  }
  m->weights = weights;
  m->bias = bias;
}

static void prepare_i16(hark_matrix *m, pieces *memory) {
  const size_t pairs = (m->inputs + 1u) / 2;
  int16_t *weights = zeros(memory, pairs * padded(m->rows));
  int32_t *multipliers = zeros(memory, m->rows), *bias = zeros(memory, m->rows);
  if (!weights) return;
  const uint8_t *from = m->weights;
  for (size_t row = 0; row < m->rows; row++, from += row_bytes(m)) {
    size_t step, place = row_place(m, row, pairs, &step);
    for (size_t i = 0; i < m->inputs; i++)
      weights[(place + i / 2 * step) * 2 + i % 2] = (int16_t)weight_at(m, from, i);
    multipliers[row] = multiplier_of(m, row);
    bias[row] = bias_i32(m, row);
  }
  m->weights = weights;
  m->multipliers = multipliers;
  m->bias = bias;
}

static void prepare_matrix(const hark_model *model, hark_matrix *m, pieces *memory) {
  if (model->is_integer) prepare_i16(m, memory);
  else prepare_f32(m, memory);
}

#else

enum { STREAMS_AT_ONCE = 1 };

/* y = W x + bias, each sum beginning with the bias; four rows at a time, so that the sums stay in registers. */
static void product_f32(const hark_matrix *m, size_t streams, f32_rows x, f32_rows y) {
  (void)streams;
  for (size_t row = 0; row < m->rows; row += 4) {
    size_t rows = m->rows - row < 4 ? m->rows - row : 4;
    float acc[4];
    for (size_t k = 0; k < rows; k++) acc[k] = bias_f32(m, row + k);
    for (size_t i = 0; i < m->inputs; i++)
      for (size_t k = 0; k < rows; k++) acc[k] += f32_at(m->weights, i * m->rows + row + k) * x.values[i];
    memcpy(y.values + row, acc, rows * sizeof *acc);
  }
}

/* The sum of an integer row's products. */
static int32_t row_product(const hark_matrix *m, const uint8_t *row, const int16_t *x) {
  int32_t acc = 0;
  if (m->form == INT8)
    for (size_t i = 0; i < m->inputs; i++) acc += (int8_t)row[i] * x[i];
  else
    for (size_t i = 0; i < m->inputs; i++) acc += weight_at(m, row, i) * x[i];
  return acc;
}

/* y = W x, requantised, + bias. */
static void product_i16(const hark_matrix *m, size_t streams, i16_rows x, i32_rows y) {
  (void)streams;
  const uint8_t *w = m->weights;
  for (size_t row = 0; row < m->rows; row++, w += row_bytes(m)) {
    int32_t acc = row_product(m, w, x.values);
    y.values[row] = requantize(acc, multiplier_of(m, row), m->shift) + bias_i32(m, row);
  }
}

#endif
