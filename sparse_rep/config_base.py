"""What every config is: a frozen model, read from YAML, overridden by `--set a.b=c`, hashed into a run's identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from sparse_rep.errors import ConfigError


class Config(BaseModel):
    """A frozen model whose fields explain themselves. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    incidental: ClassVar[frozenset[str]] = frozenset()
    """Fields that change how a result is reached but not the result: left out of the hash."""
    kinds: ClassVar[frozenset[str]] = frozenset()
    """Names of the members of unions among the fields: pydantic puts them into the path of a setting, people do not."""

    def identity(self) -> dict[str, Any]:
        """What the hash is taken of: every field that can change the result."""

        def strip(value: Any) -> Any:
            if isinstance(value, Config):
                return {f: strip(getattr(value, f)) for f in type(value).model_fields if f not in value.incidental}
            if isinstance(value, tuple | list):
                return [strip(v) for v in value]
            return value

        return strip(self)

    def digest(self) -> str:
        """sha256 of the identity, in hex. Runs are named by its first 8 letters."""
        canonical = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @classmethod
    def read(cls, path: Path | None, overrides: Iterable[str] = (), **flags: Any) -> Self:
        """YAML file, then `a.b=c` overrides, then flags given on the command line (None means not given)."""
        return cls.checked(_merge(_yaml(path), overrides, flags))

    @classmethod
    def checked(cls, data: dict[str, Any]) -> Self:
        """Build, turning pydantic's report into one readable sentence."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError("; ".join(_sentence(e, cls.kinds) for e in error.errors())) from error


def _sentence(problem: Any, kinds: frozenset[str]) -> str:
    """One problem of pydantic's report: the setting, and what is wrong with it."""
    place = ".".join(str(part) for part in problem["loc"] if part not in kinds) or "config"
    if problem["type"] == "extra_forbidden":
        return f"{place}: there is no such setting; see docs/configuration.md"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}"


def _yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the config file {path}: {error}") from error
    if not isinstance(data, dict | None):
        raise ConfigError(f"{path} must hold a mapping of settings, found {type(data).__name__}")
    return data or {}


def _merge(data: dict[str, Any], overrides: Iterable[str], flags: dict[str, Any]) -> dict[str, Any]:
    for item in overrides:
        name, sign, text = item.partition("=")
        if not sign:
            raise ConfigError(f"--set wants NAME=VALUE, got {item!r}")
        _assign(data, name, yaml.safe_load(text))
    for name, value in flags.items():
        if value is not None:
            _assign(data, name.replace("__", "."), value)
    return data


def _assign(data: dict[str, Any], name: str, value: Any) -> None:
    *parents, leaf = name.split(".")
    for parent in parents:
        nested = data.setdefault(parent, {})
        if not isinstance(nested, dict):
            raise ConfigError(f"cannot set {name}: {parent} is not a group of settings")
        data = nested
    data[leaf] = value
