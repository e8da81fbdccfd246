"""What a deployment chose about its releases, and where they lie."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from gigglekit.release.errors import ReleaseError

BUILDING = ".building"
COMMIT = re.compile(r"[0-9a-f]{40}")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]*")
_MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Settings:
    """What shall be live, and how it is built.

    Arguments:
        repository: where git fetches it from, without credentials.
        ref: commit (40 hexadecimal digits), tag or branch.
        subdirectory: folder of the app inside the repository, "" for its top.
        python: "system", a version such as "3.11", or a range such as ">=3.9,<3.12".
        requirements: requirements file inside the app's folder.
        constraints: further constraints, used when the requirements file has no hashes.
        module: what uvicorn serves, for example "src.main:app".
        keep: how many releases to keep, the live one included; at least 2.
        trial: whether a release is started beside the running one, and judged there, before it gets any request.
        gate_seconds: how long it is judged, there and again once it is live.
        migration: command that changes the database for a release, run once for each commit; "" for none.
        migration_dump: whether a dump of the database has to be in the bucket before that.

    Raises:
        ReleaseError: a value cannot be right; the message says which and why.
    """

    repository: str
    ref: str
    subdirectory: str
    python: str
    requirements: str
    constraints: tuple[str, ...]
    module: str
    keep: int
    trial: bool = True
    gate_seconds: float = 0.0
    migration: str = ""
    migration_dump: bool = True

    def __post_init__(self) -> None:
        """Refuse what git, uv or the file system would misunderstand."""
        if not self.repository or self.repository.startswith("-"):
            raise ReleaseError(
                "No repository of the app is configured, so there is nothing to release. Set giggles:app:repository in "
                "the pillar to the address that git clone would take."
            )
        if "://" in self.repository and urlsplit(self.repository).password:
            raise ReleaseError(
                "The address in giggles:app:repository holds a password, which would show in logs and process lists. "
                "Take it out of the address and put it, alone, into /etc/giggles/keys/repository-token (root, mode "
                "0600)."
            )
        if not _REF.fullmatch(self.ref or "") or ".." in self.ref:
            raise ReleaseError(
                f"giggles:app:ref is {self.ref!r}, which is no commit, tag or branch that git would accept. Set it to "
                "a commit of 40 hexadecimal digits, or to the name of a tag or branch."
            )
        for key, value in (("subdirectory", self.subdirectory), ("requirements", self.requirements)):
            if value.startswith("/") or ".." in Path(value).parts or "\0" in value:
                raise ReleaseError(
                    f"giggles:app:{key} is {value!r}, which lies outside the release. Give a path relative to the "
                    + ("repository." if key == "subdirectory" else "app's folder.")
                )
        if not _MODULE.fullmatch(self.module):
            raise ReleaseError(f"giggles:app:module is {self.module!r}; uvicorn needs MODULE:ATTRIBUTE. The app's own is src.main:app.")
        if self.keep < 2:
            raise ReleaseError(
                f"giggles:app:keep_releases is {self.keep}; going back needs the live release and the one before. Set it to 2 or more."
            )

        try:
            shlex.split(self.migration)
        except ValueError as error:
            raise ReleaseError(
                f"giggles:app:migration cannot be split into a program and its arguments ({error}). Close the quotes, or leave it empty."
            ) from error

    @property
    def names_commit(self) -> bool:
        """Whether `ref` is a whole commit, which no network is needed to resolve."""
        return COMMIT.fullmatch(self.ref) is not None

    @property
    def ingredients(self) -> dict[str, object]:
        """Those of the choices that a built release depends on, besides its commit."""
        chosen = asdict(self)
        return {key: chosen[key] for key in ("subdirectory", "python", "requirements", "module")} | {"constraints": list(self.constraints)}


@dataclass(frozen=True)
class Layout:
    """Where releases lie on the droplet.

    Arguments:
        root: folder of everything here.
        cache: uv's cache, root's own: the app must not be able to plant a wheel in it.
        keys: folder that may hold `deploy` (an SSH key) or `repository-token`.
    """

    root: Path = Path("/opt/giggles")
    cache: Path = Path("/var/cache/giggles-build")
    keys: Path = Path("/etc/giggles/keys")
    python: Path = field(init=False)

    def __post_init__(self) -> None:
        """Derive what follows from the root."""
        object.__setattr__(self, "python", self.root / "python")

    @property
    def releases(self) -> Path:
        """Folder with one folder per commit."""
        return self.root / "releases"

    @property
    def current(self) -> Path:
        """Link to the live release."""
        return self.root / "current"

    @property
    def previous(self) -> Path:
        """Link to the release that was live before."""
        return self.root / "previous"

    @property
    def mirror(self) -> Path:
        """Bare copy of the app's repository."""
        return self.root / "repository.git"

    @property
    def environment(self) -> Path:
        """The app's .env."""
        return self.root / ".env"

    @property
    def pin(self) -> Path:
        """Note on a release that was chosen by hand."""
        return self.root / "pin.json"

    @property
    def journal(self) -> Path:
        """Note on a switch that has begun and is not judged yet."""
        return self.root / "switch.json"

    @property
    def lock(self) -> Path:
        """Locked by whoever changes what is live."""
        return self.root / "release.lock"

    @property
    def turn(self) -> Path:
        """Locked by whoever restarts the app, and while a release is switched to and judged."""
        return self.root / "restart.lock"

    @property
    def migrated(self) -> Path:
        """Note on the commits whose migration has run."""
        return self.root / "migrated.json"

    def release(self, commit: str) -> Path:
        """Folder of a complete release."""
        return self.releases / commit

    def building(self, commit: str) -> Path:
        """Folder of a release that is not complete yet."""
        return self.releases / f"{commit}{BUILDING}"

    def live(self) -> str | None:
        """Return the commit `current` names, or None if it names no release folder of ours."""
        return self._named_by(self.current)

    def before(self) -> str | None:
        """Return the commit `previous` names, or None."""
        return self._named_by(self.previous)

    def _named_by(self, link: Path) -> str | None:
        try:
            target = Path(link.parent, link.readlink())
        except OSError:
            return None
        if target.parent == self.releases and COMMIT.fullmatch(target.name) and target.is_dir():
            return target.name
        return None
