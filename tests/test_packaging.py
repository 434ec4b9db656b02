"""What gets installed is what is in the tree, under one import name."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPED = {"saes", "kernels", "store", "app"}


def package_of(init: Path) -> str:
    parts = init.parent.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == "sparse_rep" else ("sparse_rep", *parts))


def test_every_package_of_the_tree_is_listed() -> None:
    inits = [p for folder in ("sparse_rep", *MAPPED) for p in (ROOT / folder).rglob("__init__.py")]
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == {package_of(p) for p in inits}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and an sdist, built from a copy so that no build/ or egg-info lands in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if files.returncode:
        pytest.skip("not a git checkout: the list of source files comes from git")
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


def test_the_wheel_holds_one_import_name_and_its_data(built: Path) -> None:
    names = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    tops = {n.split("/")[0] for n in names if ".dist-info" not in n}
    assert tops == {"sparse_rep"}
    tracked = [p for folder in ("sparse_rep", *MAPPED) for p in (ROOT / folder).rglob("*")]
    data = [p for p in tracked if p.suffix in {".sql", ".css", ".js", ".html", ".toml", ".safetensors"} and p.is_file()]
    assert data
    for path in data:
        inside = path.relative_to(ROOT)
        expected = inside if inside.parts[0] == "sparse_rep" else Path("sparse_rep") / inside
        assert str(expected) in names, f"{expected} is missing from the wheel: see package-data in pyproject.toml"


def test_the_sdist_can_be_built_from(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = archive.getnames()
    assert any(n.endswith("kernels/reference.py") for n in names)
    assert any(n.endswith("store/sql/schema.sql") for n in names)


def test_an_installed_wheel_works_outside_the_checkout(built: Path, tmp_path: Path) -> None:
    """Installed beside nothing of ours: the package is found, its folders' bare names are not."""
    site = tmp_path / "site"
    wheel = str(next(built.glob("*.whl")))
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site), wheel]
    subprocess.run(command, check=True, capture_output=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import importlib.util as u, sparse_rep, sparse_rep.kernels, "
        "sparse_rep.store, sparse_rep.saes; assert sparse_rep.__file__.startswith(sys.argv[1]), sparse_rep.__file__; "
        "from sparse_rep.cli.main import build; build(); "
        "print([n for n in ('kernels', 'saes', 'store', 'app') if u.find_spec(n)])"
    )
    out = subprocess.run(
        [sys.executable, "-P", "-c", code, str(site)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert out.stdout.strip() == "[]", out.stderr


def test_hugging_face_kernels_is_never_ours() -> None:
    """transformers probes for a package named `kernels`; the checkout's folder must not answer."""
    code = "import importlib.util as u; spec = u.find_spec('kernels'); print(spec.origin if spec else None)"
    out = subprocess.run([sys.executable, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(ROOT) not in out.stdout
