"""The C parts, which pyproject.toml cannot describe: they need what pkg-config knows of libfuse.

Both are optional: without libfuse's headers or a compiler the package still installs, and says at
run time what is missing.
"""

import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup

_SLOWSOURCE = sorted(str(path) for path in Path("fusemount").glob("_slowsource*.c"))
_INTERPOSE = Path("fusemount/_interpose.c")


def ask_pkg_config(option: str) -> list[str] | None:
    """What pkg-config answers for fuse3, or None if it or fuse3 is not there."""
    command = ["pkg-config", option, "fuse3"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"setup.py: no C parts: {shlex.join(command)}: {error}", file=sys.stderr)
        return None
    return shlex.split(done.stdout)


def list_extensions() -> list[Extension]:
    compile_flags, link_flags = ask_pkg_config("--cflags"), ask_pkg_config("--libs")
    if compile_flags is None or link_flags is None:
        return []
    flags = {
        "extra_compile_args": [*compile_flags, "-O2", "-Wall", "-Wextra", "-pthread"],
        "extra_link_args": [*link_flags, "-pthread"],
    }
    extensions = [
        Extension(
            "fusemount._slowsource",
            _SLOWSOURCE,
            depends=["fusemount/_slowsource.h"],
            optional=True,
            **flags,
        )
    ]
    if _INTERPOSE.exists():
        extensions.append(
            Extension("fusemount._interpose", [str(_INTERPOSE)], optional=True, **flags)
        )
    return extensions


setup(ext_modules=list_extensions())
