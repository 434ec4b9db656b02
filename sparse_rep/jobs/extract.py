"""The extraction job: a corpus through a model and its dictionaries, into the store."""

from __future__ import annotations

from typing import Any

from sparse_rep.config import ExtractConfig
from sparse_rep.errors import ConfigError
from sparse_rep.jobs.codes import DictionaryCapture
from sparse_rep.jobs.coordinator import run_captures
from sparse_rep.jobs.dictionaries import find_dictionary
from sparse_rep.jobs.naming import slug
from sparse_rep.jobs.task import Executor
from sparse_rep.progress import Reporter
from sparse_rep.store import Store


def extract(config: ExtractConfig, reporter: Reporter, executor: Executor | None = None) -> dict[str, Any]:
    """Encode a corpus with every dictionary of the config. Returns the run's id and what was written.

    Shards already committed are not done again, so the same call resumes a run that was stopped or killed. Raises
    ConfigError for dictionaries that do not fit the model, the hook or each other.
    """
    store = Store(config.store, create=True)
    sources = [find_dictionary(store, spec) for spec in config.dictionaries]
    for source in sources:
        if source.model not in (None, config.model.name):
            raise ConfigError(
                f"dictionary {source.dictionary_id} was made for {source.model}, not {config.model.name}; "
                f"give --model {source.model}"
            )
    codes = DictionaryCapture(
        sources,
        activations=config.activations,
        seed=config.seed,
        kernels=config.kernels,
        steps=config.steps,
        tolerance=config.tolerance,
    )
    name = slug("+".join(s.dictionary_id for s in sources))[:100]
    return run_captures(config, [codes], kind="extract", name=name, reporter=reporter, executor=executor)
