"""A sweep: the dictionaries that a training config stands for, one for each combination of the settings that vary."""

from __future__ import annotations

from itertools import product
from typing import Any

from sparse_rep.config import TrainConfig
from sparse_rep.config_dictionary import settings_of
from sparse_rep.errors import ConfigError
from sparse_rep.jobs.naming import slug


def members(config: TrainConfig) -> dict[str, TrainConfig]:
    """One config a dictionary, by a word that tells it from the others (k16-seed0); the word is "" without a sweep.

    Raises ConfigError for a setting that members of one stream cannot differ in, and for combinations that cannot be built.
    """
    if not config.sweep:
        return {"": config}
    for name, values in config.sweep.items():
        if name not in ("lr", "seed") and not name.startswith("dictionary."):
            raise ConfigError(
                f"a sweep cannot vary {name}: its dictionaries share one stream of activations, and only lr, seed and "
                f"dictionary.* are a dictionary's own; start one run a value instead"
            )
        if len(set(map(str, values))) != len(values) or not values:
            raise ConfigError(f"--sweep {name} needs values that differ, got {', '.join(map(str, values)) or 'none'}")
    made = {}
    for combination in product(*config.sweep.values()):
        chosen = dict(zip(config.sweep, combination, strict=True))
        word = slug("-".join(f"{_short(name)}{value}" for name, value in chosen.items()))
        made[word] = _member(config, chosen, word)
    return made


def _member(config: TrainConfig, chosen: dict[str, Any], word: str) -> TrainConfig:
    own = {name: value for name, value in chosen.items() if not name.startswith("dictionary.")}
    parts = {name.removeprefix("dictionary."): value for name, value in chosen.items() if name not in own}
    settings = config.dictionary.model_dump(exclude_unset=True)
    kind = parts.get("kind", config.dictionary.kind)
    if kind != config.dictionary.kind:
        # What the base says is kept where the other architecture has it too.
        known = settings_of(kind).model_fields
        settings = {name: value for name, value in settings.items() if name in known}
    data = {**config.model_dump(exclude_unset=True), **own, "sweep": {}}
    data["dictionary"] = {**settings, **parts, "kind": kind}
    try:
        return TrainConfig.checked(data)
    except ConfigError as error:
        raise ConfigError(f"sweep member {word}: {error}") from error


def _short(name: str) -> str:
    """The setting without its group; an architecture is told by its name alone."""
    leaf = name.rpartition(".")[2]
    return {"kind": "", "n_latents": "m"}.get(leaf, leaf)
