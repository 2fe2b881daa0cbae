/* The most float32 operations of one core: independent multiplications and additions, none fused, in registers.
 *
 * Prints them in GFLOP/s. Compiled as the engine is: -ffp-contract=off, and the vectors of one of its variants. */

#include <stdio.h>
#include <time.h>

enum { CHAINS = 12, ROUNDS = 50000000 }; /* chains enough to hide that an operation takes four cycles */

typedef float lanes __attribute__((vector_size(4 * HARK_LANES)));

static double cpu_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int main(int count, char **arguments) {
  (void)arguments;
  lanes x[CHAINS], factor = (float)count * 0.5f - (lanes){0}, term = (float)count - (lanes){0}, total = {0};
  for (int i = 0; i < CHAINS; i++) x[i] = (float)i - (lanes){0};
  double began = cpu_s();
  for (int round = 0; round < ROUNDS; round++)
    for (int i = 0; i < CHAINS; i++) x[i] = x[i] * factor + term;
  double seconds = cpu_s() - began;
  for (int i = 0; i < CHAINS; i++) total += x[i];
  fprintf(stderr, "%f\n", (double)total[0]); /* else nothing need be computed */
  printf("%f\n", 2.0 * HARK_LANES * CHAINS * ROUNDS / seconds * 1e-9);
  return 0;
}
