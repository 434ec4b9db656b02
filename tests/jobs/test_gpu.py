"""On a GPU the jobs take the Triton kernels unless told otherwise, and the run rows say so."""

from collections.abc import Callable

import pytest
import torch

from sparse_rep.config import ExtractConfig, TrainConfig
from sparse_rep.jobs.extract import extract
from sparse_rep.jobs.training import train_dictionary
from sparse_rep.progress import Reporter
from sparse_rep.store import Store


def kernels_of(train: TrainConfig, make: Callable[..., ExtractConfig], **changes: object) -> dict[str, str]:
    quiet = Reporter(silent=True)
    trained = train_dictionary(train, quiet)
    extract(make(trained["dictionary_id"], model=train.model, **changes), quiet)
    rows = Store(train.store).query("SELECT kind, kernel FROM runs").to_pylist()
    return {row["kind"]: row["kernel"] for row in rows}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; the CPU's twin of this test is below")
@pytest.mark.parametrize(("asked", "ran"), [("auto", "triton"), ("triton", "triton"), ("reference", "reference")])
def test_jobs_on_cuda_record_the_kernel_that_ran(
    train_config: Callable[..., TrainConfig], extract_config: Callable[..., ExtractConfig], asked: str, ran: str
) -> None:
    model = train_config().model.model_copy(update={"device": "cuda"})
    found = kernels_of(train_config(model=model, kernels=asked), extract_config, kernels=asked)
    assert found == {"train": ran, "extract": ran}


@pytest.mark.parametrize(("asked", "ran"), [("auto", "torch"), ("reference", "reference")])
def test_jobs_on_a_cpu_record_the_kernel_that_ran(
    train_config: Callable[..., TrainConfig], extract_config: Callable[..., ExtractConfig], asked: str, ran: str
) -> None:
    found = kernels_of(train_config(kernels=asked), extract_config, kernels=asked)
    assert found == {"train": ran, "extract": ran}
