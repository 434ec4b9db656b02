"""`sparse-rep train`: flags that go with an architecture, told before anything is read."""

import re

import pytest
from typer.testing import CliRunner

from sparse_rep.cli.main import build
from sparse_rep.config_dictionary import ARCHITECTURES
from sparse_rep.errors import ConfigError


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (
            ["--architecture", "standard", "--k", "4"],
            "--k means nothing to standard; its sparsity is set by --l0 or --penalty",
        ),
        (["--architecture", "topk", "--l0", "4"], "--l0 means nothing to topk; its sparsity is set by --k"),
        (["--architecture", "mp", "--l1", "4"], "--penalty means nothing to mp"),
        (["--architecture", "vae"], "there are topk, batchtopk"),
        (["--architecture", "mp", "--target-hook", "blocks.9.hook_mlp_out"], "cannot predict target_hook"),
        (["--skip"], "give target_hook"),
        (["--k", "2.5"], "valid integer"),
        (["--k", "9", "--latents", "8"], "lower k or widen"),
    ],
)
def test_a_flag_that_cannot_work_is_one_sentence(flags: list[str], named: str) -> None:
    error = CliRunner().invoke(build(), ["train", *flags]).exception
    assert isinstance(error, ConfigError)
    assert named in str(error)
    assert "\n" not in str(error)


def test_help_says_what_every_architecture_is() -> None:
    shown = CliRunner().invoke(build(), ["train", "--help"]).output
    words = set(re.findall(r"\w+", shown))
    assert words >= set(ARCHITECTURES)
