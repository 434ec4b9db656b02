"""What the children of the kill test run: a module that they can import, beside the tests."""

from sparse_rep.config import ExtractConfig, TrainConfig
from sparse_rep.store import Store


def whole_path(train_json: str, extract_json: str) -> None:
    """What `sparse-rep demo` does, on the tiny model."""
    import torch

    from sparse_rep.jobs.extract import extract
    from sparse_rep.jobs.training import train_dictionary
    from sparse_rep.progress import Reporter
    from sparse_rep.store import seal

    torch.set_num_threads(1)
    quiet = Reporter(silent=True)
    train = TrainConfig.model_validate_json(train_json)
    trained = train_dictionary(train, quiet)
    config = ExtractConfig.model_validate_json(extract_json)
    done = extract(config.model_copy(update={"dictionaries": (trained["dictionary_id"],)}), quiet)
    if done["status"] != "sealed":
        seal(Store(train.store), done["run_id"])
