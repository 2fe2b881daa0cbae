"""What to change in an example so that a parser gets far before it stumbles."""

from __future__ import annotations

import re

SCALAR = re.compile(rb'"(?:[^"\\\n]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\b(?:true|false|null)\b')
"""A value in JSON or TOML."""

ODD = (
    b"null", b"true", b"-1", b"0", b"1.5", b"1e999", b"-0.0", b"NaN", b"nan", b"inf", b'"NaN"', b"9" * 40,
    b"9" * 5000, b"18446744073709551616", b'""', b'"x"', b'"../x"', b'"\\u0000"', b'"\\ud800"', b'"\\u2028"',
    b"[]", b"[1, 2]", b"{}", b'{"x": 1}', b"[" * 2000, b'{"a":' * 2000, b"2021-01-01", b'"\xff"',
    b'"' + b"y" * 3000 + b'"',
)  # fmt: skip
"""Values that are right in form and wrong in all else."""

BORDERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1)
"""Numbers at which fields of some bytes end."""
