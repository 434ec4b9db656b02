"""Every query of docs/sql.md runs, on the demo store or on a small mixture, and has an answer."""

import importlib.util
import re
from pathlib import Path

import pytest

from sparse_rep.store import Store, run_sql

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "sql.md").read_text()
QUESTIONS = re.findall(r"^## (.+?)$.*?^```sql\n(.+?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_page_answers_at_least_twelve_questions() -> None:
    assert len(QUESTIONS) >= 12
    assert PAGE.count("```sql") == len(QUESTIONS)


ROUTING = [(q, sql) for q, sql in QUESTIONS if "my-routing" in sql or "routes" in sql or "expert_" in sql]
OTHERS = [pair for pair in QUESTIONS if pair not in ROUTING]


@pytest.fixture(scope="module")
def routing_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Real text routed by small mixtures, with codes and ablations beside."""
    spec = importlib.util.spec_from_file_location("routing_store", ROOT / "tests" / "app" / "routing_store.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build(tmp_path_factory.mktemp("routing") / "store")


@pytest.mark.parametrize(("question", "sql"), ROUTING, ids=[q for q, _ in ROUTING])
def test_each_question_about_routing_has_an_answer(routing_store: Store, question: str, sql: str) -> None:
    result = run_sql(
        routing_store, sql.replace("my-routing", "final-66696e61").replace("my-dictionary", "detectors-24")
    )
    assert result.table.num_rows > 0, question
    assert not result.truncated


@pytest.mark.parametrize(("question", "sql"), OTHERS, ids=[q for q, _ in OTHERS])
def test_each_question_has_an_answer(demo_store: Path, question: str, sql: str) -> None:
    store = Store(demo_store)
    dictionary = store.query("SELECT dictionary_id FROM dictionaries")["dictionary_id"].to_pylist()[0]
    busy = store.query("SELECT feature FROM features ORDER BY n_active DESC LIMIT 1")["feature"].to_pylist()[0]
    sql = sql.replace("my-dictionary", dictionary).replace("42", str(busy))
    result = run_sql(store, sql)
    assert result.table.num_rows > 0, question
    assert not result.truncated
