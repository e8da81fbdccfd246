"""How the trial says that it cannot go on."""

from __future__ import annotations


class TrialError(Exception):
    """A failure in words for whoever ran the command.

    The message is one paragraph: what happened, why, and what to do.

    Arguments:
        message: that paragraph.
        output: what the failed step printed, shown above the paragraph.
    """

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output
