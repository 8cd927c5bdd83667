"""Stand-ins for what the source, the catalogue and the optimizer give to the core modules."""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import trio

from fusemount.catalog import Format, Framework, Model, ModelFile, Problem
from fusemount.formats.entries import TreeEntry
from fusemount.formats.model import FileRole, make_model
from fusemount.identity import Found
from optimizer import AccessEvent, ModelServingInfo, ServingOptimizer

_DEADLINE_S = 20.0


async def wait_until(is_reached: Callable[[], object]) -> None:
    """Return once the condition holds; raises trio.TooSlowError after 20 s."""
    with trio.fail_after(_DEADLINE_S):
        while not is_reached():  # noqa: ASYNC110 - threads change it, which set no trio.Event
            await trio.sleep(0.001)


def make_found(
    kind: int = stat.S_IFREG,
    *,
    identity: bytes | None = None,
    size_bytes: int = 0,
    mtime_ns: int = 0,
    ctime_ns: int = 0,
    number: int = 1,
) -> Found:
    """What a source would say of a file of that kind."""
    whole = (kind | 0o644, number, 1, 1, 0, 0, size_bytes, 0, mtime_ns // 10**9, ctime_ns // 10**9)
    times_s = (0.0, mtime_ns / 1e9, ctime_ns / 1e9)
    return Found(os.stat_result((*whole, *times_s, 0, mtime_ns, ctime_ns)), identity)


def make_directory(identity: bytes | None = None, number: int = 1) -> Found:
    """What a source would say of a directory."""
    return make_found(stat.S_IFDIR, identity=identity, number=number)


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def fake_model(path: str, *names: str, size_bytes: int = 1000) -> Model:
    """A model in a folder, with weights of that size in files of these names."""
    files = [
        ModelFile(f"{path}/{name}", size_bytes, FileRole.WEIGHTS, 0)
        for name in names or ("model.bin",)
    ]
    return make_model(
        path,
        path,
        "1",
        framework=Framework.SAFETENSORS,
        weights_format=Format.SAFETENSORS,
        files=files,
    )


class FakeCatalog:
    """A catalogue that finds in a directory what a test put there, or fails."""

    def __init__(self, top: Iterable[Model] = ()) -> None:
        self.top = list(top)
        self.below: dict[str, list[Model]] = {}
        self.grown: dict[str, list[Model]] = {}
        self.visits: list[str] = []
        self.looked_again: list[str] = []
        self.failing: set[str] = set()
        self.removed: deque[str] = deque()
        self.problems: tuple[Problem, ...] = ()
        self._owners: dict[str, Model] = {}

    def own(self, *models: Model) -> None:
        """Files of these models belong to them from now on."""
        for model in models:
            for file in model.files:
                self._owners[file.path] = model

    def remove(self, model: Model) -> None:
        """The model has gone from the tree."""
        for file in model.files:
            self._owners.pop(file.path, None)
        self.removed.append(model.model_id)

    def visit_top(self, levels: int) -> Iterator[list[Model]]:
        self.own(*self.top)
        if "top" in self.failing:
            raise RuntimeError("top")
        yield self.top

    def visit(self, directory: str, entries: Sequence[TreeEntry] | None = None) -> list[Model]:
        self.visits.append(directory)
        if directory in self.failing:
            raise RuntimeError(directory)
        models = self.below.get(directory, [])
        self.own(*models)
        return models

    def take_removed(self) -> list[str]:
        removed = list(self.removed)
        self.removed.clear()
        return removed

    def look_again(self, model_id: str) -> list[Model]:
        self.looked_again.append(model_id)
        models = self.grown.get(model_id, [])
        self.own(*models)
        return models

    def model_of(self, path: str) -> Model | None:
        return self._owners.get(path)


class FailingOptimizer(ServingOptimizer):
    """An optimizer that raises in the stages that `failing` names, and tells what it observed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)
        self.failing: set[str] = set()
        self.observed: list[AccessEvent] = []

    def _fail(self, stage: str) -> None:
        if stage in self.failing:
            raise RuntimeError(stage)

    def register_model(self, info: ModelServingInfo) -> None:
        self._fail("register")
        super().register_model(info)

    def observe(self, events: Iterable[AccessEvent]) -> None:
        self._fail("observe")
        taken = list(events)
        self.observed += taken
        super().observe(taken)

    def is_round_due(self) -> bool:
        self._fail("round")
        return super().is_round_due()
