"""What the image and the compose file promise, read from them: no Docker engine is needed to break a promise unseen."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker" / "app.Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())


def instructions() -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]  # pyright: ignore


def test_the_app_runs_as_a_numbered_user_that_is_not_root() -> None:
    user = [rest for name, rest in instructions() if name == "USER"]
    assert user
    assert int(user[-1]) >= 10000


def test_the_health_check_needs_nothing_that_a_slim_image_lacks() -> None:
    check = next(rest for name, rest in instructions() if name == "HEALTHCHECK")
    assert "python" in check
    assert "_stcore/health" in check
    assert "curl" not in check


def test_every_folder_of_the_package_is_copied() -> None:
    copies = [rest.split() for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    copied = {source for *sources, _target in copies for source in sources}
    assert {"sparse_rep", "saes", "kernels", "store", "app", "pyproject.toml", "constraints.txt"} <= copied
    assert all((ROOT / source).exists() for source in copied | {"README.md", "LICENSE"})


def test_safe_path_is_set_wherever_python_runs() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    assert all("PYTHONSAFEPATH=1" in stage for stage in stages)


def test_the_store_is_mounted_read_only_and_nothing_else_can_be_written() -> None:
    app = COMPOSE["services"]["app"]
    (volume,) = app["volumes"]
    assert volume["target"] == "/store"
    assert volume["read_only"] is True
    assert app["read_only"] is True
    assert app["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in app["ports"])
