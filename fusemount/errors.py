"""Domain errors, and the one table from them to errno.

Below the pyfuse3 adapter everything raises OSError or one of these; only `operations` turns
them into an answer for the kernel, by `errno_of`.
"""

import errno


class UsageError(Exception):
    """A user's mistake: one line saying what, where and what to do; exit code 2."""


class MountError(Exception):
    """The mount cannot go on for a reason outside the user's command; exit code 1."""


class StaleNodeError(Exception):
    """A node's name now leads to another file, or to none."""


class SourceTimeoutError(Exception):
    """The source did not answer within the deadline."""


class SourceChangedError(Exception):
    """The file changed in the source while a part of it was fetched."""


_ERRNO_OF: dict[type[Exception], int] = {
    StaleNodeError: errno.ESTALE,
    SourceTimeoutError: errno.EIO,
    SourceChangedError: errno.EIO,
    NotImplementedError: errno.ENOSYS,
}


def errno_of(error: Exception) -> int | None:
    """The errno that answers `error`, or None where it is unexpected (a defect of ours)."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    return _ERRNO_OF.get(type(error))
