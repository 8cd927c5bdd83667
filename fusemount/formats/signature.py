"""What a file is by its first bytes. Pure: knows no names and does no I/O."""

from enum import Enum

# A pickled long that torch.save wrote first until its files became zips (torch 1.6).
_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# The safetensors library refuses a longer header.
_SAFETENSORS_HEADER_LIMIT_BYTES = 100_000_000
_ZIP_NAME_AT = 30


class Signature(Enum):
    """Kinds of files that their heads tell apart. ZIP and PICKLE may still be torch files."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    TORCH = "torch"
    ZIP = "zip"
    PICKLE = "pickle"
    OTHER = "other"


def identify(head: bytes, size_bytes: int) -> Signature:
    """The signature of a file of `size_bytes` that begins with `head` (a few hundred bytes)."""
    if head.startswith(b"GGUF"):
        return Signature.GGUF
    if head.startswith(b"PK\x03\x04"):
        name_end = _ZIP_NAME_AT + int.from_bytes(head[26:28], "little")
        first_name = head[_ZIP_NAME_AT:name_end]
        is_torch = first_name.rpartition(b"/")[2] == b"data.pkl"
        return Signature.TORCH if is_torch else Signature.ZIP
    if head.startswith(_LEGACY_TORCH):
        return Signature.TORCH
    if len(head) >= 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return Signature.PICKLE
    header_bytes = int.from_bytes(head[:8], "little")
    limit_bytes = min(size_bytes - 8, _SAFETENSORS_HEADER_LIMIT_BYTES)
    if 2 <= header_bytes <= limit_bytes and head[8:9] == b"{":
        return Signature.SAFETENSORS
    return Signature.OTHER
