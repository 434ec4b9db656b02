"""`sparse-rep train` under torchrun: one run in the store, the dictionary of one process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_rep.config import TrainConfig
from sparse_rep.jobs.training import train_dictionary
from sparse_rep.progress import Reporter
from sparse_rep.saes.formats.stored import load_dictionary
from sparse_rep.store import Store

COMMAND = "from sparse_rep.cli.main import main; main()"


def torchrun(config: TrainConfig, tmp_path: Path, *more: str) -> dict[str, Any]:
    path = tmp_path / "config.json"  # JSON is YAML
    path.write_text(config.model_dump_json(exclude_unset=True))
    start = tmp_path / "start.py"
    start.write_text(COMMAND)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(start)]
    done = subprocess.run(
        [*launcher, "train", "--config", str(path), "--store", str(config.store), "--json", *more],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = done.stdout.strip().splitlines()  # one result, from one rank
    return json.loads(line)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["tokens", "latents"])
def test_two_processes_leave_what_one_does(
    train_config: Callable[..., TrainConfig], quiet: Reporter, tmp_path: Path, parallel: str
) -> None:
    settings = {"n_tokens": 1280, "log_every": 5, "parallel": parallel}
    alone = train_dictionary(train_config(**settings, store=str(tmp_path / "alone")), quiet)
    both = torchrun(train_config(**settings, store=str(tmp_path / "both")), tmp_path)
    assert both["dictionary_id"] == alone["dictionary_id"]
    one, two = (
        load_dictionary(Store(tmp_path / name).dictionary_path(alone["dictionary_id"])) for name in ("alone", "both")
    )
    torch.testing.assert_close(two.state_dict(), one.state_dict(), rtol=1e-3, atol=1e-4)
    curves = [
        Store(tmp_path / name).query("SELECT step, value FROM metrics WHERE metric = 'fvu' AND step > 0 ORDER BY step")
        for name in ("alone", "both")
    ]
    assert curves[1]["step"].to_pylist() == curves[0]["step"].to_pylist()
    assert curves[1]["value"].to_pylist() == pytest.approx(curves[0]["value"].to_pylist(), rel=1e-5)
