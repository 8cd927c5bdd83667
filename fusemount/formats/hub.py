"""Hugging Face hub caches: models--ORG--NAME/{refs,snapshots/REVISION,blobs}.

A snapshot's entries are links into blobs; it becomes a folder whose files lie where the links
lead, because that is what gets opened, and whose version is the revision. Knows no formats.
"""

import re
from collections.abc import Sequence

from fusemount.formats.entries import EntryKind, TreeEntry, join, parent_of
from fusemount.formats.folder import Folder
from fusemount.formats.inspection import Inspection

# Revisions that a visit to the cache folder looks at; others when they are visited themselves.
REVISION_LIMIT = 4
_REF_LIMIT_BYTES = 256
_INSIDE_SNAPSHOT = re.compile(r"(?:.*/)?models--[^/]+/snapshots/(?P<revision>[^/]+)(?:/.*)?", re.S)
_STORE = re.compile(r"(?:.*/)?models--[^/]+/(?:blobs|snapshots)", re.S)


def cache_of(directory: str) -> str | None:
    """The cache folder whose blobs or snapshots `directory` is: there the names are."""
    return parent_of(directory) if _STORE.fullmatch(directory) else None


def snapshots(
    directory: str, entries: Sequence[TreeEntry], inspection: Inspection
) -> list[Folder] | None:
    """The snapshots to look at for `directory`, the current one last; None: no hub cache.

    Costs, beside one readlink a file: snapshots, refs/main, and one scan for blobs and for each
    revision.
    """
    inside = _INSIDE_SNAPSHOT.fullmatch(directory)
    if inside is not None:
        return [inspection.open(directory, entries, inside["revision"])]
    names = {entry.name: entry for entry in entries if entry.kind is EntryKind.DIRECTORY}
    if "snapshots" not in names or not ("blobs" in names or "refs" in names):
        return None
    base = join(directory, "snapshots")
    revisions = inspection.scan(base, names["snapshots"].mtime_ns) or []
    current = _main_revision(directory, inspection) if "refs" in names else ""
    newest_last = sorted(
        (entry for entry in revisions if entry.kind is EntryKind.DIRECTORY),
        key=lambda entry: (entry.name == current, entry.mtime_ns, entry.name),
    )
    folders = []
    for entry in newest_last[-REVISION_LIMIT:]:
        path = join(base, entry.name)
        listing = inspection.scan(path, entry.mtime_ns)
        if listing is not None:
            folders.append(inspection.open(path, listing, entry.name))
    return folders


def _main_revision(directory: str, inspection: Inspection) -> str:
    path = join(directory, "refs/main")
    listing = inspection.scan(join(directory, "refs"))
    if not any(entry.name == "main" and entry.kind is EntryKind.FILE for entry in listing or ()):
        return ""
    content = inspection.read(path, 0, _REF_LIMIT_BYTES)
    return (content or b"").decode(errors="replace").strip()
