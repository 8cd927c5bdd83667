"""Other file systems that show a directory unchanged, to be measured beside the mount.

Only those that are installed take part. Each reads from the source as its own defaults say;
`rclone` twice, since its parallel streams are off by default.
"""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

from fusemount.bench.mounts import ServedMount


@dataclass(frozen=True, slots=True)
class Peer:
    """A file system and its command in the foreground for source and mount point."""

    key: str
    name: str
    command: Callable[[str, str], list[str]]

    def mount(self, source: str, mountpoint: str) -> ServedMount:
        """Ready to be entered; both are existing directories, `mountpoint` empty."""
        return ServedMount(self.name, self.command(source, mountpoint), mountpoint)


def _rclone(*options: str) -> Callable[[str, str], list[str]]:
    return lambda source, mountpoint: [
        "rclone",
        "mount",
        "--read-only",
        "--config=",  # none: or a directory for it is made in the user's home
        *options,
        source,
        mountpoint,
    ]


BINDFS = Peer(
    "bindfs", "bindfs", lambda source, mountpoint: ["bindfs", "-f", "-r", source, mountpoint]
)
PLAIN = Peer(
    "plain_pyfuse3",
    "plain pyfuse3",
    lambda source, mountpoint: [
        *(sys.executable, "-P", "-m", "fusemount.bench.passthrough"),
        *(source, mountpoint),
    ],
)
_RCLONE = Peer("rclone", "rclone", _rclone())
_RCLONE_STREAMS = Peer(
    "rclone_32_streams",
    "rclone, 32 streams",
    _rclone("--vfs-read-chunk-streams=32", "--vfs-read-chunk-size=4M"),
)


def installed_peers() -> list[Peer]:
    """Those whose program is found."""
    peers = [PLAIN]
    if shutil.which("bindfs"):
        peers.append(BINDFS)
    if shutil.which("rclone"):
        peers += [_RCLONE, _RCLONE_STREAMS]
    return peers
