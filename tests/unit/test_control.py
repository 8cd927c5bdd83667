"""The optimizer's thread: what it is told, what it publishes, what it survives."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from fusemount.config import Configuration, ModelSettings
from fusemount.control import Control, Publication
from fusemount.feed import Feed, RawEvent
from fusemount.formats.model import Model
from fusemount.policy import FilePolicy
from optimizer import AccessKind, ModelServingInfo, Origin, ServingOptimizer
from tests.unit.fakes import FailingOptimizer, FakeCatalog, fake_model

_DEADLINE_S = 20.0


class Running:
    """A control with a fake catalogue and what it has published."""

    def __init__(
        self,
        top: tuple[Model, ...] = (),
        settings: tuple[ModelSettings, ...] = (),
        make_optimizer: Callable[[], ServingOptimizer] | None = None,
    ) -> None:
        self.feed = Feed()
        self.catalog = FakeCatalog(top)
        self.optimizer = FailingOptimizer(time.monotonic)
        self.published: queue.Queue[tuple[Publication, list[Model]]] = queue.Queue()
        self.policies: dict[str, FilePolicy] = {}
        self.preloaded: list[str] = []
        self.control = Control(
            self.feed,
            self.catalog,  # type: ignore[arg-type]
            Configuration(models=settings),
            lambda publication, models: self.published.put((publication, models)),
            make_optimizer or (lambda: self.optimizer),
        )

    @contextlib.contextmanager
    def started(self) -> "Iterator[Running]":
        self.control.start()
        try:
            assert self.control.first_look.wait(_DEADLINE_S)
            yield self
        finally:
            self.control.stop()
            for thread in threading.enumerate():
                if thread.name == "optimizer":
                    thread.join(_DEADLINE_S)
                    assert not thread.is_alive()

    def take(self) -> Publication:
        """The next publication, applied."""
        publication, models = self.published.get(timeout=_DEADLINE_S)
        for path, policy in publication.changed.items():
            if policy is None:
                self.policies.pop(path, None)
            else:
                self.policies[path] = policy
        self.preloaded += [model.model_id for model in models]
        return publication

    def look_into(self, directory: str, *models: Model) -> None:
        self.catalog.below[directory] = list(models)
        self.control.look_into(directory)

    def open(self, path: str, size_bytes: int = 1000) -> None:
        self.feed.emit(RawEvent(AccessKind.OPEN, path, 0, size_bytes, 0.0, Origin.NONE, 1, 1, 0.0))

    def wait_until(self, is_reached: Callable[[], object]) -> None:
        deadline = time.monotonic() + _DEADLINE_S
        while not is_reached():
            assert time.monotonic() < deadline, "not reached"
            time.sleep(0.002)


def test_models_at_the_top_have_policies_at_the_first_look() -> None:
    running = Running((fake_model("m", "a", "b"),))
    with running.started():
        publication = running.take()
    assert set(running.policies) == {"m/a", "m/b"}
    assert [model["model_id"] for model in publication.models] == ["m"]
    assert publication.models[0]["recommendation"]["reasons"]
    assert publication.metrics["active_models"] == 1


def test_directory_that_is_looked_into_gives_its_models_policies() -> None:
    with Running().started() as running:
        running.look_into("deep/m", fake_model("deep/m"))
        running.take()
    assert running.policies["deep/m/model.bin"].model_id == "deep/m"


def test_configured_pattern_decides_the_policy() -> None:
    settings = (ModelSettings(pattern="*", serving_pattern="batch", batch_size=8),)
    running = Running((fake_model("m"),), settings)
    with running.started():
        running.take()
    policy = running.policies["m/model.bin"]
    assert (policy.strategy, policy.first_window_bytes) == ("aggressive", 8 * 64 * 1024)
    assert policy.keeps_read
    assert policy.keeps_prefetched


def test_opens_reach_the_optimizer_with_their_model() -> None:
    running = Running((fake_model("m"),))
    with running.started():
        running.open("m/model.bin")
        running.open("strange")
        running.wait_until(lambda: running.control.events_observed == 2)
    assert [event.model_id for event in running.optimizer.observed] == ["m", None]


def test_open_makes_new_advice() -> None:
    running = Running((fake_model("m"),))
    with running.started():
        running.take()
        running.open("m/model.bin")
        assert "m/model.bin" in running.take().changed


def test_file_that_has_another_size_than_known_is_looked_at_again() -> None:
    running = Running((fake_model("m", size_bytes=1000),))
    running.catalog.grown["m"] = [fake_model("m", size_bytes=2000)]
    with running.started():
        running.take()
        running.open("m/model.bin", 2000)
        publication = running.take()
    assert running.catalog.looked_again == ["m"]
    assert publication.models[0]["size_bytes"] == 2000


def test_file_of_the_known_size_is_not_looked_at_again() -> None:
    running = Running((fake_model("m", size_bytes=1000),))
    with running.started():
        running.take()
        running.open("m/model.bin", 1000)
        running.take()
    assert running.catalog.looked_again == []


def test_preload_is_asked_for_once_a_version() -> None:
    settings = (ModelSettings(pattern="*", serving_pattern="realtime"),)
    running = Running((fake_model("m"),), settings)
    with running.started():
        running.take()
        running.open("m/model.bin")
        running.take()
        assert running.preloaded == ["m"]
        running.look_into("", fake_model("m", size_bytes=2000))
        running.take()
    assert running.preloaded == ["m", "m"]


def test_preloads_come_by_priority() -> None:
    settings = (
        ModelSettings(pattern="low", serving_pattern="realtime"),
        ModelSettings(pattern="high", serving_pattern="ensemble"),
    )
    running = Running((fake_model("low"), fake_model("high")), settings)
    with running.started():
        running.take()
    assert running.preloaded == ["high", "low"]


def test_policies_of_a_removed_model_go_and_status_forgets_it() -> None:
    running = Running((fake_model("m"), fake_model("n")))
    with running.started():
        running.take()
        running.catalog.remove(running.catalog.top[0])
        running.look_into("m")
        publication = running.take()
    assert set(running.policies) == {"n/model.bin"}
    assert [model["model_id"] for model in publication.models] == ["n"]


def test_removed_model_whose_file_another_owns_is_forgotten_too() -> None:
    running = Running((fake_model("m"), fake_model("n")))
    with running.started():
        running.take()
        gone, heir = running.catalog.top
        running.catalog.remove(gone)
        running.catalog._owners["m/model.bin"] = heir
        running.look_into("m")
        publication = running.take()
    assert "m/model.bin" in running.policies
    assert [model["model_id"] for model in publication.models] == ["n"]


def test_file_that_left_its_model_has_no_policy() -> None:
    running = Running((fake_model("m", "a", "b"),))
    with running.started():
        running.take()
        del running.catalog._owners["m/b"]
        running.look_into("m", fake_model("m", "a"))
        running.take()
    assert set(running.policies) == {"m/a"}


def test_directory_is_looked_at_once_within_the_interval() -> None:
    with Running().started() as running:
        for _ in range(20):
            running.look_into("d")
        running.look_into("other")
        running.wait_until(lambda: "other" in running.catalog.visits)
    assert running.catalog.visits == ["d", "other"]


def test_directory_is_looked_at_again_after_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusemount.control._REVISIT_S", 0.05)
    with Running().started() as running:
        running.look_into("d")
        running.wait_until(lambda: running.catalog.visits == ["d"])
        time.sleep(0.06)
        running.look_into("d")
        running.wait_until(lambda: running.catalog.visits == ["d", "d"])


def test_failing_catalogue_is_counted_and_observing_goes_on() -> None:
    with Running().started() as running:
        running.catalog.failing.add("bad")
        running.look_into("bad")
        running.wait_until(lambda: running.control.failures.get("catalogue"))
        running.look_into("m", fake_model("m"))
        running.take()
        running.open("m/model.bin")
        running.wait_until(lambda: running.control.events_observed)
    assert running.control.failures == {"catalogue": 1}
    assert "bad" in running.control.last_failure


def test_failing_first_look_does_not_end_the_thread() -> None:
    running = Running((fake_model("m"),))
    running.catalog.failing.add("top")
    with running.started():
        running.look_into("m", fake_model("m"))
        running.take()
    assert running.control.failures == {"start": 1}
    assert "m/model.bin" in running.policies


@pytest.mark.parametrize("stage", ["observe", "round"])
def test_failing_optimizer_is_counted_and_advice_goes_on(stage: str) -> None:
    running = Running((fake_model("m"),))
    with running.started():
        running.take()
        running.optimizer.failing.add(stage)
        running.open("m/model.bin")
        running.wait_until(lambda: running.control.failures.get(stage))
        running.look_into("n", fake_model("n"))
        while "n/model.bin" not in running.policies:
            running.take()
    assert set(running.control.failures) == {stage}


def test_model_that_cannot_be_registered_does_not_hold_up_those_known() -> None:
    running = Running((fake_model("m"),))
    with running.started():
        running.take()
        running.optimizer.failing.add("register")
        running.look_into("n", fake_model("n"))
        running.wait_until(lambda: running.control.failures.get("catalogue"))
        running.open("m/model.bin")
        assert "m/model.bin" in running.take().changed


def test_optimizer_that_cannot_be_made_leaves_reads_without_advice() -> None:
    def fail() -> ServingOptimizer:
        raise RuntimeError("plugin")

    running = Running((fake_model("m"),), make_optimizer=fail)
    with running.started():
        running.open("m/model.bin")
        running.wait_until(lambda: not running.feed._events)
    assert running.published.empty()
    assert running.control.failures == {"start": 1}


def test_hanging_optimizer_holds_up_neither_events_nor_directories() -> None:
    hang, reached = threading.Event(), threading.Event()

    class Hanging(ServingOptimizer):
        def register_model(self, info: ModelServingInfo) -> None:
            reached.set()
            hang.wait(_DEADLINE_S)

    running = Running(make_optimizer=lambda: Hanging(clock=time.monotonic))
    with running.started():
        running.look_into("m", fake_model("m"))
        assert reached.wait(_DEADLINE_S)
        for number in range(running.feed._capacity + 10):
            running.open("m/model.bin")
            running.control.look_into(str(number))
        assert running.feed.dropped == 10
        hang.set()


def test_forgotten_model_is_registered_anew() -> None:
    class Forgetful(ServingOptimizer):
        registered = 0

        def register_model(self, info: ModelServingInfo) -> None:
            self.registered += 1
            if self.registered > 1:
                super().register_model(info)

    optimizer = Forgetful(clock=time.monotonic)
    running = Running((fake_model("m"),), make_optimizer=lambda: optimizer)
    with running.started():
        running.take()
    assert optimizer.registered == 2
    assert running.policies["m/model.bin"].model_id == "m"
