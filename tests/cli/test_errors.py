"""What a person sees who types something that cannot work: one sentence, and an exit code that is not 0."""

import errno
import sys
from pathlib import Path

import pytest

from sparse_rep.cli.main import build, main


def run(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sparse-rep", *args])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["train", "--store", "{file}"], 2, "is a file"),
        (["train", "--store", "{new}", "--model", "/no/model"], 2, "no model at /no/model"),
        (["train", "--store", "{new}", "--k", "9", "--latents", "8"], 2, "lower k or widen"),
        (["train", "--store", "{new}", "--set", "hoook=1"], 2, "hoook"),
        (["train", "--store", "{new}", "--config", "{new}/none.yaml"], 2, "cannot read the config file"),
        (["train", "--store", "{new}", "--text", "/no/such/text"], 2, "/no/such/text"),
        (["train", "--store", "{new}", "--device", "tpu"], 2, "unknown device"),
        (["extract", "--store", "{new}", "--dictionaries", "nope"], 2, "sparse-rep train"),
        (["extract", "--store", "{new}"], 2, "dictionaries"),
        (["app", "--store", "{missing}"], 2, "{missing}"),
        (["doctor", "--store", "{missing}"], 2, "{missing}"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_input_is_one_sentence_and_a_nonzero_exit(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    args: list[str],
    code: int,
    says: str,
) -> None:
    (tmp_path / "file").write_text("not a store")
    places = {"file": tmp_path / "file", "new": tmp_path / "new", "missing": tmp_path / "missing"}
    assert run(monkeypatch, *(a.format(**places) for a in args)) == code
    err = capsys.readouterr().err
    sentence = next(line for line in err.splitlines() if line.startswith("sparse-rep: "))
    assert says.format(**places) in sentence
    assert "Traceback" not in err


def test_ctrl_c_says_that_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sparse_rep.cli import doctor

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "packages", interrupt)
    assert run(monkeypatch, "doctor") == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_full_disk_is_one_sentence_and_says_that_the_command_resumes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sparse_rep.cli import doctor

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "checkpoint.tmp")

    monkeypatch.setattr(doctor, "packages", full)
    assert run(monkeypatch, "doctor") == 3
    assert "no room left to write checkpoint.tmp" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [c.name for c in build().registered_commands])
def test_help_teaches_with_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, verb, "--help") == 0
    out = capsys.readouterr().out
    assert len(out.split()) > 40, f"`sparse-rep {verb} --help` says next to nothing"
