"""What is remembered of a trial: its number, its release and the secrets made for it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, replace

from .errors import TrialError
from .locking import held
from .network import NAMESPACE_PREFIX, Port
from .settings import MAXIMUM_TRIALS, NETWORK_PREFIX, ZONE, Place, state_directory


@dataclass(frozen=True)
class Record:
    """One trial.

    Arguments:
        name: its name.
        number: from 1; decides its addresses.
        release: the droplet's Debian release.
        database_password, s3_access_key, s3_secret_key: made for this trial alone, and shared with those beside it.
        bootstrapped: whether bootstrap has succeeded on the droplet since it was made.
        beside: the trial whose neighbours it has; None for one with neighbours of its own.
        neighbours_number: the number of the trial whose neighbours it has; 0 for its own.
        roles: what bootstrap is told that the droplet is for; empty for everything.
    """

    name: str
    number: int
    release: str
    database_password: str
    s3_access_key: str
    s3_secret_key: str
    bootstrapped: bool = False
    beside: str | None = None
    neighbours_number: int = 0
    roles: tuple[str, ...] = ()

    @property
    def home(self) -> str:
        """The name of the trial whose neighbours it has, and whose operator's key opens it."""
        return self.beside or self.name

    @property
    def home_place(self) -> Place:
        """The folders of that trial."""
        return Place(self.home)

    @property
    def place(self) -> Place:
        """Its folders."""
        return Place(self.name)

    @property
    def domain(self) -> str:
        """The domain the droplet serves."""
        return f"{self.name}.{ZONE}"

    @property
    def droplet_port(self) -> Port:
        """Where the droplet is plugged in."""
        return Port(f"{NAMESPACE_PREFIX}{self.name}", f"giggles{self.number}d", f"{NETWORK_PREFIX}.{2 * self.number + 1}")

    @property
    def neighbours_port(self) -> Port:
        """Where its neighbours are plugged in."""
        number = self.neighbours_number or self.number
        return Port(f"{NAMESPACE_PREFIX}{self.home}.nb", f"giggles{number}n", f"{NETWORK_PREFIX}.{2 * number}")

    def save(self) -> None:
        """Write it down, in one piece."""
        self.place.folder.mkdir(parents=True, exist_ok=True)
        # Not for everybody: droplets are attacked on purpose in it, and its secrets are real to them.
        self.place.folder.chmod(0o700)
        facts = asdict(self)
        # In a file of its own, which trees of this project that know of no droplets beside others pass over.
        part = {key: facts.pop(key) for key in ("beside", "neighbours_number", "roles")}
        for path, content in ((self.place.part, part), (self.place.record, facts)):
            fresh = path.with_name(f".{path.name}.new")
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(content, file)
            fresh.replace(path)

    def with_bootstrapped(self, done: bool) -> Record:
        """Return the same trial with `bootstrapped` changed, written down."""
        changed = replace(self, bootstrapped=done)
        changed.save()
        return changed


def load(name: str) -> Record | None:
    """Return the trial of that name, None when there is none.

    Raises:
        TrialError: what was written down of it cannot be read.
    """
    path = Place(name).record
    try:
        written = json.loads(path.read_text())
        if Place(name).part.exists():
            written.update(json.loads(Place(name).part.read_text()))
        return Record(**{**written, "roles": tuple(written.get("roles", ()))})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise TrialError(
            f"{path} cannot be understood ({error}); it may be of another version of this project. "
            f"Remove the trial with `trial/droplet down --purge --name {name}`."
        ) from error


def require(name: str) -> Record:
    """Return the trial of that name.

    Raises:
        TrialError: there is none.
    """
    record = load(name)
    if record is None:
        known = ", ".join(names()) or "none"
        raise TrialError(f"There is no trial droplet called {name} (there is: {known}). Make it with `trial/droplet up --name {name}`.")
    return record


def names() -> list[str]:
    """Return the names of all trials, half-made ones included."""
    folder = state_directory() / "trials"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def beside(name: str) -> list[str]:
    """Return the names of the trials that have the neighbours of the trial of that name."""
    found: list[str] = []
    for other in names():
        with contextlib.suppress(TrialError):
            record = load(other)
            if record is not None and record.beside == name:
                found.append(other)
    return found


def create(name: str, release: str, home: Record | None = None) -> Record:
    """Make a new trial with a free number and secrets of its own, and write it down.

    Arguments:
        name: its name.
        release: the droplet's Debian release.
        home: the trial whose neighbours, and so whose secrets, it has; None for neighbours of its own.

    Raises:
        TrialError: there are too many already.
    """
    with held("numbers"):
        taken: set[int] = set()
        for other in names():
            record = load(other)
            if record is not None:
                taken.add(record.number)
        free = next((number for number in range(1, MAXIMUM_TRIALS + 1) if number not in taken), None)
        if free is None:
            raise TrialError(
                f"All {MAXIMUM_TRIALS} addresses of the trial network are taken. Remove droplets that are not needed: "
                "`trial/droplet list` names them, `trial/droplet down --purge --name N` removes one."
            )
        record = Record(
            name=name,
            number=free,
            release=release,
            database_password=home.database_password if home else secrets.token_hex(16),
            s3_access_key=home.s3_access_key if home else secrets.token_hex(10),
            s3_secret_key=home.s3_secret_key if home else secrets.token_urlsafe(30),
            beside=home.name if home else None,
            neighbours_number=home.number if home else 0,
        )
        record.save()
    return record
