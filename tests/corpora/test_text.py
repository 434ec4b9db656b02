"""Reading text: every kind of source, in a fixed order, with errors that name what is wrong."""

import gzip
import json
import sysconfig
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparse_rep.config import TextConfig
from sparse_rep.corpora import hub, installed
from sparse_rep.corpora.text import Document, documents, text_sources
from sparse_rep.errors import ConfigError

ROWS = [{"text": f"row number {i}", "id": i} for i in range(5)]
TEXTS = {row["text"] for row in ROWS}


def read(*sources: Any, **settings: Any) -> list[Document]:
    return list(documents(TextConfig(sources=tuple(map(str, sources)), **settings)))


def test_the_standard_library_is_read_without_its_tests_in_no_alphabetical_order() -> None:
    found = read("stdlib")
    names = [d.source for d in found]
    assert {"json/decoder.py", "abc.py"} <= set(names)
    assert not any(part in name.split("/")[:-1] for name in names for part in ("test", "tests", "site-packages"))
    assert names != sorted(names)
    assert len({name[0] for name in names[:20]}) > 5
    assert [d.source for d in read("stdlib")] == names
    decoder = next(d for d in found if d.source == "json/decoder.py")
    assert decoder.text == (Path(sysconfig.get_paths()["stdlib"]) / "json/decoder.py").read_text()
    assert decoder.domain == "stdlib"


def test_package_readmes_are_long_enough_and_each_there_once() -> None:
    found = read("pip-readmes")
    assert "numpy" in {d.source.lower() for d in found}
    assert all(len(d.text) >= installed.SHORTEST_README for d in found)
    assert len({d.text for d in found}) == len(found)


def write_rows(folder: Path) -> dict[str, Path]:
    lines = "\n".join(map(json.dumps, ROWS)) + "\n\n"
    files = {"jsonl": folder / "a.jsonl", "gz": folder / "b.jsonl.gz", "parquet": folder / "c.parquet"}
    files["jsonl"].write_text(lines)
    with gzip.open(files["gz"], "wt") as stream:
        stream.write(lines)
    pq.write_table(pa.Table.from_pylist(ROWS), files["parquet"])
    return files


@pytest.mark.parametrize("kind", ["jsonl", "gz", "parquet"])
def test_rows_are_documents_numbered_by_where_they_stand(kind: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path)[kind]
    found = read(file)
    assert {d.text: d.source for d in found} == {row["text"]: f"{file.name}:{row['id'] + 1}" for row in ROWS}
    assert {d.domain for d in found} == {file.name[0]}


def test_a_directory_is_every_readable_file_in_it(tmp_path: Path) -> None:
    write_rows(tmp_path)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "note.md").write_text("a note")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    found = read(tmp_path)
    assert len(found) == 3 * len(ROWS) + 1
    assert {d.source for d in found if d.text == "a note"} == {"deep/er/note.md"}
    assert {d.domain for d in found} == {tmp_path.name}


def test_another_column_can_hold_the_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"body": "words", "text": 3}) + "\n" + json.dumps({"body": None}))
    assert [d.text for d in read(path, field="body")] == ["words"]


def test_bytes_that_are_not_utf8_are_replaced_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("café".encode("latin-1") + b" \xff")
    (found,) = read(path)
    assert (found.text, found.replaced) == ("caf\ufffd \ufffd", 2)


@pytest.mark.parametrize("form", ["parquet folder", "jsonl folder", "save_to_disk", "save_to_disk dict"])
def test_a_local_directory_in_the_form_of_a_hub_data_set(form: str, tmp_path: Path) -> None:
    import datasets

    folder = tmp_path / "my-data"
    data = datasets.Dataset.from_list(ROWS)
    if form == "save_to_disk":
        data.save_to_disk(str(folder))
    elif form == "save_to_disk dict":
        datasets.DatasetDict({"train": data, "validation": data.select([0])}).save_to_disk(str(folder))
    else:
        folder.mkdir()
        if form == "parquet folder":
            data.to_parquet(str(folder / "train.parquet"))
        else:
            data.to_json(str(folder / "train.jsonl"))
    found = read(f"hf:{folder}")
    assert {d.text for d in found} == TEXTS
    assert {d.domain for d in found} == {"my-data"}
    if form == "save_to_disk dict":
        assert [d.text for d in read(f"hf:{folder}:validation")] == ["row number 0"]
    with pytest.raises(ConfigError, match=r"no column 'body'; there are text, id"):
        read(f"hf:{folder}", field="body")
    with pytest.raises(ConfigError, match="'nonsense'"):
        read(f"hf:{folder}:nonsense")


def test_what_is_wrong_with_a_source_is_said_in_one_sentence(tmp_path: Path) -> None:
    files = write_rows(tmp_path)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "fine"}\n{"text": \n')
    numbers = tmp_path / "numbers.jsonl"
    numbers.write_text('{"text": 7}\n[1]')
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("a,b")
    (tmp_path / "x").mkdir()
    for sources, told in [
        (
            (tmp_path / "gone",),
            r"no text at .*gone: give stdlib, pip-readmes, pydoc-topics, c-headers, hf:NAME, or a path",
        ),
        ((), "name at least one source"),
        ((files["jsonl"], tmp_path / "x" / ".." / "a.jsonl"), "both called 'a'"),
        ((broken,), r"broken\.jsonl, line 2: not JSON"),
        ((numbers,), r"line 1: the column 'text' holds int, not text"),
        ((tmp_path / "empty",), "holds no text that can be read"),
        ((tmp_path / "table.csv",), "holds no text that can be read"),
        (("hf:",), "write hf:NAME"),
        (("hf:a:b:c:d",), "write hf:NAME"),
    ]:
        with pytest.raises(ConfigError, match=told) as error:
            read(*sources)
        assert "\n" not in str(error.value)
    for kind in ("jsonl", "gz", "parquet"):
        with pytest.raises(ConfigError, match=r"no column 'body'; there are text, id"):
            read(files[kind], field="body")


def test_a_data_set_nobody_has_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    with pytest.raises(ConfigError, match=r"no such directory here and the Hugging Face Hub cannot be reached"):
        read("hf:no-such/data")


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("not json")
    (source,) = text_sources(TextConfig(sources=(str(path),)))
    assert source.domain == "rows"
    with pytest.raises(ConfigError):
        next(source.read())
