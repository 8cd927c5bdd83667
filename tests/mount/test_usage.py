"""Mistakes of a user: one clear line on standard error, exit code 2, nothing left mounted."""

import os
import subprocess
from pathlib import Path

import pytest

from fusemount.mountinfo import read_mounts
from tests.mount.commands import assert_refused, run_fusemount
from tests.mount.conftest import MountStarter

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes a mount namespace as root")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    (path / "model.bin").write_bytes(b"weights")
    return path


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mountpoint"
    path.mkdir()
    return path


def _nothing_mounted_below(path: Path) -> bool:
    inside = os.fsencode(path.resolve()) + b"/"
    return not any(mount.mountpoint.startswith(inside) for mount in read_mounts())


def test_usage_mount_point_missing(source: Path, tmp_path: Path) -> None:
    answer = run_fusemount("mount", source, tmp_path / "absent")
    assert_refused(answer, "mount point", "absent", "No such file or directory", "make it first")


def test_usage_mount_point_is_a_file(source: Path) -> None:
    answer = run_fusemount("mount", source, source / "model.bin")
    assert_refused(answer, "mount point", "not a directory")


def test_usage_mount_point_is_an_empty_name(source: Path) -> None:
    assert_refused(run_fusemount("mount", source, ""), "mount point", "empty name")


def test_usage_mount_point_not_empty(source: Path, mountpoint: Path, tmp_path: Path) -> None:
    (mountpoint / "mine").touch()
    answer = run_fusemount("mount", source, mountpoint)
    assert_refused(answer, "mount point", "not empty", "--allow-nonempty")
    assert _nothing_mounted_below(tmp_path)


def test_usage_mount_point_not_empty_is_hidden_when_allowed(source: Path, mountpoint: Path) -> None:
    (mountpoint / "mine").touch()
    answer = run_fusemount("mount", "--daemon", "--allow-nonempty", source, mountpoint)
    assert answer.returncode == 0, answer.stderr
    assert os.listdir(mountpoint) == ["model.bin"]
    assert run_fusemount("umount", mountpoint).returncode == 0
    assert os.listdir(mountpoint) == ["mine"]


def test_usage_mount_point_mounted_already(source: Path, mounted: MountStarter) -> None:
    tree = mounted(source)
    answer = run_fusemount("mount", source, tree.path)
    assert_refused(answer, tree.path, "already", "fusemount umount")
    assert os.listdir(tree.path) == ["model.bin"]


def test_usage_mount_point_inside_the_source(source: Path) -> None:
    (source / "inside").mkdir()
    answer = run_fusemount("mount", source, source / "inside")
    assert_refused(answer, "mount point", "inside the source")


def test_usage_mount_point_inside_the_source_by_a_link(source: Path, tmp_path: Path) -> None:
    (source / "inside").mkdir()
    (tmp_path / "link").symlink_to(source / "inside")
    answer = run_fusemount("mount", source, tmp_path / "link")
    assert_refused(answer, "mount point", "inside the source")


def test_usage_mount_point_is_the_source(source: Path) -> None:
    assert_refused(run_fusemount("mount", source, source), "mount point", "the source itself")


def test_usage_mount_point_holds_the_source(source: Path) -> None:
    answer = run_fusemount("mount", "--allow-nonempty", source, source.parent)
    assert_refused(answer, "mount point", "hide the source")


def test_usage_sibling_with_the_sources_name_as_prefix_is_no_mistake(
    source: Path, tmp_path: Path
) -> None:
    sibling = tmp_path / "source-2"
    sibling.mkdir()
    assert run_fusemount("mount", "--daemon", source, sibling).returncode == 0
    assert run_fusemount("umount", sibling).returncode == 0


def test_usage_source_missing(mountpoint: Path, tmp_path: Path) -> None:
    answer = run_fusemount("mount", tmp_path / "absent", mountpoint)
    assert_refused(answer, "source", "absent", "No such file or directory")


def test_usage_source_is_a_file(source: Path, mountpoint: Path) -> None:
    answer = run_fusemount("mount", source / "model.bin", mountpoint)
    assert_refused(answer, "source", "not a directory")


def test_usage_name_with_a_line_break_stays_one_line(mountpoint: Path, tmp_path: Path) -> None:
    answer = run_fusemount("mount", os.fsencode(tmp_path) + b"/a\nb\xff\x1b[0m", mountpoint)
    assert_refused(answer, "a\\nb\\udcff\\x1b[0m")


@needs_root
def test_usage_no_fuse_device(source: Path, mountpoint: Path) -> None:
    # In a namespace of its own, whose /dev holds what the interpreter needs and nothing else.
    hide = (
        "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3"
        ' && mknod -m 666 /dev/urandom c 1 9 && exec "$@"'
    )
    prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh"]
    answer = run_fusemount("mount", source, mountpoint, prefix=prefix)
    assert_refused(answer, "/dev/fuse is missing", "--device")


def test_usage_no_libfuse(source: Path, mountpoint: Path, tmp_path: Path) -> None:
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "pyfuse3.py").write_text(
        "raise ImportError('libfuse3.so.3: cannot open shared object file', name='pyfuse3')\n"
    )
    answer = run_fusemount(
        "mount", source, mountpoint, environment={"PYTHONPATH": f"{stub}:{os.getcwd()}"}
    )
    assert_refused(answer, "libfuse 3 cannot be loaded", "install")
    assert _nothing_mounted_below(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--memory", "banana"], ["banana", "no size"]),
        (["--memory", "1KiB"], ["1KiB", "less than"]),
        (["--memory", "-5"], ["-5"]),
        (["--first-window", "0"], ["less than"]),
        (["--first-window", "4 parsecs"], ["no size"]),
        (["--first-window", "1MiB", "--no-prefetch"], ["--no-prefetch"]),
        (["--attribute-timeout", "-1"], ["attribute-timeout"]),
        (["--source-deadline", "soon"], ["source-deadline"]),
        (["--log-file", "/tmp/log"], ["--log-file", "--daemon"]),
        (["--no-such-option"], ["--no-such-option"]),
    ],
    ids=" ".join,
)
def test_usage_option_with_a_bad_value(
    source: Path, mountpoint: Path, options: list[str], words: list[str]
) -> None:
    assert_refused(run_fusemount("mount", source, mountpoint, *options), *words)


@pytest.mark.parametrize("arguments", [[], ["/tmp"], ["/tmp", "/tmp", "/tmp"]], ids=str)
def test_usage_number_of_arguments(arguments: list[str]) -> None:
    assert_refused(run_fusemount("mount", *arguments))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("version: '1'\nname: [unclosed", ["configuration"]),
        ("- a\n- list\n", ["expected keys and values"]),
        ("name: x\n", ["version"]),
        ("version: '1'\nname: x\nmodles: []\n", ["modles"]),
        (
            "version: '1'\nname: x\nmodels: [{pattern: a, batch_size: many}]\n",
            ["models.0.batch_size"],
        ),
        (b"\xff\xfe\x00".decode("latin-1"), ["configuration"]),
    ],
    ids=["syntax", "list", "no version", "unknown key", "bad value", "no text"],
)
def test_usage_configuration_with_a_mistake(
    source: Path, mountpoint: Path, tmp_path: Path, content: str, words: list[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(content, encoding="latin-1")
    answer = run_fusemount("mount", "--config", config, source, mountpoint)
    assert_refused(answer, "config.yaml", *words)


def test_usage_configuration_missing(source: Path, mountpoint: Path) -> None:
    answer = run_fusemount("mount", "--config", "/nowhere/c.yaml", source, mountpoint)
    assert_refused(answer, "/nowhere/c.yaml", "No such file or directory")


@pytest.mark.parametrize("command", ["umount", "status"])
def test_usage_command_on_a_directory_that_is_no_mount(command: str, mountpoint: Path) -> None:
    assert_refused(run_fusemount(command, mountpoint), str(mountpoint), "findmnt")


@pytest.mark.parametrize("command", ["umount", "status"])
def test_usage_command_on_a_path_that_is_not_there(command: str, tmp_path: Path) -> None:
    assert_refused(run_fusemount(command, tmp_path / "absent"), "absent")


@needs_root
def test_usage_umount_leaves_a_foreign_mount_alone(mountpoint: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", mountpoint], check=True)
    try:
        assert_refused(run_fusemount("umount", mountpoint), "not a mount of fusemount")
        assert os.path.ismount(mountpoint)
    finally:
        subprocess.run(["umount", mountpoint], check=True)
