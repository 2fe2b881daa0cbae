#!/usr/bin/env bash
# An environment of its own for the spotters that hark is measured beside: benchmarks/streams/.venv.
set -euo pipefail
cd "$(dirname "$0")"

python3 -m venv .venv
pip=(.venv/bin/pip install --quiet --disable-pip-version-check)
"${pip[@]}" numpy==2.4.6 onnxruntime==1.32.0 webrtcvad==2.0.10 "setuptools<81" \
  pymicro-wakeword==2.5.0 pymicro-features==2.0.2 ai-edge-litert==2.3.0 requests tqdm scipy scikit-learn
# Without what they only need to train, or for another runtime than the one that is measured.
"${pip[@]}" --no-deps openwakeword==0.6.0 silero-vad==6.2.3
# The package fetches its models when they are first used; an older one brings them along.
.venv/bin/pip download --quiet --no-deps --dest .venv openwakeword==0.5.1
.venv/bin/python - <<'PYTHON'
import importlib.util, zipfile
from pathlib import Path

place = Path(importlib.util.find_spec("openwakeword").origin).parent
(wheel,) = Path(".venv").glob("openwakeword-0.5.1-*.whl")
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if name.startswith("openwakeword/resources/models/") and name.endswith(".onnx"):
            target = place / name.removeprefix("openwakeword/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
PYTHON
