"""Settings: where they come from, which wins, and what goes into a run's identity."""

from pathlib import Path

import pytest

from sparse_rep.config import ModelConfig, TrainConfig
from sparse_rep.errors import ConfigError


def test_flags_win_over_overrides_and_overrides_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("hook: blocks.1.hook_resid_post\nlr: 0.5\ndictionary: {k: 8, n_latents: 64}\n")
    config = TrainConfig.read(file, ["lr=0.25", "dictionary.k=4"], lr=0.125, dictionary__n_latents=None)
    assert (config.hook, config.lr) == ("blocks.1.hook_resid_post", 0.125)
    assert (config.dictionary.k, config.dictionary.n_latents) == (4, 64)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [(["hoook=x"], "hoook"), (["lr=-1"], "lr"), (["lr"], "NAME=VALUE"), (["dictionary.k=many"], "dictionary.k")],
)
def test_a_setting_that_cannot_be_is_named(overrides: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        TrainConfig.read(None, overrides)


def test_a_file_that_is_not_a_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match="mapping"):
        TrainConfig.read(tmp_path / "list.yaml")


def test_identity_holds_what_changes_the_result_and_nothing_else() -> None:
    base = TrainConfig()
    assert (
        base.digest()
        == TrainConfig(store=Path("elsewhere"), checkpoint_seconds=1, model=ModelConfig(device="cpu")).digest()
    )
    assert base.digest() != TrainConfig(seed=1).digest()
    assert base.digest() != TrainConfig(model=ModelConfig(dtype="bfloat16")).digest()
