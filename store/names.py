"""Names that become folders: what they may hold, and where things lie inside a store."""

from __future__ import annotations

import re
from pathlib import Path

from sparse_rep.store.errors import StoreError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")


def checked(what: str, name: str) -> str:
    """The name, when it can be a folder on every system and needs no quoting in a path.

    Raises:
        StoreError: it cannot.
    """
    if not _NAME.fullmatch(name) or len(name) > 200:
        raise StoreError(f"{what} {name!r} cannot be a folder's name: use letters, digits and . _ + -")
    return name


def live_file(dictionary: str, shard: str) -> str:
    return f"live/dictionary={dictionary}/{shard}.parquet"


def bucket_file(dictionary: str, bucket: int, generation: int) -> str:
    return f"codes/dictionary={dictionary}/bucket={bucket}/g{generation}.parquet"


def by_token_file(dictionary: str, part: int, generation: int) -> str:
    return f"by_token/dictionary={dictionary}/g{generation}-{part:04d}.parquet"


def activations_file(hook: str, shard: str) -> str:
    return f"activations/hook={hook}/{shard}.parquet"


def table_file(table: str, part: str) -> str:
    return f"tables/{table}/{part}.parquet"


def joined_file(table: str, value: int, generation: int) -> str:
    return f"tables/{table}/g{generation}-{value:05d}.parquet"


def index_file(generation: int) -> str:
    return f"index.g{generation}.duckdb"


def run_folder(store: Path, run_id: str) -> Path:
    return store / "runs" / run_id
