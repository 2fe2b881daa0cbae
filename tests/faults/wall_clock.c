/* A wall clock that lies: CLOCK_REALTIME as the file named by WALL_CLOCK says, "seconds to add, rate", read anew
   at every look. All other clocks tell the truth. To be preloaded; libfaketime lies to sleeping threads as well,
   which Python takes for an error. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*honest)(clockid_t, struct timespec *);
    static double start;
    if (!honest)
        honest = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = honest(clock, now);
    if (failed || clock != CLOCK_REALTIME)
        return failed;
    double add = 0.0, rate = 1.0, seconds = (double)now->tv_sec + 1e-9 * (double)now->tv_nsec;
    FILE *file = fopen(getenv("WALL_CLOCK"), "r");
    if (file) {
        if (fscanf(file, "%lf %lf", &add, &rate) != 2)
            add = 0.0, rate = 1.0;
        fclose(file);
    }
    if (start == 0.0)
        start = seconds;
    seconds = start + rate * (seconds - start) + add;
    now->tv_sec = (time_t)seconds;
    now->tv_nsec = (long)(1e9 * (seconds - (double)now->tv_sec));
    return 0;
}
