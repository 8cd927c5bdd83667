"""What a client can see of a tree, as values that two trees can be compared by.

Inode and device numbers are left out: a mount has its own.
"""

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator

from tests.mount.sample_tree import walk

_CHUNK_BYTES = 1 << 20
_FIELDS = ("%P", "%y", "%#m", "%U", "%G", "%s", "%b", "%n", "%T@", "%C@", "%l")
# Too large to be read whole in every run; compared in pieces.
LARGE_BYTES = 64 << 20


def find_printed(root: bytes) -> dict[bytes, bytes]:
    """What find prints of each node: type, mode, owners, size, blocks, links, times, target."""
    command = [b"find", root, b"-printf", "\\0".join(_FIELDS).encode() + b"\\0\\0\\n"]
    output = subprocess.run(command, capture_output=True, check=True).stdout
    lines = output.split(b"\0\0\n")[:-1]
    return {line.partition(b"\0")[0]: line for line in lines}


def statuses(root: bytes) -> dict[bytes, tuple[int, ...]]:
    """What find does not print: device numbers, and when a node that has not been read was."""
    found = {}
    for path, name, fd in walk(root):
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        # Listing and reading links sets their access time.
        passive = not (stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode))
        found[path] = (
            status.st_rdev,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_atime_ns if passive else 0,
        )
    return found


def attributes(root: bytes, without: frozenset[bytes]) -> dict[bytes, dict[str, bytes]]:
    """Extended attributes of every node by their raw bytes; ACLs are among them."""
    found = {b"": _attributes_of(os.fsdecode(root))}
    for path, name, fd in walk(root, without):
        opened = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=fd)
        try:
            found[path] = _attributes_of(f"/proc/self/fd/{opened}")
        finally:
            os.close(opened)
    return found


def _attributes_of(path: str) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


def digests(root: bytes, without: frozenset[bytes]) -> dict[bytes, str]:
    """SHA-256 of each regular file that is not large, nor empty in a directory `without`."""
    return dict(_digests(root, without))


def _digests(root: bytes, without: frozenset[bytes]) -> Iterator[tuple[bytes, str]]:
    for path, name, fd in walk(root):
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGE_BYTES:
            continue
        if not status.st_size and os.path.dirname(path) in without:
            continue
        opened = os.open(name, os.O_RDONLY, dir_fd=fd)
        with open(opened, "rb", buffering=0) as file:
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        yield path, digest.hexdigest()


def printed_by(command: list[str], root: bytes) -> set[bytes]:
    """The blank-line separated paragraphs that a command run inside the tree prints."""
    output = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
    return set(output.split(b"\n\n"))


def differences(expected: dict[bytes, object], seen: dict[bytes, object]) -> list[str]:
    """A line for each of the first twenty keys whose values differ; empty if all agree."""
    lines = []
    for key in sorted(expected.keys() | seen.keys()):
        here, there = expected.get(key), seen.get(key)
        if here != there:
            lines.append(f"{key[-80:]!r}: source {here!r}, mount {there!r}")
    return lines[:20]
