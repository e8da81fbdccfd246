"""Runs the app's nightly script for the users that are this droplet's, under a lease.

It is the main process of giggles-nightly.service, in the job's sandbox: when it dies, systemd ends the script with it.

One start of the script serves all users that this droplet has, since each start loads the model anew. Another one follows only
for users whose droplet died, or never came. When all of its own are done it waits for the others, to take over should one die.

A script that is at work is stopped before its lease can be over: when the database could not be reached for four fifths of it, the
script is told to end, and killed after a further tenth. What neither this nor anything without the app's help can prevent: a whole
machine that is halted in between goes on, when it goes on, with what it was doing for as long as it takes to notice, half a second.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from gigglekit.fleet import lines
from gigglekit.fleet.errors import ForeignError, LeaseError, LostError, UnreachableError
from gigglekit.fleet.heart import Heart, since_boot
from gigglekit.fleet.lease import AWAITED_SECONDS, Lease, Leases, Share
from gigglekit.fleet.script import Script

BUSY = 75
"""How the script ends when another one is at work on this machine (gigglekit.release.single_run)."""
UNAVAILABLE = 69
"""How the runner ends when it could not have a lease and must not go on without (EX_UNAVAILABLE of sysexits.h)."""
STOPPED = 74
"""How it ends when it stopped the script because of the lease (EX_IOERR)."""

_LOOK_SECONDS = 0.5
_TERM_AT, _KILL_AT = 0.2, 0.1
"""With so much of a lease's life left, the script is told to end, and killed."""


class _ToldToEndError(Exception):
    """Somebody wants the whole job to end."""


@dataclass(frozen=True)
class _Held:
    """A lease that is held, and what keeps it."""

    leases: Leases
    lease: Lease
    heart: Heart

    def claim(self, droplets: Sequence[str], *, again: bool) -> Share:
        return self.leases.claim(self.lease, droplets, again=again)

    @property
    def left(self) -> float:
        """Return how much of its life a lease surely has left, 0 to 1."""
        return max(0.0, self.heart.left / self.leases.seconds)


@dataclass
class Runner:
    """One night on this droplet.

    Arguments:
        script: what to run.
        leases: None if no database is configured.
        droplets: names of all droplets that run the nightly job; with one there is nobody else, as far as anybody knows.
        seconds: after which it waits for others no longer.
        say: writes a line.
        pause: seconds between two looks for something to do, or at a database that did not answer.
    """

    script: Script
    leases: Leases | None
    droplets: Sequence[str]
    seconds: float
    say: Callable[[str], None]
    pause: float = 20.0
    _told_to_end: bool = field(default=False, init=False)
    _is_owed: bool = field(default=False, init=False)
    _in_doubt: bool = field(default=False, init=False)

    def run(self) -> int:
        """Run the night.

        Returns:
            How it ended: an exit code, or less than 0 for the signal that ended the script.
        """
        signal.signal(signal.SIGTERM, self._remember)
        began = since_boot()
        try:
            return self._run(began)
        except _ToldToEndError:
            return -signal.SIGTERM

    def _remember(self, *_: object) -> None:
        self._told_to_end = True

    def _run(self, began: float) -> int:
        if self.leases is None:
            return self._without_lease("The app's settings name no database (DATABASE_URL).")
        if self.leases.holder.droplet not in self.droplets:
            self.say(lines.line(lines.UNLISTED))
        alone = len(self.droplets) == 1
        try:
            held, share = self._take(self.leases, began + (self.pause if alone else AWAITED_SECONDS))
        except LeaseError as error:
            if alone and not isinstance(error, ForeignError):
                return self._without_lease(str(error))
            self.say(lines.line(lines.REFUSED, error))
            return UNAVAILABLE
        self.say(lines.line(lines.LEASE, held.lease.token))
        held.heart.start()
        try:
            return self._night(held, share, began)
        finally:
            held.heart.stop()
            self._try(held.leases.end, held.lease)

    def _take(self, leases: Leases, patience: float) -> tuple[_Held, Share]:
        """Take a lease and the first users; ask again until `patience` if the database does not answer.

        Raises:
            LeaseError: there is none to be had.
        """
        while True:
            asked = since_boot()
            try:
                lease = leases.take()
                try:
                    return _Held(leases, lease, Heart(leases, lease, asked)), leases.claim(lease, self.droplets)
                except LeaseError:
                    self._try(leases.end, lease)
                    raise
            except UnreachableError:
                # What the database refuses it refuses again; it may just not be there yet.
                if since_boot() + self.pause >= patience:
                    raise
            self._sleep(self.pause)

    def _without_lease(self, why: str) -> int:
        self.say(lines.line(lines.UNLEASED, why))
        self.say(lines.line(lines.PART, "all"))
        return self._watch(self.script.start(None), None)

    def _night(self, held: _Held, share: Share, began: float) -> int:
        # Who knows of nobody else leaves it to the script whom it finds.
        users, first = None if share.all_of_them else share.users, True
        if users is not None and not users and share.left:
            self.say(lines.line(lines.NOTE, f"waiting for other droplets, which have {share.left} users"))
        while True:
            if users is None or users:
                status = self._part(held, users, first=first)
                if status != 0:
                    return status
                first = False
            elif not share.left:
                break
            elif since_boot() - began > self.seconds:
                self.say(lines.line(lines.OPEN, share.left))
                break
            else:
                self._sleep(self.pause)
            try:
                if self._is_owed:
                    # Or it would wait for users whom nobody else may have while this lease is alive.
                    held.leases.done(held.lease)
                    self._is_owed = False
                share = held.claim(self.droplets, again=self._in_doubt)
                users, self._in_doubt = share.users, False
            except LeaseError as error:
                if isinstance(error, LostError) or held.left == 0:
                    self.say(lines.line(lines.OPEN, share.left))
                    break
                # The database may be back before the lease is over. It may have claimed users before it went away: nobody else may have
                # them while this lease is alive, and they would be written down as done with the next part. All others are done by now.
                users, self._in_doubt = (), True
                share = replace(share, users=(), left=max(1, share.left))
        self.say(lines.line(lines.ELSEWHERE, share.elsewhere))
        if share.given_up:
            self.say(lines.line(lines.GIVEN_UP, share.given_up))
        return 0

    def _part(self, held: _Held, users: Sequence[str] | None, *, first: bool) -> int:
        """Run the script once; return how it ended."""
        self.say(lines.line(lines.PART, "all" if users is None else len(users)))
        while (status := self._watch(self.script.start(users), held)) == BUSY and not first:
            # Somebody began one by hand between two parts.
            self._sleep(self.pause)
        if status == BUSY:
            self._try(held.leases.withdraw, held.lease)
        elif status == 0:
            # Where this can never be written down, the app's own log of each user tells the others.
            for _ in range(3):
                self._is_owed = not self._try(held.leases.done, held.lease)
                if not self._is_owed:
                    break
                self._sleep(self.pause)
        return status

    def _watch(self, child: subprocess.Popen[bytes], held: _Held | None) -> int:
        """Wait for the script; stop it if the lease runs out."""
        while True:
            try:
                return child.wait(timeout=_LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            if self._told_to_end:
                child.terminate()
                child.wait()
                raise _ToldToEndError
            if held is not None and held.left < _TERM_AT:
                self._stop(child, held)
                self.say(lines.line(lines.LOST, "the database did not answer, or the machine stood still, until the lease was nearly over"))
                return STOPPED

    @staticmethod
    def _stop(child: subprocess.Popen[bytes], held: _Held) -> None:
        child.terminate()
        while held.left > _KILL_AT:
            try:
                child.wait(timeout=_LOOK_SECONDS)
                return
            except subprocess.TimeoutExpired:
                continue
        child.kill()
        child.wait()

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._told_to_end:
                raise _ToldToEndError
            time.sleep(min(left, _LOOK_SECONDS))

    @staticmethod
    def _try(do: Callable[[Lease], None], lease: Lease) -> bool:
        try:
            do(lease)
        except LeaseError:
            return False
        return True


def end_as(status: int) -> int:
    """Return an exit code, or end by the signal that ended the script, so that systemd sees what it would have seen."""
    if status >= 0:
        return status
    # No picture of this process's memory is written to a disk: it knows the address of the database.
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE, prctl(2)
    signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), -status)
    return 128 - status
