"""What can go wrong with a runtime; each says in one paragraph what happened and what to do."""

from __future__ import annotations


class RuntimeProblem(Exception):
    """A runtime could not be put into force. The one before is in force as it was."""


class CannotRunHere(RuntimeProblem):
    """A bundle that this machine cannot run, or that is not made for this tree: the lock file is the other way in."""


class WrongBundle(RuntimeProblem):
    """What came is not the bundle that was asked for, and will not be one the next time."""


class Undecided(RuntimeProblem):
    """Whether a runtime works cannot be told now, and it is no fault of its."""
