"""The app's repository: a bare mirror on the droplet, and the commit that a name stands for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gigglekit.command import CommandTimeoutError, Outcome, run
from gigglekit.release.errors import BuildError, ReleaseError, UnknownRefError, UnreachableError
from gigglekit.release.settings import COMMIT, Layout, Settings

_ASK_SECONDS = 10.0
_FETCH_SECONDS = 300.0
_LOCAL_SECONDS = 120.0

# The token travels in the environment of git, which only root can read, and never in an argument.
_CREDENTIAL_HELPER = '!f() { test "$1" = get && printf "username=x-access-token\\npassword=%s\\n" "$GIGGLES_TOKEN"; }; f'


class Repository:
    """The app's repository as this droplet sees it.

    Arguments:
        settings: names the repository and the ref.
        layout: says where the mirror and the keys lie.
    """

    def __init__(self, settings: Settings, layout: Layout) -> None:
        self._address = settings.repository
        self._ref = settings.ref
        self._mirror = layout.mirror
        self._environment = _git_environment(layout.keys)

    def resolve(self) -> str:
        """Return the commit that the ref stands for now.

        A ref that is a commit costs nothing; a branch or tag is asked for over the network, for 10 s at most.

        Raises:
            UnreachableError: no answer, or a refusal.
            UnknownRefError: no such branch or tag.
        """
        if COMMIT.fullmatch(self._ref):
            return self._ref
        names = (
            [self._ref]
            if self._ref.startswith("refs/")
            else [f"refs/tags/{self._ref}^{{}}", f"refs/tags/{self._ref}", f"refs/heads/{self._ref}"]
        )
        answer = self._remote(["ls-remote", "--", self._address, *names], _ASK_SECONDS)
        found = {name: commit for commit, _, name in (line.partition("\t") for line in answer.output.splitlines())}
        for name in names:
            if COMMIT.fullmatch(found.get(name, "")):
                return found[name]
        raise UnknownRefError(
            f"The repository {self._address} answers, and has neither a branch nor a tag named {self._ref!r}. Correct "
            "giggles:app:ref in the pillar; a commit must be given with all its 40 digits. The live release was left "
            "as it is."
        )

    def fetch(self, commit: str) -> None:
        """Make sure that the mirror holds `commit`; no network if it already does.

        Raises:
            UnreachableError: the repository does not answer, or refuses us.
            UnknownRefError: it has no such commit.
        """
        if self._has(commit):
            return
        if self._local(["rev-parse", "--is-bare-repository"]).output.strip() != "true":
            shutil.rmtree(self._mirror, ignore_errors=True)
            self._mirror.mkdir(mode=0o700, parents=True)
            self._must(["init", "--quiet", "--bare", str(self._mirror)], mirror=False)
        everything = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
        self._remote(["fetch", "--quiet", "--prune", "--force", "--", self._address, *everything], _FETCH_SECONDS)
        if self._has(commit):
            return
        with suppress(UnreachableError):
            # Forges hand out commits that no branch holds any more, when asked for them by name.
            self._remote(["fetch", "--quiet", "--", self._address, commit], _FETCH_SECONDS)
        if not self._has(commit):
            raise UnknownRefError(
                f"The repository {self._address} answers, and has no commit {commit}. It may have been rewritten, or "
                "the commit was never pushed. Correct giggles:app:ref in the pillar. The live release was left as it "
                "is."
            )

    def export(self, commit: str, folder: Path) -> None:
        """Write the files of `commit` into `folder`, without any trace of git.

        Raises:
            BuildError: git cannot write them (the disk is full, the mirror is damaged).
        """
        index = folder / ".giggles-index"
        environment = {"GIT_INDEX_FILE": str(index)}
        try:
            self._must(["read-tree", commit], environment)
            self._must(["-c", "core.bare=false", f"--work-tree={folder}", "checkout-index", "--all", "--force"], environment)
        finally:
            index.unlink(missing_ok=True)

    def _has(self, commit: str) -> bool:
        return self._mirror.is_dir() and self._local(["cat-file", "-e", f"{commit}^{{commit}}"]).code == 0

    def _local(self, arguments: Sequence[str], environment: dict[str, str] | None = None, *, mirror: bool = True) -> Outcome:
        where = [f"--git-dir={self._mirror}"] if mirror else []
        try:
            return run(
                ["git", *where, *arguments],
                seconds=_LOCAL_SECONDS,
                environment={**self._environment, **(environment or {})},
            )
        except (OSError, CommandTimeoutError) as error:
            raise ReleaseError(
                f"git cannot work on {self._mirror}: {error}. Make sure that git is installed and the disk answers, "
                "then apply again. The live release was left as it is."
            ) from error

    def _must(self, arguments: Sequence[str], environment: dict[str, str] | None = None, *, mirror: bool = True) -> None:
        outcome = self._local(arguments, environment, mirror=mirror)
        if outcome.code != 0:
            raise BuildError(
                f"git could not write the release ({outcome.last_words}). If the disk is full, free some space; if "
                f"{self._mirror} is damaged, delete it, and it is fetched anew. The live release was left as it is."
            )

    def _remote(self, arguments: Sequence[str], seconds: float) -> Outcome:
        where = [f"--git-dir={self._mirror}"] if arguments[0] == "fetch" else []
        try:
            outcome = run(["git", "-c", "gc.auto=0", *where, *arguments], seconds=seconds, environment=self._environment)
            reason = outcome.last_words
        except CommandTimeoutError:
            outcome, reason = None, f"no answer within {seconds:.0f} s"
        except OSError as error:
            raise ReleaseError(f"git cannot be run: {error}. Install the package git, then apply again.") from error
        if outcome is not None and outcome.code == 0:
            return outcome
        if "No space left on device" in reason:
            raise BuildError(
                f"The disk is full: git could not fetch into {self._mirror}. Free some space (old releases in "
                f"{self._mirror.parent}/releases, logs, apt's cache), then apply again. The live release was left as "
                "it is."
            )
        raise UnreachableError(
            f"The repository {self._address} cannot be read ({reason}). Check giggles:app:repository in the pillar, "
            "the droplet's network and, for a private repository, the deploy key /etc/giggles/keys/deploy or the "
            "token /etc/giggles/keys/repository-token; then apply again. The live release was left as it is."
        )


def _git_environment(keys: Path) -> dict[str, str]:
    environment = {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "SSH_ASKPASS": "/bin/false",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
        "GIT_HTTP_LOW_SPEED_TIME": "30",
    }
    ssh = "ssh -o BatchMode=yes -o ConnectTimeout=10 -o StrictHostKeyChecking=accept-new"
    ssh += f" -o UserKnownHostsFile={keys}/known_hosts"
    if (keys / "deploy").is_file():
        ssh += f" -o IdentitiesOnly=yes -i {keys}/deploy"
    environment["GIT_SSH_COMMAND"] = ssh
    token = keys / "repository-token"
    if token.is_file() and os.access(token, os.R_OK):
        environment |= {
            "GIGGLES_TOKEN": token.read_text(encoding="utf-8").strip(),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "credential.helper",
            "GIT_CONFIG_VALUE_0": _CREDENTIAL_HELPER,
        }
    return environment
