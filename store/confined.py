"""Running a person's SQL under limits that the query cannot lift: the body of the sandbox, and the process it runs in.

DuckDB ends a query between two vectors of rows, and counts the memory of its buffers. One call of `levenshtein` on two long
strings, or of `range(1000000000)` as a list, is neither interrupted nor counted (both measured). So the process as a whole is
confined, and whoever asked can end it.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import threading
import time

import duckdb
import pyarrow as pa

from sparse_rep.store.errors import SqlRefused, SqlTimeout, StoreError
from sparse_rep.store.sandbox import GRACE_SECONDS, MEMORY_LIMIT, TOO_MUCH_MEMORY, SqlResult, timed_out
from sparse_rep.store.statement import check, first_sentence
from sparse_rep.store.store import Store
from sparse_rep.store.views import literal

ADDRESS_SPACE = 6 * 2**30
"""Bytes the whole process may map: DuckDB's limit, the libraries, and some air."""
RESULT_BYTES = 64 * 2**20
TOO_LARGE = f"the result is larger than {RESULT_BYTES // 2**20} MiB: select fewer or shorter columns"


def confine(timeout: float) -> None:
    """Limit this process for good: no file of its own grows, memory is bounded, it ends when its time is up."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, timeout + GRACE_SECONDS)


def execute(store: Store, sql: str, timeout: float, max_rows: int) -> SqlResult:
    """Check, then run on a connection of its own that can open files of the store only and cannot be set up anew.

    Raises:
        SqlRefused, SqlTimeout, StoreError: see `run_sql`.
    """
    started = time.perf_counter()
    con = store.connect()
    timer = threading.Timer(timeout, con.interrupt)
    timer.daemon = True
    try:
        check(con, sql)
        con.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        con.execute("SET temp_directory = ''")
        con.execute(f"SET allowed_directories = [{literal(str(store.path))}]")
        con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")
        timer.start()
        table, truncated = _fetch(con, sql, max_rows)
        return SqlResult(table, truncated, time.perf_counter() - started)
    except duckdb.InterruptException as error:
        raise SqlTimeout(timed_out(timeout)) from error
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise StoreError(TOO_MUCH_MEMORY) from error
    except duckdb.PermissionException as error:
        raise SqlRefused(f"only the store's own tables can be read here: {first_sentence(error)}") from error
    except (duckdb.Error, OSError) as error:  # what fails between two batches, Arrow hands on as an OSError
        late = time.perf_counter() - started >= timeout
        raise (SqlTimeout(timed_out(timeout)) if late else StoreError(_in_words(error))) from error
    finally:
        timer.cancel()
        con.close()


def _fetch(con: duckdb.DuckDBPyConnection, sql: str, max_rows: int) -> tuple[pa.Table, bool]:
    """Rows as they come, so that a query without an end costs no more than its first `max_rows`."""
    reader = con.sql(sql).to_arrow_reader(2048)
    batches: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in reader:
        batches.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if size > RESULT_BYTES:
            raise StoreError(TOO_LARGE)
        if rows > max_rows:
            break
    return pa.Table.from_batches(batches, reader.schema).slice(0, max_rows), rows > max_rows


def _in_words(error: Exception) -> str:
    """One sentence; the kinds of error that have a class in DuckDB are told by their text once Arrow has passed them on."""
    text = first_sentence(error)
    if text.startswith("Out of Memory"):
        return TOO_MUCH_MEMORY
    return TOO_LARGE if "Arrow Appender" in text else text


def serve(request: dict, out: pa.NativeFile) -> None:
    """Answer one request: a line of JSON, and where the query ran, its rows as an Arrow stream."""
    try:
        result = execute(Store(request["store"]), request["sql"], request["timeout"], request["max_rows"])
    except StoreError as error:
        out.write(json.dumps({"error": type(error).__name__, "message": str(error)}).encode() + b"\n")
        return
    out.write(json.dumps({"truncated": result.truncated, "seconds": result.seconds}).encode() + b"\n")
    with pa.ipc.new_stream(out, result.table.schema) as stream:
        stream.write_table(result.table)


if __name__ == "__main__":
    given = json.loads(sys.stdin.buffer.read())
    confine(given["timeout"])
    serve(given, pa.PythonFile(sys.stdout.buffer, mode="w"))
