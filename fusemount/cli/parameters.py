"""Parameter types that several commands share."""

from typing import Any

import click
from pydantic import ByteSize, TypeAdapter, ValidationError

_BYTE_SIZE = TypeAdapter(ByteSize)
_MOST_BYTES = 1 << 60


class Size(click.ParamType[int]):
    """A size with a unit, like 256MiB, 10MB or 65536 (bytes)."""

    name = "size"

    def __init__(self, minimum_bytes: int = 1) -> None:
        self._minimum_bytes = minimum_bytes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            size = int(_BYTE_SIZE.validate_python(value))
        except ValidationError:
            self.fail(f"{value!r} is no size: write 256MiB, 10MB or 65536", param, ctx)
        if size > _MOST_BYTES:
            self.fail(f"{value} is more than any machine has", param, ctx)
        if size < self._minimum_bytes:
            self.fail(f"{value} is less than {self._minimum_bytes} bytes", param, ctx)
        return size
