"""Loads models before they are asked for: their files, in the order in which loaders read them.

One model at a time, by priority, with a bounded number of fetches in flight, below every reader's
prefetch. What does not fit in memory is left to the reader; status says how far it came.
"""

import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import trio

from fusemount.errors import SourceTimeoutError
from fusemount.filesystem import Filesystem, is_regular
from fusemount.formats.model import Model
from fusemount.policy import UNKNOWN
from fusemount.readahead import Plan
from fusemount.source_tree import SourceTree
from fusemount.store.content import Content, Extent
from fusemount.store.extents import EXTENT_BYTES
from fusemount.store.memory import Need

_log = logging.getLogger(__name__)

# Fetches of 1 MiB on their way, at which preloading waits: as many streams as fill a fast source.
_FETCHES_IN_FLIGHT = 64
# Below the priority of any reader (the optimizer's start at 0).
_PRIORITY = -1
_POLL_S = 0.005


@dataclass(slots=True, eq=False)
class PreloadProgress:
    """How far a model's preload has come; `state`: waiting, loading, done, partial, failed."""

    model_id: str
    total_bytes: int
    loaded_bytes: int = 0
    state: str = "waiting"
    reason: str = ""


class Preloader:
    """Runs as one task; `request` from the event loop."""

    def __init__(self, filesystem: Filesystem, tree: SourceTree) -> None:
        self._filesystem = filesystem
        self._tree = tree
        self._queue: deque[Model] = deque()
        self._wake = trio.Event()
        self.progress: dict[str, PreloadProgress] = {}

    def request(self, models: list[Model]) -> None:
        """Preload these models after those that wait already."""
        for model in models:
            self.progress[model.model_id] = PreloadProgress(model.model_id, model.size_bytes)
            self._queue.append(model)
        self._wake.set()

    async def run(self) -> None:
        """Load what is requested, until cancelled."""
        while True:
            while self._queue:
                await self._load(self._queue.popleft())
            self._wake = trio.Event()
            if not self._queue:
                await self._wake.wait()

    async def _load(self, model: Model) -> None:
        progress = self.progress[model.model_id]
        progress.state = "loading"
        try:
            for file in model.files:
                if not await self._load_file(file.path, progress):
                    progress.state = "partial"
                    return
            progress.state = "done"
        except (OSError, SourceTimeoutError) as error:
            progress.state, progress.reason = "failed", f"{error!r}"
            _log.warning("preload of %s failed: %r", model.model_id, error)
        except Exception as error:  # a defect of ours must not end the mount
            progress.state, progress.reason = "failed", f"{error!r}"
            _log.exception("preload of %s failed", model.model_id)

    async def _load_file(self, path: str, progress: PreloadProgress) -> bool:
        """Load one file; False where memory ran out."""
        filesystem = self._filesystem
        source = filesystem.source
        fd = await source.call(False, self._tree.open_file, path, discard=os.close)
        try:
            found = await source.call(False, source.find_open, fd)
            if not is_regular(found):
                os.close(fd)
                return True
        except BaseException:
            os.close(fd)
            raise
        policy = filesystem.policies.get(path, UNKNOWN)
        content = filesystem.open_for_preload(path, found, fd, policy)
        try:
            if policy.is_pinned and not content.is_pinned:
                progress.reason = "larger than what may be held in memory: streamed instead"
                return False
            return await self._fill(content, progress)
        finally:
            content.release()
            filesystem.store.forget_unused(content)

    async def _fill(self, content: Content, progress: PreloadProgress) -> bool:
        count = -(-content.size_bytes // EXTENT_BYTES)
        for index in range(count):
            await self._in_time(self._room)
            start = index * EXTENT_BYTES
            plan = Plan(start, min(start + EXTENT_BYTES, content.size_bytes))
            self._filesystem.filler.prefetch(content, plan, _PRIORITY, Need.PRELOAD)
            if index not in content.extents:
                progress.reason = "no memory left for it"
                return False
        for extent in list(content.extents.values()):
            await self._in_time(partial(_arrival, extent))
        if not content.is_current:
            progress.reason = "the file changed while it was loaded"
            return False
        missing = [
            extent.index
            for extent in content.extents.values()
            if extent.present & extent.all_units != extent.all_units
        ]
        if missing:
            progress.reason = f"{len(missing)} extents could not be fetched"
            return False
        progress.loaded_bytes += content.size_bytes
        return True

    async def _in_time(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Wait within the source's deadline; a hung file must not hold up the other models."""
        with trio.move_on_after(self._filesystem.source.deadline_s) as scope:
            await wait()
        if scope.cancelled_caught:
            raise SourceTimeoutError("the source did not answer in time")

    async def _room(self) -> None:
        while self._filesystem.fetch.in_flight >= _FETCHES_IN_FLIGHT:  # noqa: ASYNC110
            # Any reader's fetch counts too: there is no one event to wait for.
            await trio.sleep(_POLL_S)


async def _arrival(extent: Extent) -> None:
    while extent.fetching:
        await extent.wait()
