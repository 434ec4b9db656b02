"""The README's commands: each parses against the real command line, those that only read are run on the demo store, and its
links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from sparse_rep.cli.main import build

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in re.findall(r"```sh\n(.+?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("sparse-rep ")
]
READING = [c for c in COMMANDS if c[0] in ("sql", "doctor")]


def test_there_are_commands_to_check() -> None:
    verbs = {"sql", "doctor", "train", "extract", "seal", "app", "export", "import", "profile"}
    assert {c[0] for c in COMMANDS} == verbs


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_of_the_readme_parses(command: list[str]) -> None:
    verb, rest = typer.main.get_command(build()), command
    while hasattr(verb, "commands"):
        verb, rest = verb.commands[rest[0]], rest[1:]  # pyright: ignore
    verb.make_context(" ".join(command), rest)


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_commands_that_read_answer_on_the_demo_store(demo_store: Path, command: list[str]) -> None:
    args = [str(demo_store) if word == "demo-store" else word for word in command]
    code = "from sparse_rep.cli.main import main; main()"
    out = subprocess.run([sys.executable, "-P", "-c", code, *args], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip()


def test_make_has_the_targets_that_the_readme_names() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"
