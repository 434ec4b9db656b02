"""Every query of docs/sql.md runs on the demo store and has an answer."""

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


@pytest.mark.parametrize(("question", "sql"), QUESTIONS, ids=[q for q, _ in QUESTIONS])
def test_each_question_has_an_answer(demo_store: Path, question: str, sql: str) -> None:
    store = Store(demo_store)
    dictionary = store.query("SELECT dictionary_id FROM dictionaries")["dictionary_id"].to_pylist()[0]
    busy = store.query("SELECT feature FROM features ORDER BY n_active DESC LIMIT 1")["feature"].to_pylist()[0]
    sql = sql.replace("my-dictionary", dictionary).replace("42", str(busy))
    result = run_sql(store, sql)
    assert result.table.num_rows > 0, question
    assert not result.truncated
