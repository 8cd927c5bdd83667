"""The configuration file: how models are served, where the mount cannot see it.

YAML or JSON, validated whole: a mistake is one line with file and key. With no file every model
is as the optimizer finds it.
"""

import fnmatch
import os
import stat
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fusemount.errors import UsageError
from fusemount.formats.model import Model
from optimizer import ModelServingInfo, ServingPattern

# A larger file is a mistake, and would take long to read.
_MOST_BYTES = 1024 * 1024

_PATTERNS = {
    "unknown": ServingPattern.UNKNOWN,
    "batch": ServingPattern.BATCH_INFERENCE,
    "realtime": ServingPattern.REALTIME_INFERENCE,
    "streaming": ServingPattern.STREAMING_INFERENCE,
    "multi_modal": ServingPattern.MULTI_MODAL_SERVING,
    "ensemble": ServingPattern.ENSEMBLE_SERVING,
    "a_b": ServingPattern.A_B_SERVING,
    "canary": ServingPattern.CANARY_SERVING,
    "auto_scaling": ServingPattern.AUTO_SCALING_SERVING,
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Strict):
    """How the models whose path matches the glob `pattern` are served. Later entries win."""

    pattern: Annotated[str, Field(min_length=1)]
    serving_pattern: (
        Literal[
            "unknown",
            "batch",
            "realtime",
            "streaming",
            "multi_modal",
            "ensemble",
            "a_b",
            "canary",
            "auto_scaling",
        ]
        | None
    ) = None
    batch_size: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = None


class Configuration(_Strict):
    """A configuration file's content."""

    version: str = "1"
    name: str = "default"
    description: str = ""
    models: tuple[ModelSettings, ...] = ()

    def serving_info(self, model: Model) -> ModelServingInfo:
        """What the optimizer is to know of a model of the catalogue."""
        pattern, batch_size = "unknown", 1
        for settings in self.models:
            if fnmatch.fnmatchcase(model.path, settings.pattern):
                pattern = settings.serving_pattern or pattern
                batch_size = settings.batch_size or batch_size
        return ModelServingInfo(
            model_id=model.model_id,
            model_path=model.path,
            model_version=model.version,
            model_type=str(model.format),
            framework=str(model.framework),
            model_size=model.size_bytes,
            batch_size=batch_size,
            serving_pattern=_PATTERNS[pattern],
            access_frequency={file.path: 0 for file in model.files},
        )


def load_configuration(paths: tuple[str, ...]) -> Configuration:
    """The configuration of these files together, later ones appended; none: the default.

    Raises UsageError naming file and key.
    """
    merged = Configuration()
    for path in paths:
        loaded = _load(path)
        merged = loaded.model_copy(update={"models": merged.models + loaded.models})
    return merged


class _Loader(yaml.SafeLoader):
    """Plain YAML without merge keys: a few lines of them grow into gigabytes."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, "merge keys (<<) are not supported", key.start_mark
                )


def _read(path: str) -> str:
    """The text of a regular file of bounded size; raises OSError, UsageError, ValueError."""

    def open_at_once(name: str, flags: int) -> int:
        # A pipe must not hold the mount up.
        return os.open(name, flags | os.O_NONBLOCK)

    with open(path, "rb", opener=open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UsageError(f"configuration {path}: is not a regular file")
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise UsageError(f"configuration {path}: is larger than {_MOST_BYTES} bytes")
    return content.decode("utf-8")


def _load(path: str) -> Configuration:
    try:
        content = yaml.load(_read(path), _Loader)
    except OSError as error:
        raise UsageError(f"configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: bytes that are no UTF-8, or a date like 2026-02-30.
        raise UsageError(f"configuration {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"configuration {path}: expected keys and values at the top")
    for key in ("version", "name"):
        if key not in content:
            raise UsageError(f"configuration {path}: {key}: is required at the top")
    version = content["version"]
    if isinstance(version, int | float) and -1e9 < version < 1e9:
        content["version"] = str(version)
    try:
        return Configuration.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"configuration {path}: {key}: {first['msg']}") from error
