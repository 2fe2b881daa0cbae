"""espeak-ng behind a pipe: both ends of the little protocol, and the only place that knows the library.

espeak-ng is GPL-3.0. hark never loads it into its own process: `python -m hark._espeak` does, a program of
its own that is only of use where the extra `synthesis` was installed. It writes a greeting, then answers each
line of JSON with another, followed by the sound:

    < {"voices": ["gmw/en-US", …], "variants": ["f1", …]}                  or {"missing": "why"}
    > {"text": "hi", "voice": "gmw/en-US", "variant": "f1", "speed_wpm": 175, "pitch": 50, "intonation": 50}
    < {"bytes": 20480}  + so many bytes of PCM, int16 mono at 22,050 Hz    or {"error": "why"}

The library remembers what it said before, and some voices can crash it. So each utterance is spoken by a fork
of a library that has not said anything: the sound depends on the request alone, and a crash costs no other.
Imports nothing heavy: the helper greets within 0.1 s.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

from hark.errors import SynthesisError

SAMPLE_RATE_HZ = 22_050
LONGEST_S = 60.0
LONGEST_LINE_BYTES = 1 << 16
INSTALL = 'pip install "hark-kws[synthesis]"'
# -P: a folder named `hark` where the user happens to stand is not what runs.
COMMAND = (sys.executable, "-P", "-m", "hark._espeak")

# From espeak-ng/speak_lib.h of version 1.52.
_SYNCHRONOUS, _DONT_EXIT, _BY_CHARACTER, _UTF8 = 2, 0x8000, 1, 1
_PARAMETERS = {"speed_wpm": 1, "pitch": 3, "intonation": 4}
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """The near end: a running helper, which ends with the `with` block.

    Attributes:
        voices: names of the voices, like `gmw/en-US`.
        variants: names of the ways to speak with them, like `f2`.
    """

    def __init__(self, *, timeout_s: float = 30.0) -> None:
        self._timeout_s = timeout_s
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        pipe = subprocess.PIPE
        try:
            # A session of its own, so that the helper and its forks can be ended together.
            self._process = subprocess.Popen(
                COMMAND, stdin=pipe, stdout=pipe, stderr=self._complaints, start_new_session=True
            )
        except OSError as error:
            raise SynthesisError(f"the espeak-ng helper cannot be started: {error}; check {COMMAND[0]}") from None
        try:
            greeting, _ = self._exchange(b"", "for its voices")
            if "missing" in greeting:
                raise SynthesisError(f"no espeak-ng here ({greeting['missing']}); {INSTALL}")
            self.voices = tuple(greeting["voices"])
            self.variants = tuple(greeting["variants"])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Espeak:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the helper; it holds nothing that could be lost."""
        self._kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._complaints):
            # What was on its way to a dead helper cannot be flushed.
            with suppress(OSError):
                if stream is not None:
                    stream.close()

    def say(self, request: dict[str, Any]) -> bytes:
        """PCM of one request, in the form that the module's docstring shows.

        Raises:
            SynthesisError: It cannot be spoken; or the helper died or gave no answer in time, and is gone.
        """
        header, pcm = self._exchange(json.dumps(request).encode() + b"\n", f"for {request['text']!r}")
        if "error" in header:
            raise SynthesisError(str(header["error"]))
        return pcm

    def _exchange(self, line: bytes, purpose: str) -> tuple[dict[str, Any], bytes]:
        """Send a line, receive a header and its bytes; a helper that is silent for too long is killed."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        watchdog = threading.Timer(self._timeout_s, self._kill)
        watchdog.daemon = True
        began = time.monotonic()
        watchdog.start()
        try:
            stdin.write(line)
            stdin.flush()
            header = json.loads(stdout.readline(LONGEST_LINE_BYTES))
            pcm = stdout.read(header.get("bytes", 0))
            if len(pcm) == header.get("bytes", 0):
                return header, pcm
        except (OSError, ValueError, AttributeError, TypeError):
            pass  # no whole answer: said below, with the reason
        finally:
            watchdog.cancel()
        reason = self._what_happened(time.monotonic() - began)
        raise SynthesisError(f"the espeak-ng helper, asked {purpose}, {reason}")

    def _what_happened(self, waited_s: float) -> str:
        """Why there was no whole answer; afterwards the helper is dead in any case."""
        if waited_s >= self._timeout_s:
            return f"gave no answer within {self._timeout_s:g} s; try a shorter text or another voice"
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        status = self._process.poll()
        self._kill()
        if status is None:
            return "answered nonsense; see that nothing else writes to its output"
        self._complaints.seek(0)
        last_words = self._complaints.read().decode(errors="replace").strip().splitlines()[-1:]
        return f"ended with status {status} ({''.join(last_words) or 'no message'}); try again"

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """The far end: greet, then answer each request until the near end closes the pipe."""
    try:
        import espeakng_loader
    except ImportError as error:
        return _answer(answers, {"missing": str(error)})
    data = Path(espeakng_loader.get_data_path())
    voices = sorted(p.relative_to(data / "lang").as_posix() for p in data.glob("lang/**/*") if p.is_file())
    variants = sorted(path.name for path in data.glob("voices/!v/*"))
    library = _load(espeakng_loader.get_library_path(), data)
    _answer(answers, {"voices": voices, "variants": variants})
    for line in requests:
        request = json.loads(line)
        try:
            _require("voice", request["voice"], voices)
            _require("variant", request["variant"], ["", *variants])
            _answer_from_a_fork(library, request, answers)
        except SynthesisError as error:
            _answer(answers, {"error": str(error)})


def _load(library_path: str, data: Path) -> ctypes.CDLL:
    """The library, set up and its voices listed, but without having spoken."""
    # espeak-ng keeps its data's path in 160 characters; "." always fits.
    os.chdir(data.parent)
    library = ctypes.CDLL(library_path)
    if library.espeak_Initialize(_SYNCHRONOUS, 0, b".", _DONT_EXIT) != SAMPLE_RATE_HZ:
        raise SynthesisError(f"espeak-ng cannot read its data in {data}; install it anew: {INSTALL}")
    library.espeak_ListVoices(None)
    return library


def _answer(answers: BinaryIO, header: dict[str, object], pcm: bytes = b"") -> None:
    answers.write(json.dumps(header).encode() + b"\n" + pcm)
    answers.flush()


def _require(kind: str, name: str, known: Sequence[str]) -> None:
    """Refuse a name that is not there: espeak-ng passes over an unknown variant in silence."""
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise SynthesisError(f"no {kind} {name!r} in espeak-ng; did you mean {near!r}?")


def _answer_from_a_fork(library: ctypes.CDLL, request: dict[str, Any], answers: BinaryIO) -> None:
    child = os.fork()
    if child == 0:
        signal.alarm(int(LONGEST_S))  # no orphan of a killed helper runs on for ever
        with suppress(BaseException):
            _answer_as_it_goes(library, request, answers)
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    if status:
        raise SynthesisError(f"espeak-ng crashed on {request['text']!r} (status {status}); try another voice")


def _answer_as_it_goes(library: ctypes.CDLL, request: dict[str, Any], answers: BinaryIO) -> None:
    try:
        pcm = _speak(library, request)
    except SynthesisError as error:
        _answer(answers, {"error": str(error)})
    else:
        _answer(answers, {"bytes": len(pcm)}, pcm)


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
    # A copy of the output of its own, so that nothing the library prints can come between two answers.
    own_output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, own_output)
