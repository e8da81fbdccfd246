"""What can go wrong with UptimeRobot. Each message is one paragraph for an operator: what happened, why, what to do."""

from __future__ import annotations


class UptimeRobotError(Exception):
    """Anything that keeps the monitors from being as the settings say; what was done before it still holds."""


class UnreachableError(UptimeRobotError):
    """It does not answer, or only with errors of its own; asking again later helps."""


class LimitedError(UnreachableError):
    """The account's requests are used up for longer than this run waits."""


class DeniedError(UptimeRobotError):
    """The key is refused, may only read, or the account's plan lacks what was asked for."""


class RefusedError(UptimeRobotError):
    """What was asked for is not taken. The message repeats what UptimeRobot says of it."""
