"""How much memory is taken by default, on fake cgroup trees."""

from pathlib import Path

import pytest

from fusemount import memory_budget
from fusemount.memory_budget import available_bytes, cgroup_limit_bytes, default_budget_bytes

MIB = 1024 * 1024
# What cgroup v1 shows where no limit is set.
V1_NO_LIMIT = str((1 << 63) // 4096 * 4096 - 4096)


class Cgroups:
    """A fake /proc/self/cgroup and /sys/fs/cgroup."""

    def __init__(self, directory: Path) -> None:
        self._root = directory / "sys"
        self._proc = directory / "cgroup"
        self._root.mkdir()

    def limit(self, path: str, name: str, value: str) -> None:
        directory = self._root / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"{value}\n")

    def ask(self, *lines: str) -> int | None:
        self._proc.write_text("".join(f"{line}\n" for line in lines))
        return cgroup_limit_bytes(str(self._proc), str(self._root))


@pytest.fixture
def cgroups(tmp_path: Path) -> Cgroups:
    return Cgroups(tmp_path)


def test_limit_of_version_2(cgroups: Cgroups) -> None:
    cgroups.limit("pod/app", "memory.max", "1000")
    assert cgroups.ask("0::/pod/app") == 1000


@pytest.mark.parametrize(("outer", "inner"), [("700", "900"), ("900", "700"), ("700", "max")])
def test_smallest_of_nested_limits_counts(cgroups: Cgroups, outer: str, inner: str) -> None:
    cgroups.limit("pod", "memory.max", outer)
    cgroups.limit("pod/app", "memory.max", inner)
    assert cgroups.ask("0::/pod/app") == 700


def test_limit_at_the_root_is_a_containers_own(cgroups: Cgroups) -> None:
    cgroups.limit("", "memory.max", "500")
    assert cgroups.ask("0::/") == 500


def test_max_is_no_limit(cgroups: Cgroups) -> None:
    cgroups.limit("pod", "memory.max", "max")
    assert cgroups.ask("0::/pod") is None


def test_limit_of_a_sibling_does_not_count(cgroups: Cgroups) -> None:
    cgroups.limit("other", "memory.max", "5")
    cgroups.limit("pod/app/below", "memory.max", "5")
    assert cgroups.ask("0::/pod/app") is None


def test_limit_of_version_1(cgroups: Cgroups) -> None:
    cgroups.limit("memory/docker/c", "memory.limit_in_bytes", "1000")
    assert cgroups.ask("9:memory:/docker/c", "3:cpu,cpuacct:/docker/c") == 1000


def test_controllers_mounted_together_are_told_apart(cgroups: Cgroups) -> None:
    cgroups.limit("memory/c", "memory.limit_in_bytes", "1000")
    assert cgroups.ask("9:hugetlb,memory:/c") == 1000
    assert cgroups.ask("9:memoryless:/c") is None


def test_huge_number_of_version_1_is_no_limit(cgroups: Cgroups) -> None:
    cgroups.limit("memory", "memory.limit_in_bytes", V1_NO_LIMIT)
    assert cgroups.ask("9:memory:/") is None


def test_both_versions_at_once_give_the_smaller(cgroups: Cgroups) -> None:
    cgroups.limit("memory/c", "memory.limit_in_bytes", "1000")
    cgroups.limit("c", "memory.max", "900")
    assert cgroups.ask("9:memory:/c", "0::/c") == 900


def test_path_with_a_colon_is_a_path(cgroups: Cgroups) -> None:
    cgroups.limit("a:b", "memory.max", "1000")
    assert cgroups.ask("0::/a:b") == 1000


def test_machine_without_cgroups_has_no_limit(tmp_path: Path) -> None:
    assert cgroup_limit_bytes(str(tmp_path / "missing"), str(tmp_path)) is None


@pytest.mark.parametrize(
    ("limit", "available", "budget"),
    [
        (None, 4000 * MIB, 1000 * MIB),
        (2000 * MIB, 4000 * MIB, 500 * MIB),
        (4000 * MIB, 2000 * MIB, 500 * MIB),
        (None, 256 * MIB, 64 * MIB),
        (None, 256 * MIB + 4, 64 * MIB + 1),
        (10 * MIB, 4000 * MIB, 64 * MIB),
    ],
)
def test_budget_is_a_quarter_of_the_smaller_but_not_nothing(
    monkeypatch: pytest.MonkeyPatch, limit: int | None, available: int, budget: int
) -> None:
    monkeypatch.setattr(memory_budget, "cgroup_limit_bytes", lambda: limit)
    monkeypatch.setattr(memory_budget, "available_bytes", lambda: available)
    assert default_budget_bytes() == budget


def test_available_memory_is_less_than_the_machine_has() -> None:
    with open("/proc/meminfo", encoding="ascii") as file:
        total = int(file.readline().split()[1]) * 1024
    assert 0 < available_bytes() <= total
