#include "wav.h"

#include <string.h>

enum { MOST_CHUNKS = 1000, FORMAT_BYTES = 16, PCM = 1 };

static uint32_t u16_of(const uint8_t *bytes) { return bytes[0] | (uint32_t)bytes[1] << 8; }

static uint32_t u32_of(const uint8_t *bytes) { return u16_of(bytes) | u16_of(bytes + 2) << 16; }

static int refuse(wav_reader *wav, const char *fault) {
  snprintf(wav->fault, sizeof wav->fault, "%s", fault);
  return -1;
}

/* Reads over so many bytes, be it in a pipe; 0 where there are fewer. */
static int skip(FILE *file, uint64_t bytes) {
  uint8_t passed[512];
  while (bytes > 0) {
    size_t count = bytes < sizeof passed ? (size_t)bytes : sizeof passed;
    if (fread(passed, 1, count, file) != count) return 0;
    bytes -= count;
  }
  return 1;
}

static int check_format(wav_reader *wav, const uint8_t *format, uint32_t sample_rate) {
  uint32_t kind = u16_of(format), channels = u16_of(format + 2), rate = u32_of(format + 4);
  uint32_t block_bytes = u16_of(format + 12), bits = u16_of(format + 14);
  if (kind == PCM && channels == 1 && rate == sample_rate && bits == 16 && block_bytes == 2) return 0;
  snprintf(wav->fault, sizeof wav->fault,
           "format %u, %u channels, %u Hz, %u bits, blocks of %u; expected format 1 (PCM), 1, %u Hz, 16, 2",
           (unsigned)kind, (unsigned)channels, (unsigned)rate, (unsigned)bits, (unsigned)block_bytes,
           (unsigned)sample_rate);
  return -1;
}

int wav_open(wav_reader *wav, FILE *file, uint32_t sample_rate) {
  uint8_t head[12], format[FORMAT_BYTES];
  int has_format = 0;
  memset(wav, 0, sizeof *wav);
  wav->file = file;
  if (fread(head, 1, 12, file) != 12 || memcmp(head, "RIFF", 4) != 0 || memcmp(head + 8, "WAVE", 4) != 0)
    return refuse(wav, "no WAV file");
  for (int i = 0; i < MOST_CHUNKS; i++) {
    if (fread(head, 1, 8, file) != 8) return refuse(wav, "cut off before its sound begins");
    uint32_t bytes = u32_of(head + 4);
    uint64_t rest = (uint64_t)bytes + bytes % 2;
    if (memcmp(head, "data", 4) == 0) {
      if (!has_format) return refuse(wav, "its sound comes before its format");
      if (bytes % 2) return refuse(wav, "half a sample at its end");
      wav->samples_left = bytes / 2;
      return check_format(wav, format, sample_rate);
    }
    if (memcmp(head, "fmt ", 4) == 0) {
      if (bytes < FORMAT_BYTES) return refuse(wav, "a format that is too short");
      if (fread(format, 1, FORMAT_BYTES, file) != FORMAT_BYTES) return refuse(wav, "cut off within its format");
      has_format = 1;
      rest -= FORMAT_BYTES;
    }
    if (!skip(file, rest)) return refuse(wav, "cut off before its sound begins");
  }
  return refuse(wav, "too many chunks before its sound");
}

size_t wav_read(wav_reader *wav, int16_t *samples, size_t most) {
  size_t count = 0;
  uint8_t bytes[2];
  for (; count < most && wav->samples_left > 0; count++, wav->samples_left--) {
    if (fread(bytes, 1, 2, wav->file) != 2) {
      refuse(wav, "cut off within its sound");
      break;
    }
    uint32_t sample = u16_of(bytes);
    samples[count] = (int16_t)(sample < 0x8000 ? (int32_t)sample : (int32_t)sample - 0x10000);
  }
  return count;
}
