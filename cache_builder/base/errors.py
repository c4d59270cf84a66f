"""The one exception for faults that the user can correct."""

from __future__ import annotations


class UserError(ValueError):
    """A fault that the user can correct.

    The message is one sentence: the file or option, what was found, what was expected, the next step. The
    command line prints it to stderr without a traceback and exits with `exit_code`. Faults of the library
    stay assertions and ordinary exceptions.
    """

    exit_code = 2
