"""The one error that is the user's to mend."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user can mend.

    The message is one sentence: which file or option, what was found, what was expected, the next
    step. The command line prints it to stderr and exits with `exit_code`; it never shows a traceback for it.
    Faults of ours stay assertions and ordinary exceptions.
    """

    exit_code = 2
