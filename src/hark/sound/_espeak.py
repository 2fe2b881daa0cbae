"""espeak-ng behind a pipe: both ends, and the only place that knows the library.

espeak-ng is GPL-3.0. hark never loads it into its own process: `python -m hark.sound._espeak` does, a helper
process (`hark.confinement`) that is only of use where the extra `synthesis` was installed.

    > {}
    < {"voices": ["gmw/en-US", …], "variants": ["f1", …]}
    > {"text": "hi", "voice": "gmw/en-US", "variant": "f1", "speed_wpm": 175, "pitch": 50, "intonation": 50}
    < {} and PCM, int16 mono at 22,050 Hz

The library remembers what it said before, and some voices can crash it. So each utterance is spoken by a fork
of a library that has not said anything: the sound depends on the request alone, and a crash costs no other.
Imports nothing heavy: the helper is there within 0.1 s.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hark.confinement import Answer, Helper, HelperLost, HelperRefused, Limits, serve
from hark.errors import HarkError, SynthesisError

SAMPLE_RATE_HZ = 22_050
LONGEST_S = 60.0
INSTALL = 'pip install "hark-kws[synthesis]"'
LIMITS = Limits(memory_bytes=1 << 30, answer_s=60.0, answer_bytes=4 * int(LONGEST_S * SAMPLE_RATE_HZ))

# From espeak-ng/speak_lib.h of version 1.52.
_SYNCHRONOUS, _DONT_EXIT, _BY_CHARACTER, _UTF8 = 2, 0x8000, 1, 1
_PARAMETERS = {"speed_wpm": 1, "pitch": 3, "intonation": 4}
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_SPOKEN, _REFUSED = b"s", b"r"  # how a fork's answer begins


class Espeak:
    """The near end: a running helper, which ends with the `with` block.

    Attributes:
        voices: names of the voices, like `gmw/en-US`.
        variants: names of the ways to speak with them, like `f2`.
    """

    def __init__(self, *, timeout_s: float = 30.0) -> None:
        self._timeout_s = timeout_s
        self._helper = Helper("hark.sound._espeak", LIMITS)
        told, _ = self._ask({}, "for its voices")
        self.voices = tuple(told["voices"])
        self.variants = tuple(told["variants"])

    def __enter__(self) -> Espeak:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the helper; it holds nothing that could be lost."""
        self._helper.close()

    def say(self, request: Mapping[str, object]) -> bytes:
        """PCM of one request, in the form that the module's docstring shows.

        Raises:
            SynthesisError: It cannot be spoken; or the helper died or gave no answer in time.
        """
        _, pcm = self._ask(request, f"for {request['text']!r}")
        return bytes(pcm)

    def _ask(self, question: Mapping[str, object], purpose: str) -> tuple[dict[str, Any], bytearray]:
        try:
            return self._helper.ask(question, within_s=self._timeout_s)
        except HelperRefused as error:
            raise SynthesisError(str(error)) from None
        except HelperLost as error:
            raise SynthesisError(
                f"the espeak-ng helper, asked {purpose}, {error}; try again, a shorter text or another voice"
            ) from None


class _Speaker:
    """The far end: answers with the library's voices, or with what it was asked to say."""

    def __init__(self) -> None:
        self._library: ctypes.CDLL | None = None
        self._voices: list[str] = []
        self._variants: list[str] = []

    def answer(self, question: dict[str, Any]) -> Answer:
        if self._library is None:
            self._library = self._found()
        if not question:
            return {"voices": self._voices, "variants": self._variants}, b""
        _require("voice", question["voice"], self._voices)
        _require("variant", question["variant"], ["", *self._variants])
        return {}, _spoken_by_a_fork(self._library, question)

    def _found(self) -> ctypes.CDLL:
        try:
            import espeakng_loader
        except ImportError as error:
            raise SynthesisError(f"no espeak-ng here ({error}); {INSTALL}") from None
        data = Path(espeakng_loader.get_data_path())
        files = (path for path in data.glob("lang/**/*") if path.is_file())
        self._voices = sorted(path.relative_to(data / "lang").as_posix() for path in files)
        self._variants = sorted(path.name for path in data.glob("voices/!v/*"))
        return _load(espeakng_loader.get_library_path(), data)


def _load(library_path: str, data: Path) -> ctypes.CDLL:
    """The library, set up and its voices listed, but without having spoken."""
    # espeak-ng keeps its data's path in 160 characters; "." always fits.
    os.chdir(data.parent)
    library = ctypes.CDLL(library_path)
    if library.espeak_Initialize(_SYNCHRONOUS, 0, b".", _DONT_EXIT) != SAMPLE_RATE_HZ:
        raise SynthesisError(f"espeak-ng cannot read its data in {data}; install it anew: {INSTALL}")
    library.espeak_ListVoices(None)
    return library


def _require(kind: str, name: str, known: Sequence[str]) -> None:
    """Refuse a name that is not there: espeak-ng passes over an unknown variant in silence."""
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise SynthesisError(f"no {kind} {name!r} in espeak-ng; did you mean {near!r}?")


def _spoken_by_a_fork(library: ctypes.CDLL, request: dict[str, Any]) -> bytes:
    near, far = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            signal.alarm(int(LIMITS.answer_s))  # no orphan of a killed helper runs on for ever
            _speak_into(far, library, request)
            os._exit(0)
        os._exit(1)
    os.close(far)
    with os.fdopen(near, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise SynthesisError(f"espeak-ng crashed on {request['text']!r} (status {status}); try another voice")
    if answer[:1] == _REFUSED:
        raise SynthesisError(answer[1:].decode())
    return answer[1:]


def _speak_into(descriptor: int, library: ctypes.CDLL, request: dict[str, Any]) -> None:
    with os.fdopen(descriptor, "wb") as pipe:
        try:
            pipe.write(_SPOKEN + _speak(library, request))
        except HarkError as error:
            pipe.write(_REFUSED + str(error).encode())


def _speak(library: ctypes.CDLL, request: dict[str, Any]) -> bytes:
    pieces: list[bytes] = []
    room = int(LONGEST_S * SAMPLE_RATE_HZ)

    def collect(samples: int | None, count: int, _events: int | None) -> int:
        nonlocal room
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
            room -= count
        return int(room < 0)  # 1 makes it stop

    callback = _Callback(collect)
    library.espeak_SetSynthCallback(callback)
    voice = "+".join(filter(None, (request["voice"], request["variant"])))
    if library.espeak_SetVoiceByName(voice.encode()):
        raise SynthesisError(f"espeak-ng cannot load the voice {voice!r}; choose another")
    for name, parameter in _PARAMETERS.items():
        library.espeak_SetParameter(parameter, request[name], 0)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    text = request["text"].encode() + b"\0"
    library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, _BY_CHARACTER, 0, _UTF8, None, None)
    if room < 0:
        raise SynthesisError(f"{request['text'][:40]!r}… lasts over {LONGEST_S:g} s; speak it in parts")
    return b"".join(pieces)


if __name__ == "__main__":
    serve(_Speaker().answer, LIMITS)
