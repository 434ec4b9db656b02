"""From a name to its method. Every file beside this one is searched, so a new family needs no list."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from sparse_rep.attention import methods
from sparse_rep.attention.method import Method
from sparse_rep.config_base import Config
from sparse_rep.errors import ConfigError


@cache
def method_classes() -> Mapping[str, type[Method]]:
    """Every method by its name, in the order of names."""
    found = {}
    for module in pkgutil.iter_modules(methods.__path__, f"{methods.__name__}."):
        if module.ispkg or module.name == __name__:
            continue
        family = importlib.import_module(module.name)
        for value in vars(family).values():
            if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.name:
                assert value.name not in found, f"two methods are called {value.name}"
                found[value.name] = value
    return dict(sorted(found.items()))


def method_class(name: str) -> type[Method]:
    """Raises ConfigError for a name that no family has."""
    try:
        return method_classes()[name]
    except KeyError:
        raise ConfigError(f"there is no method {name!r}; choose among {', '.join(method_classes())}") from None


def config_class(method: type[Method]) -> type[Config]:
    """The class of a method's settings; made without arguments, it holds the paper's."""
    (config,) = (f for f in fields(method) if f.name == "config")
    assert isinstance(config.default_factory, type)
    assert issubclass(config.default_factory, Config)
    return config.default_factory


def build_method(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """The method of a name, with settings other than the paper's where given.

    Raises ConfigError for an unknown name or setting, or a value out of its range.
    """
    cls = method_class(name)
    return cls(config_class(cls).checked(dict(settings or {})))
