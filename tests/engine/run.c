/* Runs the models of data.h over its sound, chunk by chunk, and prints what memory each takes and the bits of every
 * logit: the same text from every build, on every machine. */

#include "hark.h"

#include "data.h"

#if defined(__arm__) && !defined(__linux__) /* bare metal: Linux's calls by hand, which qemu-arm understands */

static long call(long number, long a, long b, long c) {
  register long r7 __asm__("r7") = number, r0 __asm__("r0") = a, r1 __asm__("r1") = b, r2 __asm__("r2") = c;
  __asm__ volatile("svc 0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2) : "memory");
  return r0;
}

static void put(const char *text, size_t count) { call(4, 1, (long)text, (long)count); }

int main(void);
void _start(void) { call(1, main(), 0, 0); }

void *memmove(void *to, const void *from, size_t count) {
  char *t = to;
  const char *f = from;
  if (t < f)
    for (size_t i = 0; i < count; i++) t[i] = f[i];
  else
    for (size_t i = count; i-- > 0;) t[i] = f[i];
  return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t count) { return memmove(to, from, count); }

void *memset(void *to, int byte, size_t count) {
  for (size_t i = 0; i < count; i++) ((char *)to)[i] = (char)byte;
  return to;
}

#else

#include <stdio.h>

static void put(const char *text, size_t count) { fwrite(text, 1, count, stdout); }

#endif

static void put_number(const char *name, long number) {
  char digits[24];
  size_t at = sizeof digits, length = 0;
  unsigned long rest = number < 0 ? 0ul - (unsigned long)number : (unsigned long)number;
  digits[--at] = '\n';
  do digits[--at] = (char)('0' + rest % 10);
  while ((rest /= 10) > 0);
  if (number < 0) digits[--at] = '-';
  digits[--at] = ' ';
  while (name[length]) length++;
  put(name, length);
  put(digits + at, sizeof digits - at);
}

static void put_bits(float x) {
  const unsigned char *bytes = (const unsigned char *)&x;
  char digits[9];
  for (int i = 0; i < 4; i++) {
    digits[6 - 2 * i] = "0123456789abcdef"[bytes[i] >> 4];
    digits[7 - 2 * i] = "0123456789abcdef"[bytes[i] & 15];
  }
  digits[8] = '\n';
  put(digits, sizeof digits);
}

static union { /* what a vector wants, be it of 64 bytes */
  long double aligned[4];
  unsigned char bytes[MEMORY_BYTES];
} memory __attribute__((aligned(64)));

static void run(const unsigned char *file, size_t bytes) {
  static hark_model model;
  static float logits[MOST_LOGITS];
  int error = hark_open(&model, file, bytes);
  put_number("open", error);
  if (error != HARK_OK) return;
  size_t state = hark_memory_bytes(&model), scratch = state + hark_state_bytes(&model);
  if (scratch + hark_scratch_bytes(&model) > sizeof memory.bytes) return;
  hark_prepare(&model, memory.bytes);
  hark_reset(&model, memory.bytes + state);
  put_number("model", (long)sizeof model);
  put_number("state", (long)hark_state_bytes(&model));
  put_number("scratch", (long)hark_scratch_bytes(&model));
  hark_description about;
  hark_describe(&model, &about);
  for (size_t done = 0; done < sizeof sound / sizeof *sound; done += CHUNK) {
    size_t left = sizeof sound / sizeof *sound - done;
    hark_sound chunk = {.int16 = sound + done, .count = left < CHUNK ? left : CHUNK};
    long steps = hark_step(&model, memory.bytes + state, memory.bytes + scratch, chunk, logits, NULL);
    for (long i = 0; i < steps * (long)about.classes; i++) put_bits(logits[i]);
  }
}

int main(void) {
  for (size_t i = 0; i < sizeof models / sizeof *models; i++) run(models[i].file, models[i].bytes);
  return 0;
}
