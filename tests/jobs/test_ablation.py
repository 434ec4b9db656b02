"""The ablation job: planted experts matter where they should, and what was measured once is not measured again."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "routing"))  # for mixtures

from mixtures import save_mixture

from sparse_rep.config import AblationConfig, TopKConfig
from sparse_rep.errors import ConfigError
from sparse_rep.jobs import ablation as job
from sparse_rep.jobs.ablation import ablate_experts
from sparse_rep.progress import Reporter
from sparse_rep.saes.formats.stored import save_dictionary
from sparse_rep.saes.topk import TopK
from sparse_rep.store import Store


@pytest.fixture
def settings(workshop: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "name": "without",
        "model": {"name": str(save_mixture(tmp_path / "model", "mixtral")), "device": "cpu"},
        "text": {"sources": [str(workshop / "prose"), str(workshop / "code")], "context": 24, "n_tokens": 900},
        "experts": "1:0,1:5,2",
        "batch_tokens": 256,
        "store": str(tmp_path / "store"),
    }


def test_each_expert_has_its_change_by_domain_and_over_all(settings: dict[str, Any], quiet: Reporter) -> None:
    done = ablate_experts(AblationConfig.checked(settings), quiet)
    store = Store(settings["store"])
    rows = store.query("SELECT * FROM expert_ablations WHERE run_id = $r", r=done["run_id"]).to_pylist()
    assert {(r["layer"], r["expert"]) for r in rows} == {(1, 0), (1, 5), *((2, e) for e in range(8))}
    for layer, expert in {(r["layer"], r["expert"]) for r in rows}:
        mine = {r["domain"]: r for r in rows if (r["layer"], r["expert"]) == (layer, expert)}
        assert set(mine) == {None, "prose", "code"}
        total = sum(mine[d]["change"] * mine[d]["n_tokens"] for d in ("prose", "code"))
        assert total / mine[None]["n_tokens"] == pytest.approx(mine[None]["change"], abs=1e-9)
        assert mine[None]["loss_ablated"] - mine[None]["loss"] == pytest.approx(mine[None]["change"], abs=1e-9)
        assert mine[None]["lo"] <= mine[None]["change"] <= mine[None]["hi"]
    assert len({r["loss"] for r in rows if r["domain"] is None}) == 1


def test_latents_move_downstream_of_the_expert_and_not_before_it(
    settings: dict[str, Any], quiet: Reporter, tmp_path: Path
) -> None:
    for layer in (0, 2):
        coder = TopK(TopKConfig(n_latents=32, k=4), 32)
        with torch.no_grad():
            for parameter in coder.parameters():
                parameter.copy_(torch.randn_like(parameter))
        meta = {"hook_name": f"blocks.{layer}.hook_resid_post", "model_name": settings["model"]["name"]}
        save_dictionary(coder, tmp_path / f"at-{layer}", meta)
    dictionaries = [str(tmp_path / "at-0"), str(tmp_path / "at-2")]
    done = ablate_experts(AblationConfig.checked({**settings, "experts": "1", "dictionaries": dictionaries}), quiet)
    rows = Store(settings["store"]).query(
        "SELECT dictionary_id, mass_before, mass_after FROM expert_ablation_features WHERE run_id = $r",
        r=done["run_id"],
    )
    assert set(rows["dictionary_id"].to_pylist()) == {"at-2"}
    assert all(a != b for a, b in zip(rows["mass_before"].to_pylist(), rows["mass_after"].to_pylist(), strict=True))


def test_an_ablation_cut_short_measures_only_what_is_missing(
    settings: dict[str, Any], quiet: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AblationConfig.checked(settings)
    measured: list[Any] = []
    real = job.ExpertAblation

    def watch(experts: Any, **options: Any) -> Any:
        measured.append(experts[0])
        if len(measured) == 4:
            raise KeyboardInterrupt
        return real(experts, **options)

    monkeypatch.setattr(job, "ExpertAblation", watch)
    with pytest.raises(KeyboardInterrupt):
        ablate_experts(config, quiet)
    ablate_experts(config, quiet)
    assert len(measured) == 10 + 1  # ten experts, one of them begun twice
    ablate_experts(config, quiet)
    assert len(measured) == 11


@pytest.mark.parametrize(
    ("spec", "named"), [("1:8", "no expert 1:8"), ("9", "no expert 9"), ("x", "cannot read the experts")]
)
def test_experts_that_are_not_there_are_named(spec: str, named: str, settings: dict[str, Any], quiet: Reporter) -> None:
    with pytest.raises(ConfigError, match=named):
        ablate_experts(AblationConfig.checked({**settings, "experts": spec}), quiet)
