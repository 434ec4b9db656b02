"""A directory of immutable Parquet files under manifests, plus one sealed DuckDB index a run. SQL is its API.

This package imports numpy, pyarrow and duckdb, nothing of ours but `errors`, and never torch.
"""
