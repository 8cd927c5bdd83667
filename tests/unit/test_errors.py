"""The one table from errors to errno."""

import errno
import os

import pytest

from fusemount.errors import (
    MountError,
    SourceChangedError,
    SourceTimeoutError,
    StaleNodeError,
    UsageError,
    errno_of,
)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (FileNotFoundError(errno.ENOENT, "gone"), errno.ENOENT),
        (StaleNodeError("node 2"), errno.ESTALE),
        (SourceTimeoutError("/s"), errno.EIO),
        (SourceChangedError("m/x"), errno.EIO),
        (NotImplementedError(), errno.ENOSYS),
        (OSError("without a number"), None),
        (KeyError("fh"), None),
        (ExceptionGroup("several", [OSError(errno.EIO, os.strerror(errno.EIO))]), None),
        (UsageError("not of the read path"), None),
        (MountError("not of the read path"), None),
    ],
)
def test_error_is_answered_by(error: Exception, number: int | None) -> None:
    assert errno_of(error) == number
