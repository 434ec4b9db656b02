"""The house's one-way streets, read from the source so that no import can sneak past."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "sparse_rep": ROOT / "sparse_rep",
    **{f"sparse_rep.{n}": ROOT / n for n in ("saes", "kernels", "store", "app")},
}

BASE = {
    "errors",
    "config",
    "config_base",
    "config_dictionary",
    "codes",
    "activations",
    "metrics",
    "synthetic",
    "progress",
}
MIDDLE = {"hosting", "corpora", "attention", "routing", "jepa", "evaluation", "toys"}
ALLOWED = {
    "kernels": {"kernels"},
    "errors": set(),
    "progress": set(),
    "synthetic": set(),
    "config_base": {"errors"},
    "config_dictionary": {"config_base", "errors"},
    "config": {"config_base", "config_dictionary", "errors"},
    "codes": set(),
    "activations": {"errors"},
    "metrics": {"codes"},
    "store": {"store", "errors"},
    "saes": {"saes", "kernels"} | BASE,
    **{name: MIDDLE | {"saes", "kernels", "store"} | BASE for name in MIDDLE},
    "jobs": {"jobs", "saes", "kernels", "store"} | MIDDLE | BASE,
    "app": {"app", "store", "errors"},
}
HEAVY = {"torch", "transformers", "sae_lens", "transformer_lens", "triton", "datasets", "pandas", "streamlit", "plotly"}


def modules() -> list[tuple[str, Path]]:
    found = []
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *(p for p in parts if p != "__init__")))
            found.append((name, path))
    return found


def imported(path: Path, module: str) -> set[str]:
    """Full names of what a file imports at run time, wherever in the file."""
    names = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{module}: relative imports hide the direction; name the package")
    return names


def room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "sparse_rep"


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_go_one_way(module: str, path: Path) -> None:
    here = room(module)
    if here in ("cli", "sparse_rep"):
        return
    ours = {room(name) for name in imported(path, module) if name.split(".")[0] == "sparse_rep"} - {
        "sparse_rep",
        "__version__",
    }
    assert ours <= ALLOWED[here], f"{module} may not import {ours - ALLOWED[here]}"


def test_no_verb_imports_anything_heavy_when_it_is_registered() -> None:
    code = "import sys; from sparse_rep.cli.main import build; build(); print(sorted(set(sys.modules) & set(sys.argv[1:])))"
    out = subprocess.run(
        [sys.executable, "-P", "-c", code, *HEAVY, "duckdb"], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_the_store_starts_without_torch() -> None:
    code = "import sys, sparse_rep.store; sparse_rep.store.Store; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
