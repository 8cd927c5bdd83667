"""How much memory the mount may use when the user does not say."""

import os

# A quarter: the server under which this runs needs the rest.
_SHARE = 4
_LEAST_BYTES = 64 * 1024 * 1024
# What a cgroup without a limit shows is above any machine.
_NO_LIMIT = 1 << 60


def _read_number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None


def cgroup_limit_bytes(
    proc_cgroup: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup"
) -> int | None:
    """The smallest memory limit of this process's cgroups, v2 or v1; None where there is none."""
    limits = []
    try:
        with open(proc_cgroup, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = os.path.join(root, "memory"), "memory.limit_in_bytes"
        else:
            continue
        # A container sees its own cgroup at the root; outside, every level counts.
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            limit = _read_number(os.path.join(base, *parts[:depth], name))
            if limit is not None:
                limits.append(limit)
    return min(limits, default=None)


def available_bytes() -> int:
    """MemAvailable of this machine."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def default_budget_bytes() -> int:
    """A quarter of the smaller of the cgroup's limit and what is available, at least 64 MiB."""
    limit = cgroup_limit_bytes()
    available = available_bytes()
    return max(_LEAST_BYTES, min(available, limit or available) // _SHARE)
