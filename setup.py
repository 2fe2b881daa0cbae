"""Builds the C engine into the package; all else about it is in pyproject.toml."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, PlatformError

ENGINE = Path("src/hark/engine")
# Each floating-point operation is rounded once, whatever the compiler would like: bits must not depend on it.
EXACT = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
WARNINGS = ["-Wall", "-Wextra", "-Werror=implicit-function-declaration"]
FLAGS = ["-O3", "-g0", "-fvisibility=hidden", *EXACT, *WARNINGS]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512", "-DHARK_LANES=16"]

IS_X86 = platform.machine().lower() in {"x86_64", "amd64"}
VARIANTS = {"scalar": ["-DHARK_LANES=1"], "baseline": []}
if IS_X86:
    VARIANTS |= {"avx2": ["-mavx2"], "avx512": AVX512}
MACROS = [("HARK_X86", None)] if IS_X86 else []
SOURCES = [str(path) for path in sorted(ENGINE.glob("*.[ch]"))]


class BuildEngine(build_ext):
    """Compiles the same source once for each set of instructions, then the module around it."""

    def build_extension(self, ext: Extension) -> None:
        """Build the objects of all variants and link them in."""
        try:
            for name, flags in VARIANTS.items():
                ext.extra_objects += self._compile_variant(name, flags)
            super().build_extension(ext)
        except (CCompilerError, CompileError, PlatformError) as error:
            sys.exit(
                f"hark's engine is C and could not be compiled ({error}); it takes gcc or clang and the headers "
                "of this Python, on Debian: apt install gcc python3-dev"
            )

    def _compile_variant(self, name: str, flags: list[str]) -> list[str]:
        return self.compiler.compile(
            [str(ENGINE / "variant.c")],
            output_dir=str(Path(self.build_temp) / name),
            macros=[("HARK_VARIANT", f"hark_{name}"), *MACROS],
            extra_postargs=["-std=c99", *FLAGS, *flags],
            depends=SOURCES,
        )


setup(
    cmdclass={"build_ext": BuildEngine},
    ext_modules=[
        Extension(
            "hark._engine",
            sources=[str(ENGINE / "python.c")],
            depends=SOURCES,
            define_macros=MACROS,
            extra_compile_args=FLAGS,
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
