"""What can go wrong, as a tree.

HarkError                   exit 1   anything that hark itself reports, in one line
├── UsageError              exit 2   the command or a function was called in a way that cannot work
│   └── ConfigError         exit 2   a recipe or configuration is not valid
├── AudioError              exit 1   a recording cannot be read or written
│   └── DecoderLost         exit 1   its decoder crashed or hung, and may do better another time
├── CorpusError             exit 1   a corpus, manifest or split is not usable
│   ├── DownloadError       exit 1   a corpus could not be fetched or unpacked safely
│   └── TooManyBadClips     exit 4   more of the data is damaged than was allowed
├── SynthesisError          exit 1   speech could not be synthesised
├── ModelError              exit 1   a model cannot do what is asked of it
│   └── ModelFileError      exit 1   a file is not a model, or is damaged
├── RunError                exit 1   a run directory cannot be used
│   ├── RunBusy             exit 1   another process is at work in it
│   ├── ProcessLost         exit 75  a process of the same command has died
│   ├── NoValidCheckpoint   exit 3   every checkpoint of the run is damaged
│   └── DiskFull            exit 1   no space or quota is left: the one error that a training waits out
├── UnsavedWork             exit 5   training finished, but its result could not be written
├── OutOfMemory             exit 6   not even one clip at a time fits in memory
├── DeviceError             exit 7   the requested device is not there
│   └── DeviceLost          exit 75  it was there, and went away in the midst of the work
├── DataStalled             exit 75  no batch came for a long time
├── Interrupted             exit 130 or 143: a signal has stopped it, after everything was saved
└── VerificationError       exit 1   two things that must agree do not

Every message says what was found, what was expected, and the way out.
"""

from __future__ import annotations


class HarkError(Exception):
    """Base of all errors that hark raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1

    def __str__(self) -> str:
        """The message in one line that does nothing to a terminal: parts of it may come from a hostile file."""
        return "".join(letter if letter.isprintable() else " " for letter in super().__str__())


class UsageError(HarkError):
    """The command or a function was called in a way that cannot work."""

    exit_code = 2


class ConfigError(UsageError):
    """A recipe or configuration is not valid."""


class AudioError(HarkError):
    """A recording cannot be read or written."""


class DecoderLost(AudioError):
    """The decoder crashed or hung on a recording, and may do better another time."""


class CorpusError(HarkError):
    """A corpus, manifest or split is not usable."""


class DownloadError(CorpusError):
    """A corpus could not be fetched or unpacked safely."""


class TooManyBadClips(CorpusError):
    """More of the data is damaged than was allowed."""

    exit_code = 4


class SynthesisError(HarkError):
    """Speech could not be synthesised."""


class ModelError(HarkError):
    """A model cannot do what is asked of it."""


class ModelFileError(ModelError):
    """A file is not a model, or is damaged."""


class RunError(HarkError):
    """A run directory cannot be used."""


class RunBusy(RunError):
    """Another process is at work in the run directory."""


class ProcessLost(RunError):
    """A process of the same command has died."""

    exit_code = 75


class NoValidCheckpoint(RunError):
    """Every checkpoint of the run is damaged."""

    exit_code = 3


class DiskFull(RunError):
    """No space or quota is left, which may be over by the next try."""


class UnsavedWork(HarkError):
    """Training finished, but its result could not be written."""

    exit_code = 5


class OutOfMemory(HarkError):
    """Not even one clip at a time fits in memory."""

    exit_code = 6


class DeviceError(HarkError):
    """The requested device is not there."""

    exit_code = 7


class DeviceLost(DeviceError):
    """The device went away in the midst of the work; another process may find it again."""

    exit_code = 75


class DataStalled(HarkError):
    """No batch came for a long time; another process may have more luck."""

    exit_code = 75


class VerificationError(HarkError):
    """Two things that must agree do not."""


class Interrupted(HarkError):
    """A signal has stopped the work, after everything was saved; the exit code tells which, as shells do."""

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message, signal_number)
        self.exit_code = 128 + signal_number

    def __str__(self) -> str:
        return str(self.args[0])
