"""What can go wrong with a store, in words for the person at the keyboard."""

from __future__ import annotations

from sparse_rep.errors import DataError, SparseRepError


class StoreError(SparseRepError):
    """The store cannot do what was asked: no such run, held by another writer, sealed, of a newer version."""


class StoreDamaged(StoreError, DataError):
    """Files disagree with the manifest that lists them."""

    exit_code = 4


class StoreFull(StoreError):
    """The disk (or a quota) is full. What was committed before stays whole."""

    exit_code = 3


class SqlRefused(StoreError):
    """A statement that the read-only SQL prompt does not run."""


class SqlTimeout(StoreError):
    """A query that took longer than it was given."""
