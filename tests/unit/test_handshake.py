"""FUSE_INIT as we answer it, and how a mount is asked for."""

import ast
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemount import handshake
from fusemount.errors import MountError, UsageError
from fusemount.handshake import InitFlag, MountRequest, device_problem, mount_fuse, unmount

INIT_OPCODE = 26
ALL_FLAGS = (1 << 64) - 1
# A kernel of Linux 5.17 and later: a body of 64 bytes.
NEW_BODY_BYTES = 64
OLD_BODY_BYTES = 16


def init_message(
    major: int = 7,
    minor: int = 41,
    flags: int = ALL_FLAGS,
    *,
    max_readahead: int = 128 * 1024,
    opcode: int = INIT_OPCODE,
    body_bytes: int = NEW_BODY_BYTES,
) -> bytes:
    """What a kernel sends first."""
    body = struct.pack("<IIIII", major, minor, max_readahead, flags & 0xFFFFFFFF, flags >> 32)
    body = body.ljust(body_bytes, b"\0")[:body_bytes]
    return struct.pack("<IIQQIIII", 40 + len(body), opcode, 77, 0, 0, 0, 0, 0) + body


class Kernel:
    """The kernel's end of a connection."""

    def __init__(self) -> None:
        self.end, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.fuse_fd = device.detach()

    def shake(self, message: bytes, privileged: bool = True) -> handshake.Connection:
        self.end.send(message)
        return handshake._answer_init(self.fuse_fd, privileged)

    def answer(self) -> dict[str, int]:
        """The answer's fields, by their names in linux/fuse.h."""
        message = self.end.recv(4096)
        assert len(message) == 16 + 64
        length, error, unique = struct.unpack_from("<IiQ", message)
        assert (length, error, unique) == (80, 0, 77)
        names = (
            "major minor max_readahead flags max_background congestion_threshold max_write"
            " time_gran max_pages map_alignment flags2 max_stack_depth request_timeout"
        )
        values = struct.unpack_from("<IIIIHHIIHHIIH", message, 16)
        return dict(zip(names.split(), values, strict=True))


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    kernel.end.close()
    os.close(kernel.fuse_fd)


def test_answer_has_the_sizes_that_the_mount_is_built_on(kernel: Kernel) -> None:
    connection = kernel.shake(init_message())
    answer = kernel.answer()
    assert (answer["major"], answer["minor"]) == (7, 41) == connection.protocol
    assert answer["max_write"] == 1 << 20
    assert answer["max_pages"] * os.sysconf("SC_PAGE_SIZE") == 1 << 20
    assert answer["max_readahead"] == 1 << 20
    assert answer["max_background"] == 512
    assert answer["congestion_threshold"] == 384
    assert answer["time_gran"] == 1


def test_larger_readahead_of_the_kernel_stays(kernel: Kernel) -> None:
    kernel.shake(init_message(max_readahead=1 << 24))
    assert kernel.answer()["max_readahead"] == 1 << 24


def test_message_is_kept_for_libfuse(kernel: Kernel) -> None:
    message = init_message()
    assert kernel.shake(message).init_message == message


def test_wanted_flags_are_answered_in_both_words(kernel: Kernel) -> None:
    flags = kernel.shake(init_message()).flags
    answer = kernel.answer()
    assert answer["flags"] | answer["flags2"] << 32 == flags
    assert InitFlag.PASSTHROUGH | InitFlag.HAS_RESEND | InitFlag.POSIX_ACL in flags
    assert answer["max_stack_depth"] == 2
    # FUSE_READDIRPLUS_AUTO: pyfuse3 answers readdirplus only.
    assert not flags & 1 << 14


def test_passthrough_is_for_root_only(kernel: Kernel) -> None:
    flags = kernel.shake(init_message(), privileged=False).flags
    assert InitFlag.PASSTHROUGH not in flags
    assert InitFlag.HAS_RESEND in flags
    assert kernel.answer()["max_stack_depth"] == 0


@given(flags=st.integers(0, ALL_FLAGS), privileged=st.booleans())
def test_nothing_is_answered_that_was_not_offered(flags: int, privileged: bool) -> None:
    kernel = Kernel()
    with kernel.end:
        agreed = kernel.shake(init_message(flags=flags), privileged).flags
        os.close(kernel.fuse_fd)
        answer = kernel.answer()
    assert answer["flags"] | answer["flags2"] << 32 == agreed
    assert not agreed & ~flags


@pytest.mark.parametrize(
    "message",
    [
        init_message(minor=35, body_bytes=OLD_BODY_BYTES),
        init_message(minor=35),
        init_message(major=8, minor=50),
        init_message(opcode=1),
    ],
)
def test_other_protocols_are_refused(kernel: Kernel, message: bytes) -> None:
    with pytest.raises(MountError, match=r"7\.36 \(Linux 5\.17\) is the oldest"):
        kernel.shake(message)


def test_oldest_protocol_that_works_is_taken(kernel: Kernel) -> None:
    assert kernel.shake(init_message(minor=36)).protocol == (7, 36)


def test_silent_kernel_is_not_waited_for(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "_INIT_DEADLINE_S", 0.01)
    with pytest.raises(MountError, match="sent no FUSE_INIT"):
        handshake._answer_init(kernel.fuse_fd, True)


# Plays fusermount3: keeps its arguments, hands a descriptor over, or fails.
_FUSERMOUNT = """#!{python}
import array, os, socket, sys
open({log!r}, "a").write(repr(sys.argv[1:]) + "\\n")
if "-u" in sys.argv:
    sys.stderr.write({unmount_says!r})
    sys.exit(bool({unmount_says!r}))
if {mount_says!r}:
    sys.exit({mount_says!r})
link = socket.socket(fileno=int(os.environ["_FUSE_COMMFD"]))
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
def rights(end):
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [end.fileno()]))]
if {message!r}:
    ours.send({message!r})
    # Unread, this keeps the kernel's end open when the script has ended.
    ours.sendmsg([b"x"], rights(ours))
    link.sendmsg([b"x"], rights(theirs))
"""


class Fusermount:
    """A stand-in for fusermount3 in PATH, and the arguments that it was called with."""

    def __init__(self, directory: Path) -> None:
        self._script = directory / "fusermount3"
        self._log = directory / "log"
        self._log.touch()

    def install(
        self, message: bytes = b"", *, mount_says: str = "", unmount_says: str = ""
    ) -> None:
        self._script.write_text(
            _FUSERMOUNT.format(
                python=sys.executable,
                log=str(self._log),
                message=message,
                mount_says=mount_says,
                unmount_says=unmount_says,
            )
        )
        self._script.chmod(0o755)

    def calls(self) -> list[list[str]]:
        return [ast.literal_eval(line) for line in self._log.read_text().splitlines()]


@pytest.fixture
def fusermount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fusermount:
    monkeypatch.setenv("PATH", str(tmp_path))
    return Fusermount(tmp_path)


def request(source: str = "/s", *, allow_other: bool = False) -> MountRequest:
    return MountRequest("/m", source, True, allow_other, privileged=False)


def test_without_root_fusermount_mounts_and_hands_over(fusermount: Fusermount) -> None:
    fusermount.install(init_message())
    connection = mount_fuse(request())
    assert not os.get_inheritable(connection.fuse_fd)
    os.close(connection.fuse_fd)
    (arguments,) = fusermount.calls()
    assert arguments[0] == "-o"
    assert set(arguments[1].split(",")) == {
        "default_permissions",
        "nosuid",
        "nodev",
        "ro",
        "fsname=/s",
        "subtype=fusemount",
    }
    assert arguments[2:] == ["--", "/m"]


def test_others_are_let_in_only_where_asked(fusermount: Fusermount) -> None:
    fusermount.install(init_message())
    os.close(mount_fuse(request(allow_other=True)).fuse_fd)
    assert "allow_other" in fusermount.calls()[0][1].split(",")


@given(st.text(st.sampled_from("a,\\= "), max_size=12))
def test_source_name_cannot_add_options(name: str) -> None:
    escaped = handshake._escape_option(name)
    # As libfuse reads it: a backslash takes the meaning of the character behind it.
    read, characters = "", iter(escaped)
    for character in characters:
        assert character != ","
        read += next(characters) if character == "\\" else character
    assert read == name


def test_old_kernel_leaves_nothing_mounted_and_nothing_open(fusermount: Fusermount) -> None:
    fusermount.install(init_message(minor=30))
    with pytest.raises(MountError, match=r"7\.30"):
        mount_fuse(request())
    assert fusermount.calls()[1] == ["-u", "-z", "--", "/m"]


def test_refusal_of_fusermount_is_passed_on(fusermount: Fusermount) -> None:
    fusermount.install(mount_says="fusermount3: user has no write access\nto mountpoint /m\n")
    with pytest.raises(
        UsageError, match="cannot mount on /m: fusermount3: user has no write access to mountpoint"
    ):
        mount_fuse(request())


def test_missing_fusermount_is_named(fusermount: Fusermount) -> None:
    with pytest.raises(UsageError, match="install the package fuse3"):
        mount_fuse(request())


def test_fusermount_that_hands_nothing_over_is_a_failure(fusermount: Fusermount) -> None:
    fusermount.install(b"")
    with pytest.raises(MountError, match="handed over no descriptor"):
        mount_fuse(request())
    assert fusermount.calls()[1] == ["-u", "-z", "--", "/m"]


@pytest.mark.parametrize(
    ("says", "number"),
    [
        ("", 0),
        ("fusermount3: entry for /m not found in /etc/mtab", errno.EINVAL),
        ("fusermount3: failed to unmount /m: Device or resource busy", errno.EBUSY),
    ],
)
def test_unmounting_by_fusermount_says_why_not(
    fusermount: Fusermount, says: str, number: int
) -> None:
    fusermount.install(unmount_says=says)
    assert unmount("/m", privileged=False) == number
    assert fusermount.calls() == [["-u", "--", "/m"]]


def test_unmounting_without_fusermount_is_an_errno(fusermount: Fusermount) -> None:
    assert unmount("/m", privileged=False) == errno.ENOENT


def test_unmounting_what_is_not_mounted_is_an_errno(tmp_path: Path) -> None:
    expected = {errno.EINVAL, errno.EPERM}
    assert unmount(str(tmp_path), privileged=True) in expected


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOENT, "modprobe fuse"),
        (errno.ENODEV, "modprobe fuse"),
        (errno.EACCES, "give this user read and write rights"),
        (errno.EPERM, "give this user read and write rights"),
    ],
)
def test_device_that_cannot_be_opened_says_what_to_do(number: int, says: str) -> None:
    assert says in device_problem(OSError(number, os.strerror(number)))
