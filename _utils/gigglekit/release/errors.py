"""What can go wrong with a release. Each message is one paragraph: what happened, why, what to do."""

from __future__ import annotations


class ReleaseError(Exception):
    """A release could not be made live. The app that was live before still is, unless the message says otherwise."""


class UnreachableError(ReleaseError):
    """The repository did not answer in time, or refused us."""


class UnknownRefError(ReleaseError):
    """The repository answers, and has no such branch, tag or commit."""


class BuildError(ReleaseError):
    """The release could not be built."""


class PreflightError(ReleaseError):
    """The release was built, and does not start with the settings of this droplet."""


class MigrationError(ReleaseError):
    """The database was not made ready for the release, or nothing could be saved before."""


class TrialError(ReleaseError):
    """The release was started beside the running one, and was not well; no request of a user has met it."""


class UnhealthyError(ReleaseError):
    """The release was started, and did not answer its health check."""
