"""Rules of every test: which run, what they may leave behind, how property tests sample."""

import os
from collections.abc import Iterator

import hypothesis
import pytest

from tests.leftovers import Snapshot, adopt_orphans, clean_up, find_leftovers, take_snapshot
from tests.mountability import why_no_mount

_skipped_mount_tests = pytest.StashKey[int]()

# The same examples in every run: a failure is the change's, not the day's.
hypothesis.settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# Fresh examples in every run, and many; a failing one is printed so that it can be kept.
hypothesis.settings.register_profile(
    "long",
    max_examples=2000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long as well")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_skipped_mount_tests] = 0
    hypothesis.settings.load_profile("long" if config.getoption("--long") else "ci")
    adopt_orphans()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        long = [item for item in items if item.get_closest_marker("long")]
        if long:
            config.hook.pytest_deselected(items=long)
            items[:] = [item for item in items if not item.get_closest_marker("long")]
    mounting = any(item.get_closest_marker("mount") for item in items)
    if mounting and os.environ.get("FUSEMOUNT_REQUIRE_MOUNT") == "1" and why_no_mount():
        raise pytest.UsageError(
            f"real-mount tests cannot run ({why_no_mount()}) and FUSEMOUNT_REQUIRE_MOUNT=1"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # Skipped from here, not by a mark: the summary then folds all of them into one line.
    if item.get_closest_marker("mount") and why_no_mount():
        item.config.stash[_skipped_mount_tests] += 1
        pytest.skip(why_no_mount())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    skipped = config.stash[_skipped_mount_tests]
    if skipped:
        terminalreporter.write_line(
            f"{skipped} REAL-MOUNT TESTS SKIPPED: {why_no_mount()}"
            " (FUSEMOUNT_REQUIRE_MOUNT=1 makes this an error)",
            red=True,
            bold=True,
        )


def _fail_on_leftovers(before: Snapshot, with_descriptors: bool) -> None:
    found = find_leftovers(before, with_descriptors=with_descriptors)
    if found:
        names = found.describe()
        clean_up(found)
        pytest.fail(f"left behind: {names}", pytrace=False)


def _temporary_root(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return os.fsencode(tmp_path_factory.getbasetemp().resolve())


@pytest.fixture(scope="session", autouse=True)
def _clean_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # Catches what fixtures of a wider scope leave. Libraries loaded meanwhile may keep
    # descriptors for good, so these are watched test by test only.
    before = take_snapshot(_temporary_root(tmp_path_factory))
    yield
    _fail_on_leftovers(before, with_descriptors=False)


@pytest.fixture(autouse=True)
def _clean_test(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # Set up before every other fixture of the test, so checked after all of them are gone.
    before = take_snapshot(_temporary_root(tmp_path_factory))
    yield
    _fail_on_leftovers(before, with_descriptors=True)
