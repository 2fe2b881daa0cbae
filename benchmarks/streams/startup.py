"""The CPU time that hark takes to begin, in a fresh process: prints a JSON object, in ms.

python benchmarks/streams/startup.py MODEL
"""

from __future__ import annotations

import json
import sys
import time

import numpy  # noqa: F401 (what hark takes beyond it is asked)

OPENED = 100

began = time.process_time()
import hark  # noqa: E402

imported = time.process_time()
hark.Model  # noqa: B018 (loads the runtime: what a program that opens a model needs of hark)
ready = time.process_time()
hark.Model(sys.argv[1]).stream()
first = time.process_time()
for _ in range(OPENED):
    hark.Model(sys.argv[1]).stream()
done = time.process_time()
print(
    json.dumps(
        {
            "import_ms": 1e3 * (imported - began),
            "runtime_ms": 1e3 * (ready - began),
            "first_model_ms": 1e3 * (first - ready),
            "model_ms": 1e3 * (done - first) / OPENED,
        }
    )
)
