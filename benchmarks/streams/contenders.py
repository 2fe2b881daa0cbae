"""Who is measured: a class each, with how it is loaded and how one chunk of sound goes through it.

Only what a contender needs is imported, when it is loaded: half of them live in an environment without hark.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Pcm = np.ndarray[Any, np.dtype[np.int16]]


class Contender(Protocol):
    """One stream, or several side by side."""

    sample_rate: int
    chunk_samples: int
    streams: int
    model_bytes: int

    def step(self, chunk: Pcm) -> object:
        """Take the next chunk of sound, `(samples,)` or `(streams, samples)`: what a user would call."""


class HarkEngine:
    """A `.hark` file in the engine, through the Python API."""

    streams = 1

    def __init__(self, path: str, chunk_ms: str = "80") -> None:
        import hark

        model = hark.Model(path)
        self.sample_rate = model.sample_rate
        self.chunk_samples = self.sample_rate * int(chunk_ms) // 1000
        self.model_bytes = len(model.file)
        self._stream = model.stream()

    def step(self, chunk: Pcm) -> object:
        """Posteriors."""
        return self._stream.step(chunk)


class HarkBatch:
    """Many streams of one model in one call."""

    def __init__(self, path: str, streams: str = "64") -> None:
        import hark

        model = hark.Model(path)
        self.sample_rate, self.streams = model.sample_rate, int(streams)
        self.chunk_samples = self.sample_rate * 80 // 1000
        self.model_bytes = len(model.file)
        self._streams = model.streams(self.streams)

    def step(self, chunk: Pcm) -> object:
        """Posteriors of all streams."""
        return self._streams.step(chunk)


class HarkTorch:
    """Our own model in torch, eager."""

    sample_rate, streams, chunk_samples = 16_000, 1, 1280

    def __init__(self, path: str) -> None:
        import torch

        from hark.storage.model_files import load

        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        self.model_bytes = Path(path).stat().st_size
        self._torch, self._model = torch, load(Path(path))
        self._state = self._model.initial_state()

    def step(self, chunk: Pcm) -> object:
        """Logits."""
        sound = self._torch.from_numpy(chunk).float()[None] / 32768
        logits, self._state = self._model.step(sound, self._state)
        return logits


class HarkOnnx:
    """Our own model in onnxruntime."""

    sample_rate, streams, chunk_samples = 16_000, 1, 1280

    def __init__(self, path: str) -> None:
        from hark.shipping.onnx_runner import OnnxRunner

        self.model_bytes = Path(path).stat().st_size
        self._stream = OnnxRunner(path).stream()

    def step(self, chunk: Pcm) -> object:
        """Posteriors."""
        return self._stream.step(chunk)


class OpenWakeWord:
    """openWakeWord with one of its models on onnxruntime."""

    sample_rate, streams, chunk_samples = 16_000, 1, 1280

    def __init__(self) -> None:
        from openwakeword.model import Model

        place = _package("openwakeword") / "resources" / "models"
        files = [place / f"{name}.onnx" for name in ("alexa_v0.1", "melspectrogram", "embedding_model")]
        self.model_bytes = sum(path.stat().st_size for path in files)
        self._model = Model(wakeword_models=[str(files[0])], inference_framework="onnx")

    def step(self, chunk: Pcm) -> object:
        """Scores."""
        return self._model.predict(chunk)


class MicroWakeWord:
    """pymicro-wakeword: front end and TFLite model of microWakeWord."""

    sample_rate, streams, chunk_samples = 16_000, 1, 1280

    def __init__(self) -> None:
        from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

        self._model = MicroWakeWord.from_builtin(Model.HEY_JARVIS)
        self.model_bytes = Path(self._model.tflite_model).stat().st_size
        self._features = MicroWakeWordFeatures()

    def step(self, chunk: Pcm) -> object:
        """Whether it was heard."""
        return [
            self._model.process_streaming(features)
            for features in self._features.process_streaming(chunk.tobytes())
        ]


class LiteRt:
    """The same model and front end on LiteRT's own Python interpreter."""

    sample_rate, streams, chunk_samples = 16_000, 1, 1280

    def __init__(self) -> None:
        from ai_edge_litert.interpreter import Interpreter
        from pymicro_features import MicroFrontend

        path = _package("pymicro_wakeword") / "models" / "hey_jarvis.tflite"
        self.model_bytes = path.stat().st_size
        self._interpreter = Interpreter(model_path=str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        (self._input,), (self._output,) = (
            self._interpreter.get_input_details(),
            self._interpreter.get_output_details(),
        )
        self._frontend = MicroFrontend()
        self._frames: list[Any] = []

    def step(self, chunk: Pcm) -> object:
        """The quantised score of each step."""
        scale, zero = self._input["quantization"]
        stride = self._input["shape"][1]
        scores = []
        raw = chunk.tobytes()
        for start in range(0, len(raw), 320):
            frame = self._frontend.process_samples(raw[start : start + 320])
            if frame.features:
                self._frames.append(frame.features)
            if len(self._frames) == stride:
                values = np.round(np.array(self._frames, np.float32) / scale + zero).clip(-128, 127)
                self._interpreter.set_tensor(self._input["index"], values.astype(np.int8)[None])
                self._interpreter.invoke()
                scores.append(self._interpreter.get_tensor(self._output["index"]))
                self._frames.clear()
        return scores


class SileroVad:
    """Silero's voice activity detector on onnxruntime alone: no keyword, but a network that streams."""

    sample_rate, streams, chunk_samples = 16_000, 1, 512

    def __init__(self) -> None:
        import onnxruntime

        path = _package("silero_vad") / "data" / "silero_vad.onnx"
        self.model_bytes = path.stat().st_size
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._state = np.zeros((2, 1, 128), np.float32)
        self._context = np.zeros((1, 64), np.float32)

    def step(self, chunk: Pcm) -> object:
        """The probability of speech."""
        sound = np.concatenate((self._context, chunk[None].astype(np.float32) / 32768), axis=1)
        inputs = {"input": sound, "state": self._state, "sr": np.array(16_000)}
        score, self._state = self._session.run(None, inputs)
        self._context = sound[:, -64:]
        return score


class WebRtcVad:
    """WebRTC's voice activity detector: no network at all."""

    sample_rate, streams, chunk_samples, model_bytes = 16_000, 1, 480, 0

    def __init__(self) -> None:
        import webrtcvad

        self._vad = webrtcvad.Vad(2)

    def step(self, chunk: Pcm) -> object:
        """Whether it is speech."""
        return self._vad.is_speech(chunk.tobytes(), 16_000)


CONTENDERS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        HarkEngine, HarkBatch, HarkTorch, HarkOnnx,
        OpenWakeWord, MicroWakeWord, LiteRt, SileroVad, WebRtcVad,
    )
}  # fmt: skip


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent
