/* The engine as one of several builds in the same library, each for other instructions: setup.py names it by
 * HARK_VARIANT and says with which flags. */

#define HARK_API static
#include "hark.c"
#include "variants.h"

const hark_variant HARK_VARIANT = {
    hark_open,  hark_memory_bytes, hark_prepare,   hark_state_bytes,      hark_scratch_bytes, hark_reset,
    hark_steps, hark_step,         hark_step_many, hark_replaced_samples, hark_describe,      hark_label,
};
