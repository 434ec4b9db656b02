"""Errors meant for users: one sentence saying what is wrong and what to do, and the exit code that goes with it.

Programmer mistakes are `assert`s, never one of these.
"""


class SparseRepError(Exception):
    """Anything the person at the keyboard can mend. The command line prints it as one line."""

    exit_code = 2


class ConfigError(SparseRepError, ValueError):
    """A setting that cannot work: unknown hook, k > latents, text shorter than the context."""


class DataError(SparseRepError, ValueError):
    """Data that disagrees with what was promised: other tokenizer, other width, wrong checksum."""

    exit_code = 4


class Interrupted(SparseRepError):
    """The user pressed Ctrl-C; everything committed so far is kept and the same command resumes."""

    exit_code = 130
