import pytest
import torch

from sparse_rep.attention import memory
from sparse_rep.errors import ConfigError


@pytest.fixture(autouse=True)
def fresh_room() -> None:
    memory._logits.set(memory.LOGITS)


def test_work_that_does_not_fit_is_done_again_with_half_as_much_at_once() -> None:
    asked = []

    def work() -> str:
        asked.append(memory.queries_at_once(2**15))
        if len(asked) < 3:
            raise torch.cuda.OutOfMemoryError
        return "done"

    assert memory.within_memory(work, 2**15) == "done"
    assert asked == [1024, 512, 256]


def test_what_never_fits_is_told_with_what_would() -> None:
    def work() -> None:
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(ConfigError, match=r"out of GPU memory on texts of 32768 tokens.*try --length 16384"):
        memory.within_memory(work, 2**15)
