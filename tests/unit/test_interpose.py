"""The C part is loaded before pyfuse3 and for its own libfuse only; tried in fresh interpreters."""

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]

# A fuse session that receives from a socket pair: pyfuse3 then calls what it is bound to.
_RECEIVE = """
import os, socket, struct
import pyfuse3, trio

class Operations(pyfuse3.Operations):
    def init(self):
        init_called.set()

async def serve():
    global init_called
    init_called = trio.Event()
    kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pyfuse3.init(Operations(), f"/dev/fd/{device.fileno()}", set())
    body = struct.pack("<IIIII", 7, 36, 131072, 0x3FFFFFFF, 0).ljust(64, bytes(1))
    kernel.send(struct.pack("<IIQQIIII", 40 + len(body), 26, 1, 0, 0, 0, 0, 0) + body)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        with trio.fail_after(20):
            await init_called.wait()
        nursery.cancel_scope.cancel()
"""


def run(script: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=_ROOT,
        env={"PYTHONPATH": str(_ROOT), "PATH": "/usr/bin:/bin", **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_loaded_first_pyfuse3_receives_through_it() -> None:
    script = f"""
from fusemount.interpose import load_interposer
interposer = load_interposer()
assert interposer.missing == "", interposer.missing
assert not interposer.in_effect()
{_RECEIVE}
trio.run(serve)
print(interposer.in_effect(), flush=True)
os._exit(0)
"""
    assert run(script) == "True"


def test_loaded_privately_pyfuse3_does_not_receive_through_it() -> None:
    script = f"""
from fusemount import _interpose
{_RECEIVE}
trio.run(serve)
print(_interpose.receive_count(), flush=True)
os._exit(0)
"""
    assert run(script) == "0"


def test_after_pyfuse3_it_says_so() -> None:
    script = """
import sys
sys.modules["pyfuse3"] = sys
from fusemount.interpose import load_interposer
interposer = load_interposer()
print(interposer.missing, interposer.in_effect())
"""
    assert run(script) == "pyfuse3 was imported before it False"


def test_switched_off_by_the_environment() -> None:
    script = """
import sys
from fusemount.interpose import load_interposer
print(load_interposer().missing, "fusemount._interpose" in sys.modules)
"""
    assert run(script, FUSEMOUNT_NO_C_PART="1") == "switched off by FUSEMOUNT_NO_C_PART False"


# Stands in for the compiled module: sys.modules and the package's attribute are what is imported.
_FAKE = """
import sys, types, fusemount
fake = types.ModuleType("fusemount._interpose")
fake.__file__ = {file!r}
fake.built_for, fake.running_on = lambda: {built}, lambda: {running}
fake.receive_count = lambda: 1
sys.modules["fusemount._interpose"] = fusemount._interpose = fake
from fusemount.interpose import load_interposer
interposer = load_interposer()
print(interposer.missing, interposer.in_effect(), sep="|")
"""


@pytest.mark.parametrize(("built", "running"), [(314, 317), (317, 314)])
def test_another_libfuse_is_refused(built: int, running: int) -> None:
    said = run(_FAKE.format(file="x", built=built, running=running))
    expected = f"built for libfuse 3.{built % 100}, but 3.{running % 100} is loaded"
    assert said == f"{expected}: reinstall fusemount|False"


def test_what_cannot_be_made_global_is_not_used() -> None:
    said = run(_FAKE.format(file="/missing.so", built=314, running=314))
    assert said.startswith("cannot be made global (")
    assert said.endswith("|False")


def test_where_it_is_not_built_it_says_so() -> None:
    script = """
import sys
sys.modules["fusemount._interpose"] = None
from fusemount.interpose import load_interposer
print(load_interposer().missing)
"""
    assert run(script).startswith("not built (")
