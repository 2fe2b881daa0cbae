from __future__ import annotations

import zlib
from pathlib import Path

import pytest

import hark
from hark.packed.engine_tables import c_tables
from hark.packed.front_end_settings import LogMelConfig

TABLES = Path(hark.__file__).parent / "engine" / "tables.h"


def test_the_tables_of_the_engine_are_those_that_are_made_here() -> None:
    assert TABLES.read_text() == c_tables(LogMelConfig()), (
        "run: python -m hark.packed.engine_tables > src/hark/engine/tables.h"
    )


def test_other_settings_give_other_tables_of_their_own_size() -> None:
    text = c_tables(LogMelConfig(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=32))
    assert "ROM_N_FFT = 256" in text
    window = text.split("rom_half_window[] = {")[1].split("}")[0]
    assert window.count("f") == 256


@pytest.mark.parametrize("data", [b"", b"123456789", bytes(range(256)) * 3])
def test_the_checksum_table_gives_the_checksum_of_zlib(data: bytes) -> None:
    """Half a byte at a time, by the first row."""
    row = TABLES.read_text().split("crc_table[8][16] = {")[1].split("{")[1].split("}")[0]
    table = [int(value, 16) for value in row.split(",")]
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(2):
            crc = crc >> 4 ^ table[crc & 15]
    assert crc ^ 0xFFFFFFFF == zlib.crc32(data)
