"""The page on routing: its queries are valid, its pictures there, its figures those of the recipe that ships."""

import json
import re
from pathlib import Path

import pytest

from sparse_rep.hosting.locate import SHIPPED
from sparse_rep.store import Store

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "routing.md").read_text()
QUERIES = [q for block in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL) for q in block.split(";") if q.strip()]


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_can_be_asked(query: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    assert store.query(query).num_rows == 0


def test_every_picture_is_there() -> None:
    pictures = re.findall(r"\]\((img/[^)]+)\)", PAGE)
    assert len(pictures) == 4
    for picture in pictures:
        assert (Path(__file__).resolve().parents[2] / "docs" / picture).read_text().startswith("<svg")


def test_losses_are_those_of_the_recipe() -> None:
    recipe = json.loads((SHIPPED / "toy-moe" / "recipe.json").read_text())
    assert f"{recipe['parameters']:,} parameters" in PAGE
    for domain, loss in recipe["heldout_nats"].items():
        row = next(
            line.replace("*", "") for line in PAGE.splitlines() if line.replace("*", "").startswith(f"| {domain} |")
        )
        unigram = recipe["unigram_nats"][domain]
        assert row.split("|")[2:5] == [
            f" {loss:.3f} ",
            f" {unigram:.3f} ",
            f" {1 - loss / unigram:.0%} ".replace("%", " %"),
        ]
