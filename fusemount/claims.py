"""Which model a file belongs to. Pure: knows paths and ids only.

Invariant: a path belongs to one model. The model in whose folder it lies comes before those that
link to it; of these (two revisions that share a blob) the one that claimed last. Readable from
any thread while one changes it: each answer is one or two look-ups.
"""

from collections.abc import Iterable

from fusemount.formats.model import ModelFile


class Claims:
    """Path to model id."""

    def __init__(self) -> None:
        self._direct: dict[str, str] = {}
        self._linked: dict[str, tuple[str, ...]] = {}

    def owner(self, path: str) -> str | None:
        """The id of the model that the file at `path` belongs to."""
        model_id = self._direct.get(path)
        return model_id if model_id is not None else next(iter(self._linked.get(path, ())), None)

    def rivals(self, files: Iterable[ModelFile]) -> set[str]:
        """The models in whose folders those of `files` lie that are not links."""
        owners = (self._direct.get(file.path) for file in files if not file.by_link)
        return {owner for owner in owners if owner is not None}

    def claim(self, model_id: str, files: Iterable[ModelFile]) -> None:
        """Give `files` to a model; what lay in another's folder is taken from it."""
        for file in files:
            if file.by_link:
                self._linked[file.path] = (model_id, *self._others(model_id, file.path))
            else:
                self._direct[file.path] = model_id

    def release(self, model_id: str, files: Iterable[ModelFile]) -> None:
        """Take back what of `files` the model still has; its next claimant then owns it."""
        for file in files:
            if self._direct.get(file.path) == model_id:
                del self._direct[file.path]
            others = self._others(model_id, file.path)
            if others:
                self._linked[file.path] = others
            else:
                self._linked.pop(file.path, None)

    def _others(self, model_id: str, path: str) -> tuple[str, ...]:
        return tuple(other for other in self._linked.get(path, ()) if other != model_id)
