/* Reads WAV files, strictly and in constant memory: mono, 16-bit PCM, at one rate. */
#ifndef WAV_H
#define WAV_H

#include <stdint.h>
#include <stdio.h>

typedef struct {
  FILE *file;
  uint32_t samples_left;
  char fault[120]; /* what is wrong with the file; empty: nothing so far */
} wav_reader;

/* Reads up to the sound; 0, or -1 and a fault. */
int wav_open(wav_reader *wav, FILE *file, uint32_t sample_rate);

/* The next samples; 0 at the end, or where there is a fault. */
size_t wav_read(wav_reader *wav, int16_t *samples, size_t most);

#endif
