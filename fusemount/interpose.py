"""The small C part: loads it before pyfuse3, and tells whether it is in effect.

Without it the mount works with a blocking descriptor, and status says so. Invariant: the
descriptor is made non-blocking only after a receive was seen to go through the C part.
"""

import ctypes
import os
import sys
from typing import Protocol


class _Module(Protocol):
    __file__: str

    def receive_count(self) -> int: ...
    def built_for(self) -> int: ...
    def running_on(self) -> int: ...


def _version(number: int) -> str:
    return f"{number // 100}.{number % 100}"


class Interposer:
    """Result of loading the C part; `missing` says in words why it is not used, or is empty."""

    def __init__(self, module: _Module | None, missing: str) -> None:
        self._module = module
        self.missing = missing

    def in_effect(self) -> bool:
        """Whether pyfuse3 was seen to receive through the C part."""
        return self._module is not None and self._module.receive_count() > 0


def load_interposer() -> Interposer:
    """Load the C part so that pyfuse3, imported later, binds to it. Never raises."""
    if "pyfuse3" in sys.modules:
        return Interposer(None, "pyfuse3 was imported before it")
    if os.environ.get("FUSEMOUNT_NO_C_PART"):
        return Interposer(None, "switched off by FUSEMOUNT_NO_C_PART")
    try:
        # Loaded privately first: what is refused must not be what pyfuse3 binds to.
        from fusemount import _interpose  # type: ignore[attr-defined,unused-ignore]  # noqa: PLC0415
    except ImportError as error:
        return Interposer(None, f"not built ({error})")
    module: _Module = _interpose
    built_for, running_on = module.built_for(), module.running_on()
    if built_for != running_on:
        return Interposer(
            None,
            f"built for libfuse {_version(built_for)}, but {_version(running_on)} is loaded:"
            " reinstall fusemount",
        )
    try:
        ctypes.CDLL(module.__file__, mode=os.RTLD_GLOBAL | os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError as error:
        return Interposer(None, f"cannot be made global ({error})")
    return Interposer(module, "")
