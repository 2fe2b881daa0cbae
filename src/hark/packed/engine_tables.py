"""The constants that are compiled into the engine, as C.

`python -m hark.packed.engine_tables` writes engine/tables.h.

Among them those of one front end, so that a device with little memory need not compute them.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable

import numpy as np

from hark.packed.front_end_settings import Complex, LogMelConfig, front_end_constants
from hark.packed.integer_arithmetic import EXP2_TABLE, TANH_TABLE

CRC_POLYNOMIAL = 0xEDB88320
"""Of CRC-32, lowest bit first."""


def c_tables(config: LogMelConfig) -> str:
    """The text of `tables.h`, with the constants of the front end `config`."""
    constants = front_end_constants(config)
    return "\n".join(
        [
            "/* Made by hark.packed.engine_tables: tables of both arithmetics and of one front end. */",
            "",
            *_array("uint32_t crc_table[8][16]", _crc_table()),
            *_array("int16_t tanh_table[257]", TANH_TABLE),
            *_array("int16_t exp2_table[65]", EXP2_TABLE),
            "#ifndef HARK_NO_ROM_FRONT_END /* for who would rather compute it than carry it */",
            "",
            "enum {",
            f"  ROM_SAMPLE_RATE = {config.sample_rate},",
            f"  ROM_N_FFT = {config.n_fft},",
            f"  ROM_N_MELS = {config.n_mels},",
            "};",
            "",
            *_array("float rom_half_window[]", constants.half_window),
            *_array("uint16_t rom_place[]", np.argsort(constants.order)),
            *_array("float rom_turns[]", [number for turns in constants.turns for number in _pairs(turns)]),
            *_array("float rom_split[]", _pairs(constants.split)),
            *_array("uint16_t rom_corners[]", constants.corners),
            *_array("float rom_bands[][2]", [f"{{{rising}f, {falling}f}}" for rising, falling in constants.bands]),
            "#endif",
            "",
        ]
    )


def _array(declaration: str, numbers: Iterable[object]) -> list[str]:
    text = ", ".join(f"{number}f" if isinstance(number, np.float32) else str(number) for number in numbers)
    # An FFT of one pass has no turns, but C has no empty arrays.
    lines = textwrap.wrap(text or "0", 114, initial_indent="  ", subsequent_indent="  ", break_long_words=False)
    return [f"static const {declaration} = {{", *lines, "};", ""]


def _pairs(turns: Complex) -> np.ndarray:
    return np.stack(turns, axis=-1).ravel()


def _crc_table() -> list[str]:
    """Row i has the checksum of each half byte followed by i half bytes of 0."""
    row = list(range(16))
    rows = []
    for _ in range(8):
        for _ in range(4):
            row = [value >> 1 ^ (CRC_POLYNOMIAL if value & 1 else 0) for value in row]
        rows.append("{" + ", ".join(f"0x{value:08X}" for value in row) + "}")
    return rows


if __name__ == "__main__":
    sys.stdout.write(c_tables(LogMelConfig()))
