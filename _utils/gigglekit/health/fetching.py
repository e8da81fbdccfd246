"""Taking new commits of this repository: forward only, signed if that is asked for, and never at the cost of the tree that works."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gigglekit.command import CommandTimeoutError, Outcome, run

_FETCH_SECONDS = 120.0
_LOCAL_SECONDS = 60.0
_VERIFY_SECONDS = 300.0
_MOST_COMMITS = 2000
_TRIES, _PAUSE_SECONDS = 2, 15.0
SPARE_BYTES = 64 << 20
"""What must be left of the disk when a new commit is laid out: Salt and the services write as well."""

_KEPT = "The last good tree stays, and is applied."


class FetchError(Exception):
    """A new commit could not be taken, for the reason in the text; the tree is as it was."""


@dataclass(frozen=True)
class Looked:
    """What the remote has.

    Arguments:
        commit: the newest commit, all of it checked; None if there is none that the tree does not have.
        reason: why nothing can be fetched at all, "" if it can.
    """

    commit: str | None
    reason: str = ""


@dataclass(frozen=True)
class PutAway:
    """Edits that were found in the tree.

    Arguments:
        names: the files, relative to the tree.
        kept: the commit of git's stash that has them now.
    """

    names: tuple[str, ...]
    kept: str


class Tree:
    """The working tree that a droplet converges from.

    Arguments:
        path: where it lies.
        signers: file of those who may sign commits (ssh-keygen(1), ALLOWED SIGNERS); None if signatures are not asked for.
        spare: bytes that must be left of the disk.
        pause: seconds before a remote that did not answer is asked again.
        branch: the branch of the remote that is followed; None for the one that is checked out here.
    """

    def __init__(
        self,
        path: Path,
        signers: Path | None = None,
        *,
        spare: int = SPARE_BYTES,
        pause: float = _PAUSE_SECONDS,
        branch: str | None = None,
    ) -> None:
        self._path = path
        self._branch = branch
        self._signers = signers
        self._spare = spare
        self._pause = pause

    def head(self) -> str:
        """Return the commit that is checked out.

        Raises:
            FetchError: there is none.
        """
        return self._must(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], "has no commit that git can read").strip()

    def locks(self) -> list[Path]:
        """Return the locks that a git which lays out a commit has here, or had when it was killed."""
        names = ["index", "HEAD"]
        branch = self._git(["symbolic-ref", "--quiet", "HEAD"])
        if branch.code == 0:
            names.append(branch.output.strip())
        paths = [self._path / self._git(["rev-parse", "--git-path", f"{name}.lock"]).output.strip() for name in names]
        return [path for path in paths if path.name.endswith(".lock") and path.exists()]

    def unlock(self) -> None:
        """Remove locks that are older than any git of this program gets. Only for a tree that a run was killed in."""
        for path in self.locks():
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _LOCAL_SECONDS:
                    path.unlink()

    def edits(self) -> tuple[str, ...]:
        """Return the files that are in no commit as they lie here.

        Raises:
            FetchError: git does not say.
        """
        listing = self._must(
            ["status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all", "--ignore-submodules=none"],
            "cannot be compared with its commit",
        )
        return tuple(entry[3:] for entry in listing.split("\0") if entry)

    def tip_of(self, branch: str) -> str | None:
        """Ask the remote for the commit that one of its branches has; None if there is no such branch. Nothing is fetched.

        Raises:
            FetchError: it does not answer.
        """
        checked_out = self._git(["symbolic-ref", "--short", "--quiet", "HEAD"]).output.strip()
        remote = (self._setting(f"branch.{checked_out}.remote") if checked_out else None) or "origin"
        ref = f"refs/heads/{branch}"
        said = self._must(["ls-remote", "--quiet", "--", remote, ref], f"cannot ask {remote} for its branch {branch}")
        return next((line.split()[0] for line in said.splitlines() if line.endswith(f"\t{ref}")), None)

    def has(self, commit: str) -> bool:
        """Tell whether the tree's repository has a commit."""
        return self._git(["cat-file", "-e", f"{commit}^{{commit}}"]).code == 0

    def count_between(self, earlier: str, later: str) -> int:
        """Return how many commits lie between one and another that comes after it, the later one included.

        Raises:
            FetchError: git does not say.
        """
        return int(self._must(["rev-list", "--count", f"{earlier}..{later}"], "cannot count its commits"))

    def put_away(self) -> PutAway | None:
        """Put edits of the tree, and files that git does not know, into git's stash; None if there are none.

        Raises:
            FetchError: they could not be kept; then they are still there.
        """
        names = self.edits()
        if not names:
            return None
        before = self._stashed()
        message = f"found in the tree at {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"
        self._must(
            ["stash", "push", "--quiet", "--include-untracked", "--message", message],
            f"has edits ({', '.join(names[:5])}) that cannot be put away",
        )
        kept = self._stashed()
        if kept is None or kept == before:
            raise FetchError(
                f"{self._path} has edits ({', '.join(names[:5])}) that git does not put away, a repository in this one perhaps. Nothing "
                f"was fetched. Look at git -C {self._path} status, and commit or move them. {_KEPT}"
            )
        return PutAway(names, kept)

    def look(self) -> Looked:
        """Fetch, and check every commit between this tree's and the newest one. The files of the tree are not touched.

        Raises:
            FetchError: no answer, rewritten history, a commit that nobody allowed has signed, or no room on the disk.
        """
        checked_out = self._git(["symbolic-ref", "--short", "--quiet", "HEAD"])
        if checked_out.code != 0 and self._branch is None:
            return Looked(None, f"{self._path} is checked out at one commit and not on a branch, so nothing new is fetched.")
        name = checked_out.output.strip()
        remote = (self._setting(f"branch.{name}.remote") if name else None) or "origin"
        if self._setting(f"remote.{remote}.url") is None:
            return Looked(None, f"{self._path} has no remote named {remote}, so nothing new is fetched. See git -C {self._path} remote.")
        ref = f"refs/heads/{self._branch}" if self._branch else self._setting(f"branch.{name}.merge") or f"refs/heads/{name}"
        here = self.head()
        self._need_room(0)
        new = self._fetch(remote, ref)
        if new == here:
            return Looked(None)
        self._insist_on_forward(here, new, f"{remote} {ref.removeprefix('refs/heads/')}")
        if self._signers is not None:
            self._insist_on_signatures(here, new)
        return Looked(new)

    def is_ancestor(self, earlier: str, later: str) -> bool:
        """Tell whether a commit is another one, or comes before it. One that git does not have comes before none."""
        return self._git(["merge-base", "--is-ancestor", earlier, later]).code == 0

    def lay_out(self, commit: str, folder: str, place: Path) -> None:
        """Lay out what a commit has in one of its folders somewhere else; the tree is not touched.

        Arguments:
            commit: which one.
            folder: in the repository.
            place: an empty folder.

        Raises:
            FetchError: it could not be done.
        """
        index = {"GIT_INDEX_FILE": str(place / ".index")}
        for arguments in (["read-tree", f"{commit}:{folder}"], ["checkout-index", "--all", "--quiet", f"--prefix={place}/"]):
            done = self._git(arguments, more=index)
            if done.code != 0:
                raise FetchError(
                    f"The files of commit {commit[:12]} could not be laid out in {place} ({done.last_words or f'exit code {done.code}'}), "
                    f"so nobody can tell whether its programs start. Look at df {place.parent}; the next run tries it again. {_KEPT}"
                )

    def take(self, commit: str) -> None:
        """Lay out the files of a commit that `look` returned.

        Raises:
            FetchError: it could not be done; the tree is what it was.
        """
        here = self.head()
        self._need_room(self._size_of_change(here, commit))
        merged = self._git(["merge", "--ff-only", "--no-overwrite-ignore", "--no-stat", "--quiet", commit])
        if merged.code != 0:
            # First what is new: the old files need its room.
            self._without_new_files(here, commit)
            self.put_back(here)
            raise FetchError(
                f"The files of commit {commit[:12]} could not be laid out in {self._path} ({merged.last_words}). Look at df and at "
                f"git -C {self._path} status; it is tried again with the next run. {_KEPT}"
            )

    def put_back(self, commit: str) -> None:
        """Lay out the files of an earlier commit again.

        Raises:
            FetchError: not even that could be done.
        """
        back = self._git(["reset", "--hard", "--quiet", commit])
        if back.code != 0:
            raise FetchError(
                f"The files of commit {commit[:12]} could not be laid out again in {self._path} ({back.last_words}), so the tree may be "
                f"incomplete. Look at df and dmesg, then: git -C {self._path} reset --hard {commit[:12]}"
            )

    def _without_new_files(self, here: str, commit: str) -> None:
        added = self._git(["diff-tree", "-r", "-z", "--name-only", "--no-renames", "--diff-filter=A", here, commit]).output
        names = [name for name in added.split("\0") if name]
        for start in range(0, len(names), 500):
            self._git(["--literal-pathspecs", "clean", "-d", "--force", "--quiet", "--", *names[start : start + 500]])

    # --- what is insisted on -------------------------------------------------------------------------------------------------

    def _insist_on_forward(self, here: str, new: str, what: str) -> None:
        if self.is_ancestor(here, new):
            return
        if self._branch and self.is_ancestor(new, here):
            raise FetchError(
                f"The branch {what} is at {new[:12]}, which {self._path} has long had: this droplet is further on, at {here[:12]}, so "
                f"there was nothing to take over. If that is right, move the branch on, on your own computer: git push origin "
                f"{here}:refs/heads/{self._branch}. To go back instead, push a commit that undoes the newer ones (git revert). {_KEPT}"
            )
        raise FetchError(
            f"The branch {what} does not go on from the commit {here[:12]} that {self._path} has: its history was rewritten (a "
            f"force-push), or the droplet has a commit that was never pushed. Nothing was taken over, since nobody can tell from here "
            f"which of them is right. If the new one ({new[:12]}) is, say so on the droplet: git -C {self._path} reset --hard "
            f"{new[:12]}. {_KEPT}"
        )

    def _insist_on_signatures(self, here: str, new: str) -> None:
        commits = self._must(["rev-list", "--reverse", f"{here}..{new}"], "cannot list its new commits").split()
        if len(commits) > _MOST_COMMITS:
            raise FetchError(
                f"There are {len(commits)} new commits, more than {_MOST_COMMITS}, too many to check their signatures in one run. "
                f"Take a part of them over by hand: git -C {self._path} merge --ff-only COMMIT. {_KEPT}"
            )
        end = time.monotonic() + _VERIFY_SECONDS
        for commit in commits:
            # Only signatures made with ssh keys count: what another program would find good is nobody's who is allowed here.
            checked = self._git(
                [
                    "-c", f"gpg.ssh.allowedSignersFile={self._signers}", "-c", "gpg.ssh.revocationFile=",
                    "-c", "gpg.ssh.program=ssh-keygen",
                    "-c", "gpg.program=/bin/false", "-c", "gpg.openpgp.program=/bin/false", "-c", "gpg.x509.program=/bin/false",
                    "verify-commit", commit,
                ]
            )  # fmt: skip
            if checked.code != 0:
                signed = "\ngpgsig" in self._git(["cat-file", "commit", commit]).output.partition("\n\n")[0]
                why = "is signed by nobody who may (giggles:converge:allowed_signers)" if signed else "is not signed"
                raise FetchError(
                    f"The commit {commit[:12]} {why}, so nothing after {here[:12]} was taken over. Sign it (git commit --amend -S, or "
                    f"a rebase with --gpg-sign for several) and push again, or add who signed it to the pillar of this droplet and "
                    f"apply it. {_KEPT}"
                )
            if time.monotonic() > end:
                raise FetchError(
                    f"The signatures of {len(commits)} new commits could not be checked within {_VERIFY_SECONDS:.0f} s. Look at top and "
                    f"dmesg; it is tried again with the next run. {_KEPT}"
                )

    def _need_room(self, size: int) -> None:
        free = shutil.disk_usage(self._path).free
        if free < size + self._spare:
            raise FetchError(
                f"The disk is full: {self._path} has {free >> 20} MB left, and a new commit needs {(size + self._spare) >> 20} MB, so none "
                f"was fetched. Free some space (see 'The disk is full' in docs/TROUBLESHOOTING.md). {_KEPT}"
            )

    def _size_of_change(self, here: str, new: str) -> int:
        changed = self._must(["diff-tree", "-r", "-z", "--no-renames", "--diff-filter=d", here, new], "cannot be compared with the new one")
        objects = [field.split()[3] for field in changed.split("\0") if field.startswith(":")]
        sizes = self._git(["cat-file", "--batch-check=%(objectsize)"], stdin="\n".join(objects) + "\n").output
        # Each file takes whole blocks.
        return sum(int(size) + 4096 for size in sizes.split() if size.isdigit())

    # --- git -----------------------------------------------------------------------------------------------------------------

    def _fetch(self, remote: str, ref: str) -> str:
        kept = "refs/giggles/fetched"
        command = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--", remote, f"+{ref}:{kept}"]
        for left in reversed(range(_TRIES)):
            try:
                outcome = self._run(["-c", "gc.autoDetach=false", *command], seconds=_FETCH_SECONDS)
                reason = outcome.last_words
            except CommandTimeoutError:
                outcome, reason = None, f"no answer within {_FETCH_SECONDS:.0f} s"
            if outcome is not None and outcome.code == 0:
                return self._must(
                    ["rev-parse", "--verify", "--quiet", f"{kept}^{{commit}}"], "has fetched nothing that git can read"
                ).strip()
            if "No space left on device" in reason or "Out of diskspace" in reason:
                raise FetchError(
                    f"The disk is full: git could not fetch into {self._path}. Free some space (see 'The disk is full' in "
                    f"docs/TROUBLESHOOTING.md). {_KEPT}"
                )
            if left:
                time.sleep(self._pause)
        raise FetchError(
            f"The remote {remote} of {self._path} cannot be read ({reason}). Check the droplet's network, whether {ref} is still there, "
            f"and whether root may read it: git -C {self._path} fetch. {_KEPT}"
        )

    def _stashed(self) -> str | None:
        found = self._git(["rev-parse", "--verify", "--quiet", "refs/stash"])
        return found.output.strip() if found.code == 0 else None

    def _setting(self, key: str) -> str | None:
        found = self._git(["config", "--get", key])
        return found.output.strip() if found.code == 0 and found.output.strip() else None

    def _must(self, arguments: Sequence[str], otherwise: str) -> str:
        outcome = self._git(arguments)
        if outcome.code != 0:
            raise FetchError(
                f"{self._path} {otherwise} ({outcome.last_words or f'git ended with {outcome.code}'}). "
                f"Nothing was fetched. Look at df and at git -C {self._path} status; a file index.lock in {self._path}/.git that no git "
                f"is using may be removed. {_KEPT}"
            )
        return outcome.output

    def _git(self, arguments: Sequence[str], *, stdin: str | None = None, more: Mapping[str, str] | None = None) -> Outcome:
        try:
            return self._run(arguments, seconds=_LOCAL_SECONDS, stdin=stdin, more=more)
        except CommandTimeoutError as error:
            raise FetchError(f"git did not end in {self._path} ({error}). Look at top and dmesg. {_KEPT}") from error

    def _run(self, arguments: Sequence[str], *, seconds: float, stdin: str | None = None, more: Mapping[str, str] | None = None) -> Outcome:
        safe = ("core.hooksPath=/dev/null", "core.fsmonitor=false", "merge.verifySignatures=false", "commit.gpgSign=false")
        settings = [word for setting in safe for word in ("-c", setting)]
        try:
            environment = {**_environment(), **(more or {})}
            return run(["git", "-C", str(self._path), *settings, *arguments], seconds=seconds, environment=environment, stdin=stdin)
        except OSError as error:
            raise FetchError(f"git cannot be run ({error.strerror}). Install it: apt-get install git. {_KEPT}") from error


def _environment() -> dict[str, str]:
    nobody = {f"GIT_{who}_{what}": "giggles-converge" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {
        **nobody,
        # Nothing else may stand in for the object that is asked for: it would have no signature of its own.
        "GIT_NO_REPLACE_OBJECTS": "1",
        # A look at the tree writes nothing, so that it works on a full disk.
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "SSH_ASKPASS": "/bin/false",
        "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
        "GIT_HTTP_LOW_SPEED_TIME": "30",
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=15 -o StrictHostKeyChecking=accept-new",
        "HOME": os.environ.get("HOME", "/root"),
    }
