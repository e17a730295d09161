"""The one exception that users are meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong, where, and what to do.

    The command line prints it and exits with status 2; a notebook shows the line without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """IPython calls this in place of its own traceback."""
        return [f"rnn2rag: {self}"]
