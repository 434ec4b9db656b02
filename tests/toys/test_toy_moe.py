"""The toy mixture: its recipe at small size, and the one that ships."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from typer.testing import CliRunner

from sparse_rep.cli.main import build
from sparse_rep.config import ModelConfig, TextConfig
from sparse_rep.corpora.installed import SOURCES
from sparse_rep.corpora.text import documents
from sparse_rep.corpora.tokenised import is_heldout
from sparse_rep.corpora.vocabulary import tokenizer_digest
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.load import load_model, load_tokenizer
from sparse_rep.hosting.locate import SHIPPED, locate
from sparse_rep.progress import Reporter
from sparse_rep.toys.config import ToyMoeConfig
from sparse_rep.toys.mixture import new_mixture, routers_heard
from sparse_rep.toys.scoring import heldout_loss, unigram_loss
from sparse_rep.toys.text import END_ID, END_OF_TEXT, ToyText, learn_tokenizer, toy_text
from sparse_rep.toys.training import step_losses, train_mixture, windows

SHIPPED_MOE = SHIPPED / "toy-moe"
QUIET = Reporter(silent=True)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains that share no word: sums, and a rhyme."""
    folder = tmp_path_factory.mktemp("words")
    random = np.random.default_rng(0)
    for name, vocabulary in (("sums", "1 2 3 + = 4 5 6"), ("rhyme", "how much wood would a woodchuck")):
        (folder / name).mkdir()
        for doc in range(12):
            (folder / name / f"{doc}.txt").write_text(" ".join(random.choice(vocabulary.split(), 400)))
    return folder


@pytest.fixture(scope="module")
def small(words: Path) -> ToyMoeConfig:
    return ToyMoeConfig.checked(
        {
            "text": {"sources": (str(words / "sums"), str(words / "rhyme")), "context": 16, "heldout_share": 0.3},
            "vocab_size": 280,
            "d_model": 16,
            "n_layers": 2,
            "n_heads": 2,
            "n_experts": 4,
            "d_expert": 8,
            "n_steps": 30,
            "batch_windows": 8,
            "eval_every": 15,
            "lr": 1e-2,
        }
    )


@pytest.fixture(scope="module")
def text(small: ToyMoeConfig, tmp_path_factory: pytest.TempPathFactory) -> ToyText:
    return toy_text(tmp_path_factory.mktemp("toy") / "text", small, QUIET)


@pytest.fixture(scope="module")
def trained(small: ToyMoeConfig, text: ToyText, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    train_mixture(small, text, folder, "cpu", QUIET)
    return folder


def test_no_training_window_shows_a_heldout_document_or_two_domains(small: ToyMoeConfig, text: ToyText) -> None:
    by_domain = {d: set(text.stream(d).tolist()) - {END_ID} for d in ("sums", "rhyme")}
    heldout = [
        text.corpus.token_ids[lo:hi].tolist() for spans in text.documents("heldout").values() for lo, hi in spans
    ]
    assert heldout
    for batch in windows(text, small):
        for row in batch.tolist():
            assert sum(not ids.isdisjoint(row) for ids in by_domain.values()) == 1
            assert not any(_inside(row, document) for document in heldout)


def _inside(row: list[int], document: list[int]) -> bool:
    text, piece = " ".join(map(str, document)), " ".join(map(str, row))
    return f" {piece} " in f" {text} "


def test_windows_are_drawn_by_the_seed(small: ToyMoeConfig, text: ToyText) -> None:
    first, again = ([b for b, _ in zip(windows(text, small), range(3), strict=False)] for _ in range(2))
    other = next(windows(text, small.model_copy(update={"seed": 1})))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other)


def test_the_text_is_read_once_and_then_taken_from_its_folder(small: ToyMoeConfig, tmp_path: Path) -> None:
    made = toy_text(tmp_path / "text", small, QUIET)
    kept = toy_text(tmp_path / "text", small, QUIET)
    assert kept.corpus.corpus_id == made.corpus.corpus_id
    assert np.array_equal(kept.corpus.token_ids, made.corpus.token_ids)
    with pytest.raises(ConfigError, match="other settings"):
        toy_text(tmp_path / "text", small.model_copy(update={"vocab_size": 300}), QUIET)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_from_its_tokens(sample: str) -> None:
    tokenizer = TOKENIZER
    ids = tokenizer(sample, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids) == sample
    assert END_ID not in ids


TOKENIZER = learn_tokenizer(["def add(a, b):\n    return a + b\n" * 20], 300)


def test_the_end_of_text_is_the_first_id() -> None:
    assert TOKENIZER.convert_tokens_to_ids(END_OF_TEXT) == END_ID
    assert TOKENIZER("a")["input_ids"] == TOKENIZER("a", add_special_tokens=False)["input_ids"]


def test_the_unigram_loss_is_its_formula(small: ToyMoeConfig, text: ToyText) -> None:
    ids, vocab = text.corpus.token_ids, len(text.tokenizer)
    counts = np.ones(vocab)
    for spans in text.documents("train").values():
        for lo, hi in spans:
            np.add.at(counts, ids[lo:hi], 1)
    losses = [
        -np.log(counts[ids[at]] / counts.sum())
        for spans in text.documents("heldout").values()
        for lo, hi in spans
        for at in range(lo, hi)
        if (at - lo) % small.text.context != 0
    ]
    assert unigram_loss(text, small.text.context)["all"] == pytest.approx(np.mean(losses))


def test_the_heldout_loss_is_the_hosted_models_own(small: ToyMoeConfig, text: ToyText, trained: Path) -> None:
    hosted = load_model(ModelConfig(name=str(trained), device="cpu"))
    found = heldout_loss(hosted.model, text, small.text.context)
    sums = []
    for lo, hi in text.documents("heldout")["sums"]:
        for at in range(lo, hi, small.text.context):
            ids = text.corpus.token_ids[at : min(at + small.text.context, hi)].astype(np.int64)
            sums.append(hosted.loss(torch.from_numpy(ids)[None]).flatten())
    assert found["sums"] == pytest.approx(torch.cat(sums).mean().item(), rel=1e-4)
    assert min(found["sums"], found["rhyme"]) <= found["all"] <= max(found["sums"], found["rhyme"])


def test_an_untrained_router_is_balanced_and_its_losses_are_the_formulas(small: ToyMoeConfig, text: ToyText) -> None:
    model = new_mixture(small, len(text.tokenizer))
    with routers_heard(model) as routers, torch.no_grad():
        loss, balance, z = step_losses(model, next(windows(text, small)), routers).tolist()
    assert len(routers) == small.n_layers
    assert loss == pytest.approx(np.log(len(text.tokenizer)), rel=0.05)
    assert balance == pytest.approx(1, abs=0.2)
    assert z == pytest.approx(np.log(small.n_experts) ** 2, rel=0.1)


def test_thirty_steps_learn_and_say_what_they_did(small: ToyMoeConfig, trained: Path) -> None:
    recipe = json.loads((trained / "recipe.json").read_text())
    assert [p["step"] for p in recipe["curve"]] == [15, 30]
    assert recipe["curve"][1]["train"] < recipe["curve"][0]["train"]
    assert recipe["heldout_nats"]["all"] < recipe["unigram_nats"]["all"]
    assert recipe["below_unigram"] == pytest.approx(
        1 - recipe["heldout_nats"]["all"] / recipe["unigram_nats"]["all"], abs=1e-3
    )
    assert ToyMoeConfig.checked(recipe["config"]) == small
    with safe_open(trained / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_the_same_seed_trains_the_same_mixture(
    small: ToyMoeConfig, text: ToyText, trained: Path, tmp_path: Path
) -> None:
    train_mixture(small, text, tmp_path / "again", "cpu", QUIET)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_train_toy_reads_the_text_and_stops_where_asked(words: Path, tmp_path: Path) -> None:
    command = ["train-toy", "moe", "--out", str(tmp_path / "toy"), "--only-text", "--json"]
    command += ["--set", f"text.sources=[{words / 'sums'}]", "--set", "vocab_size=280"]
    done = CliRunner().invoke(build(), command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["n_docs"] == 12
    assert (tmp_path / "toy" / "text" / "tokenizer").is_dir()
    assert not (tmp_path / "toy" / "model").exists()


def test_the_shipped_mixture_is_small_and_says_where_it_came_from() -> None:
    recipe = json.loads((SHIPPED_MOE / "recipe.json").read_text())
    with safe_open(SHIPPED_MOE / "model.safetensors", "pt") as weights:
        n = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    assert n == recipe["parameters"] <= 3_900_000
    assert (SHIPPED_MOE / "model.safetensors").stat().st_size <= 8_000_000
    assert recipe["below_unigram"] >= 0.3
    assert recipe["config"] == ToyMoeConfig().model_dump(mode="json")
    assert recipe["corpus"]["tokenizer"] == tokenizer_digest(load_tokenizer(ModelConfig(name="pkg:toy-moe")))


def test_the_shipped_mixture_predicts_documents_it_has_not_seen() -> None:
    """Against the best that any unigram model could do on the very same tokens: the entropy of their own frequencies."""
    hosted = load_model(ModelConfig(name="pkg:toy-moe", device="cpu"))
    unseen = (d for d in documents(TextConfig(sources=("stdlib",))) if is_heldout(d.digest(), 0.1))
    losses, seen = [], []
    for _, document in zip(range(12), unseen, strict=False):
        ids = torch.tensor(hosted.tokenizer(document.text[:1000])["input_ids"][:256])[None]
        losses.append(hosted.loss(ids).flatten())
        seen.append(ids[0, 1:])
    counts = torch.bincount(torch.cat(seen)).double()
    p = counts[counts > 0] / counts.sum()
    assert torch.cat(losses).mean() < 0.7 * -(p * p.log()).sum()


def test_no_expert_of_the_shipped_mixture_is_dead() -> None:
    hosted = load_model(ModelConfig(name="pkg:toy-moe", device="cpu"))
    ids = torch.tensor(hosted.tokenizer(next(SOURCES["pydoc-topics"]("topics")).text[:3000])["input_ids"][:256])[None]
    with routers_heard(hosted.model) as routers:
        hosted.logits(ids)
    for _, chosen in routers:
        assert len(chosen.unique()) == hosted.model.config.num_experts


def test_a_shipped_model_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="pkg:toy-moe"):
        locate("pkg:toy-mox", lambda _: None)
    with pytest.raises(ConfigError, match="ships with"):
        locate("pkg:../hosting", lambda _: None)


@pytest.mark.parametrize("source", ["pydoc-topics", "c-headers"])
def test_installed_sources_are_in_one_order_and_say_nothing_twice(source: str) -> None:
    first, again = ([d for d, _ in zip(SOURCES[source](source), range(40), strict=False)] for _ in range(2))
    assert first == again
    assert len({d.digest() for d in first}) == len(first) == 40
    assert all(d.domain == source for d in first)


def test_generated_headers_are_left_out() -> None:
    assert not any("@generated" in d.text[:500] for d, _ in zip(SOURCES["c-headers"]("c"), range(300), strict=False))
