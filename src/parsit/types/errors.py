"""Errors meant for the person in front of the machine.

Every message is one line that says what is wrong, where, and what to do. The command line prints
it on stderr without a traceback; broken invariants of our own are `assert`s and do show one.
"""


class ParsitError(Exception):
    """Something failed that the user can do something about. Exit code 1."""


class InputError(ParsitError):
    """A file that the user gave cannot be used as it is. Exit code 1."""


class UsageError(ParsitError):
    """The command line or the configuration asks for something that does not exist. Exit code 2."""
