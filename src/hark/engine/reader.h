/* Bytes of a file, read within their bounds. After a fault everything read is 0, and the fault is kept. */

enum { LARGEST_SIZE = 4096 }; /* of any number of a shape */

typedef struct {
  const uint8_t *at, *end;
  int error;
} reader;

static void expect(reader *r, int is_valid, int error) {
  if (!is_valid && r->error == HARK_OK) r->error = error;
}

/* The next bytes; null where there are not so many. */
static const uint8_t *take(reader *r, size_t bytes) {
  const uint8_t *taken = r->at;
  expect(r, (size_t)(r->end - r->at) >= bytes, HARK_MALFORMED);
  if (r->error != HARK_OK) return NULL;
  r->at += bytes;
  return taken;
}

static uint32_t take_u8(reader *r) {
  const uint8_t *byte = take(r, 1);
  return byte ? *byte : 0;
}

/* At most three bytes of seven bits, lowest first, and no longer than needed. */
static uint32_t take_varint(reader *r) {
  uint32_t value = 0, byte = 128;
  for (int shift = 0; byte & 128; shift += 7) {
    byte = take_u8(r);
    value |= (byte & 127) << shift;
    expect(r, shift < 14 || byte < 128, HARK_MALFORMED);
    expect(r, shift == 0 || byte != 0, HARK_MALFORMED);
    if (r->error != HARK_OK) return 0;
  }
  return value;
}

/* A number of a shape. */
static uint16_t take_size(reader *r) {
  uint32_t size = take_varint(r);
  expect(r, 1 <= size && size <= LARGEST_SIZE, HARK_MALFORMED);
  return (uint16_t)size;
}

static uint16_t u16_at(const void *array, size_t index) {
  const uint8_t *bytes = (const uint8_t *)array + 2 * index;
  return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static int16_t i16_at(const void *array, size_t index) { return (int16_t)u16_at(array, index); }

static uint32_t u32_at(const void *array, size_t index) {
  const uint8_t *bytes = (const uint8_t *)array + 4 * index;
  return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static float f32_at(const void *array, size_t index) {
  uint32_t bits = u32_at(array, index);
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* `count` float32 numbers, all finite, at a multiple of four from the file's beginning. */
static const uint8_t *take_f32(reader *r, const uint8_t *file, size_t count) {
  while (r->error == HARK_OK && (r->at - file) % 4 != 0) expect(r, take_u8(r) == 0, HARK_MALFORMED);
  const uint8_t *numbers = take(r, 4 * count);
  for (size_t i = 0; numbers && i < count; i++)
    expect(r, (u32_at(numbers, i) & 0x7F800000) != 0x7F800000, HARK_MALFORMED);
  return numbers;
}

/* CRC-32 as zlib has it, eight half bytes at once: T[i][n] is n followed by i further half bytes of 0. */
static uint32_t crc32(const uint8_t *bytes, size_t count) {
  uint32_t crc = 0xFFFFFFFF;
  for (; count >= 4; bytes += 4, count -= 4) {
    crc ^= u32_at(bytes, 0);
    uint32_t next = 0;
    for (int i = 0; i < 8; i++) next ^= crc_table[7 - i][crc >> (4 * i) & 15];
    crc = next;
  }
  for (; count > 0; bytes++, count--) {
    crc ^= *bytes;
    for (int half = 0; half < 2; half++) crc = crc >> 4 ^ crc_table[0][crc & 15];
  }
  return ~crc;
}
