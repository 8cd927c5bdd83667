"""The optimizer, the catalogue or an event fails or hangs: readers notice nothing, status tells.

Failures are put into the worker by a `sitecustomize` module on its PYTHONPATH.
"""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import MountStarter
from tests.mount.harness import MountedTree
from tests.mount.slow_sources import MIB, make_gguf, read_whole, wait_until, write_file

_SIZE = 3 * MIB


def _long(*values: str) -> Any:
    """A case for the long run: it takes the same way as one of the quick run."""
    return pytest.param(*values, marks=pytest.mark.long)


# Patches a module's attribute as soon as that module is imported: what patches runs at start.
_WHEN_IMPORTED = """
import importlib.abc
import importlib.util
import sys

class _Patching(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        self.loader = spec.loader
        spec.loader = self
        return spec
    def create_module(self, spec):
        return self.loader.create_module(spec)
    def exec_module(self, module):
        self.loader.exec_module(module)
        patch(module)

sys.meta_path.insert(0, _Patching())

def fail(*args, **kwargs):
    raise RuntimeError("put in by the test")

def hang(*args, **kwargs):
    import time
    time.sleep(1000)
"""


@pytest.fixture
def patched(tmp_path: Path, mounted: MountStarter) -> Callable[[str, str], MountedTree]:
    """`patched(module, body)`: a mount of three models whose worker ran `body` on the module."""

    def start(module: str, body: str) -> MountedTree:
        patches = tmp_path / "patches"
        patches.mkdir()
        lines = f"MODULE = {module!r}\n{_WHEN_IMPORTED}\ndef patch(module):\n"
        (patches / "sitecustomize.py").write_text(lines + textwrap.indent(body, "    "))
        for number in range(3):
            write_file(tmp_path / "source" / f"model-{number}.gguf", make_gguf(_SIZE, number))
        tree = mounted(tmp_path / "source", environment={"PYTHONPATH": str(patches)})
        tree.expected_traceback = True  # the first failure of each kind is logged with its place
        return tree

    return start


def _check_reads(tree: MountedTree) -> None:
    for number in range(3):
        assert read_whole(f"{tree.path}/model-{number}.gguf") == make_gguf(_SIZE, number)


@pytest.mark.parametrize(
    ("module", "body", "failing"),
    [
        ("optimizer.optimizer", "module.ServingOptimizer.__init__ = fail", "start"),
        _long("optimizer.optimizer", "module.ServingOptimizer.register_model = fail", "start"),
        ("optimizer.optimizer", "module.ServingOptimizer.observe = fail", "observe"),
        _long(
            "optimizer.optimizer", "module.ServingOptimizer.get_serving_metrics = fail", "recommend"
        ),
        _long("optimizer.optimizer", "module.ServingOptimizer.is_round_due = fail", "round"),
        (
            "optimizer.optimizer",
            "module.ServingOptimizer.is_round_due = lambda self: True\n"
            "module.ServingOptimizer.perform_optimization = fail",
            "round",
        ),
        (
            "optimizer.optimizer",
            "module.ServingOptimizer.optimize_model_access = fail",
            "recommend",
        ),
        ("fusemount.catalog", "module.Catalog.visit = fail", "catalogue"),
        _long("fusemount.catalog", "module.Catalog.visit_top = fail", "start"),
        _long("fusemount.catalog", "module.Catalog.model_of = fail", "observe"),
    ],
)
def test_failure_changes_nothing_for_readers_and_shows_in_status(
    patched: Callable[[str, str], MountedTree], module: str, body: str, failing: str
) -> None:
    tree = patched(module, body)
    _check_reads(tree)
    wait_until(lambda: failing in tree.status()["optimizer"]["failures"], "the failure shows")
    status = tree.status()
    assert status["optimizer"]["failures"][failing] >= 1
    assert "put in by the test" in status["optimizer"]["last_failure"]
    assert any("the optimizer failed" in line for line in status["degraded"])
    assert status["reads"]["errors"] == 0
    _check_reads(tree)


@pytest.mark.parametrize(
    "event",
    [
        "None",
        _long("event._replace(path=None)"),
        _long("event._replace(size='many')"),
        _long("event._replace(kind=None)"),
        "event._replace(timestamp=float('nan'), offset=-1)",
    ],
)
def test_malformed_event_is_the_optimizers_trouble_only(
    patched: Callable[[str, str], MountedTree], event: str
) -> None:
    body = f"""\
emit = module.Feed.emit
def emit_malformed(self, event):
    emit(self, event)
    if event.kind.name == "READ":
        self._events.append({event})
module.Feed.emit = emit_malformed
"""
    tree = patched("fusemount.feed", body)
    _check_reads(tree)
    wait_until(lambda: tree.status()["tables"]["open_files"] == 0, "every file is released")
    _check_reads(tree)
    status = tree.status()
    assert status["reads"]["errors"] == 0
    # Events that come later are observed still.
    observed = status["optimizer"]["events_observed"]
    wait_until(lambda: _observed_after_a_read(tree) > observed, "events are observed again")


def _observed_after_a_read(tree: MountedTree) -> int:
    read_whole(f"{tree.path}/model-0.gguf")
    observed: int = tree.status()["optimizer"]["events_observed"]
    return observed


@pytest.mark.parametrize("place", ["__init__", "observe", "optimize_model_access"])
def test_hanging_optimizer_holds_up_nobody(
    patched: Callable[[str, str], MountedTree], place: str
) -> None:
    tree = patched("optimizer.optimizer", f"module.ServingOptimizer.{place} = hang")
    _check_reads(tree)
    assert tree.status()["reads"]["errors"] == 0


def test_events_beyond_the_bound_are_dropped_and_counted(
    patched: Callable[[str, str], MountedTree],
) -> None:
    body = """\
import optimizer
optimizer.ServingOptimizer.observe = hang
initialize = module.Feed.__init__
module.Feed.__init__ = lambda self: initialize(self, 20)
"""
    tree = patched("fusemount.feed", body)
    for _ in range(10):
        _check_reads(tree)
    status = tree.status()
    assert status["optimizer"]["events_dropped"] > 0
    assert any("events were dropped" in line for line in status["degraded"])
    assert status["reads"]["errors"] == 0
