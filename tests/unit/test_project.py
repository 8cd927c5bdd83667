"""The project's own files: nothing of one machine in them, packages and locks complete."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).resolve().parents[2]
# Written in parts, so that this file does not hold what it looks for.
_REGISTRY_WORDS = ("pypi" + ".org", "python" + "hosted", "index" + "-url", "find" + "-links")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)(?: ; [^\\]+)? \\$")
_HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}(?: \\)?$")


def _requirements() -> tuple[list[Requirement], list[Requirement]]:
    """What is asked for: to run, sample and develop; and to build."""
    document = tomllib.loads((_ROOT / "pyproject.toml").read_text())
    project, groups = document["project"], document["dependency-groups"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    build = [*groups["build"], *document["build-system"]["requires"]]
    return (
        [Requirement(line) for line in [*project["dependencies"], *extras]],
        [Requirement(line) for line in build],
    )


def _pins(lock: str) -> dict[str, list[str]]:
    """Locked versions by name; more than one where they differ between interpreters."""
    pins: dict[str, list[str]] = {}
    for line in (_ROOT / lock).read_text().splitlines():
        if match := _PIN.match(line):
            pins.setdefault(canonicalize_name(match[1]), []).append(match[2])
    return pins


@pytest.fixture(scope="module")
def tracked_files() -> list[Path]:
    if not (_ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [_ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_no_tracked_file_names_a_registry_or_this_checkout(tracked_files: list[Path]) -> None:
    checkout = re.compile(re.escape(str(_ROOT).encode()) + rb"(?![A-Za-z0-9_.-])")
    found = []
    for path in tracked_files:
        content = path.read_bytes()
        found += [(path.name, word) for word in _REGISTRY_WORDS if word.encode() in content]
        if len(_ROOT.parts) > 2 and checkout.search(content):
            found.append((path.name, str(_ROOT)))
    assert tracked_files
    assert found == []


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    directories = {
        ".".join(module.parent.relative_to(_ROOT).parts)
        for top in ("fusemount", "optimizer")
        for module in (_ROOT / top).rglob("*.py")
    }
    assert set(listed) == directories


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-build.txt"])
def test_lock_holds_pins_and_hashes_only(lock: str) -> None:
    lines = (_ROOT / lock).read_text().splitlines()
    strange = [line for line in lines if not (_PIN.match(line) or _HASH.match(line))]
    assert _pins(lock)
    assert strange == []


def test_locks_satisfy_what_is_asked_for() -> None:
    unmet = []
    for requirements, lock in zip(
        _requirements(), ("requirements.txt", "requirements-build.txt"), strict=True
    ):
        pins = _pins(lock)
        for requirement in requirements:
            versions = pins.get(canonicalize_name(requirement.name), [])
            if not versions or not all(map(requirement.specifier.contains, versions)):
                unmet.append((lock, str(requirement), versions))
    assert unmet == []
