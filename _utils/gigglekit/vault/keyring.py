"""The keys on this droplet: root keys of users and of the lobby, wrapped by the key-encryption key.

All of them lie in one folder, the ring: `ring` is a link to `ring.NNNNNN`, and a file in a ring is made once and never
changed. To replace the key-encryption key, a new ring is built beside the old one with every key wrapped anew, the link
is pointed at it in one step, and the old ring is overwritten and removed. So at any moment, power cuts included, there is
one whole ring in force, and whatever else lies there is a leftover that goes with the next touch.

With a bucket configured, what lies in a ring is only the droplet's share of the key-encryption key. The file `share` names
the bucket's share, which is fetched into memory once after a boot: a disk or a snapshot of it opens nothing by itself.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gigglekit.crypto import keys
from gigglekit.files import links, overwriting
from gigglekit.files.replacing import replace
from gigglekit.vault import fscrypt
from gigglekit.vault.errors import RefusedError, VaultError
from gigglekit.vault.memory import Memory
from gigglekit.vault.places import Places
from gigglekit.vault.share import LABEL, Share, ShareGoneError, ShareMissingError, Shares, droplet_of

FSCRYPT_LABEL = "giggles-salt/v1/fscrypt"

_RING = re.compile(r"ring\.(\d{6,})")
_LINK = "ring"
_KEK = "key-encryption-key"
_SHARE = "share"
_DROPLET = "droplet"
_NAMES = "names.key"
_SUFFIX = ".key"
_KINDS = ("vaults", "lobby", "backup")

SNAPSHOTS, DUMPS = "snapshots", "dumps"
"""Keys of the backup: what snapshots are encrypted by, and what the keys of dumps are derived from."""


def fscrypt_key(root: bytes) -> bytes:
    """Return the key that the kernel gets, derived from a root key."""
    return keys.derive(root, FSCRYPT_LABEL, fscrypt.KEY_BYTES)


class Keyring:
    """The keys of a droplet. Whoever changes anything holds the lock of `Places`.

    Arguments:
        places: where they lie.
        memory: where the bucket's share is kept while the droplet runs; that of `places` if None.
    """

    def __init__(self, places: Places, memory: Memory | None = None) -> None:
        self._folder = places.keys
        self._memory = memory or Memory(places.memory)

    # --- the ring ---------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Tell whether there are keys at all."""
        return self._link.is_symlink()

    def create(self, shares: Shares | None = None) -> bool:
        """Make an empty ring if there is none; return whether it was made.

        Arguments:
            shares: the bucket that gets the other share of its key; with None it has only one.

        Raises:
            VaultError: there is none although there once was: a new one would not open anything.
            ShareUnreachableError: the bucket takes no share; there is no ring yet.
        """
        if self.exists():
            return False
        names = self._folder / _NAMES
        # A ring without keys is what a killed run of this function has left; nothing was ever encrypted by it.
        if names.exists() and any(_whole(entry) and any(entry.glob(f"*/*{_SUFFIX}")) for entry in self._rings()):
            raise VaultError(
                f"{self._link} is gone, and with it the way to every user's key, although a ring lies beside it. Nothing was changed. "
                f"Point it at the ring with the highest number again: ln -s ring.NNNNNN {self._link}."
            )
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._tidy_unfinished(self._folder)
        if not names.exists():
            replace(names, keys.new(), 0o600)
        for entry in self._rings():
            _destroy_ring(entry)
        self._build(1, {}, self._new_share(shares) if shares is not None else None)
        return True

    def tidy(self) -> None:
        """Destroy what a run that was killed has left: rings that are not in force, files and links that were not finished."""
        current = self._current()
        for entry in self._rings():
            if entry != current:
                _destroy_ring(entry)
        share = _share_of(current)
        self._memory.keep_only(*((share.id,) if share else ()))
        for folder in (self._folder, *(current / kind for kind in _KINDS)):
            self._tidy_unfinished(folder)

    @staticmethod
    def _tidy_unfinished(folder: Path) -> None:
        for entry in folder.glob(".*"):
            if entry.is_symlink() or entry.is_file():
                overwriting.erase(entry)

    def rekey(self, without: frozenset[str] = frozenset(), shares: Shares | None = None) -> None:
        """Replace the key-encryption key, wrap every other key anew, and destroy every earlier wrapping.

        Killed at any point, one whole ring is in force, and its share lies in the bucket.

        Arguments:
            without: vault ids whose keys are not taken over. After this they are in no ring.
            shares: the bucket, which gets a new share, and in which every other share of this droplet is destroyed. With None only
                the droplet's share is replaced, so that no network is needed, and there are as many shares as before.

        Raises:
            VaultError: a key cannot be unwrapped; nothing was changed then.
            ShareMissingError: the bucket's share is not in memory; nothing was changed then.
            ShareUnreachableError: the bucket does not answer. Either nothing was changed, or the new ring is in force and earlier
                shares are left in the bucket; asking again is right for both.
            OSError: the disk is full; the ring in force stays.
        """
        if shares is not None:
            self.fetch_share(shares)
        share = _share_of(self._current())
        content = self._unwrapped(without)
        if without and f"backup/{DUMPS}{_SUFFIX}" in content:
            # Dumps from before have rows of who is gone: this droplet opens none of them any more.
            content[f"backup/{DUMPS}{_SUFFIX}"] = keys.new()
        if shares is not None:
            fresh: tuple[Share, bytes] | None = self._new_share(shares)
        else:
            fresh = (share, self._secret(share)) if share else None
        self._switch(content, fresh)
        if shares is not None:
            self.tidy_shares(shares)

    def _unwrapped(self, without: frozenset[str] = frozenset()) -> dict[str, bytes]:
        kek = self._kek(self._current())
        return {
            f"{kind}/{name}{_SUFFIX}": self._unwrap(kind, name, kek)
            for kind in _KINDS
            for name in self._list(kind)
            if not (kind == "vaults" and name in without)
        }

    def _switch(self, content: dict[str, bytes], share: tuple[Share, bytes] | None) -> None:
        match = _RING.fullmatch(self._current().name)
        self._build(int(match[1]) + 1 if match else 1, content, share)
        self.tidy()

    def _build(self, number: int, content: dict[str, bytes], share: tuple[Share, bytes] | None) -> None:
        ring = self._folder / f"ring.{number:06d}"
        if ring.exists():
            _destroy_ring(ring)
        kept = keys.new()
        kek = keys.combine(kept, share[1], LABEL) if share else kept
        for folder in (ring, *(ring / kind for kind in _KINDS)):
            folder.mkdir(mode=0o700)
        if share:
            # Before the key: a ring that is whole knows how many shares it has.
            _write(ring / _SHARE, f"{share[0].id}\n{share[0].place}\n".encode())
        for name, key in content.items():
            _write(ring / name, keys.wrap(key, kek))
        _write(ring / _KEK, kept)
        for folder in (*(ring / kind for kind in _KINDS), ring):
            _flush(folder)
        links.point(self._link, ring.name)

    @property
    def _link(self) -> Path:
        return self._folder / _LINK

    def _rings(self) -> Iterator[Path]:
        for entry in sorted(self._folder.iterdir()):
            if _RING.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink():
                yield entry

    def _current(self) -> Path:
        try:
            name = os.readlink(self._link)
        except OSError as error:
            raise VaultError(
                f"There are no keys in {self._folder} ({error.strerror}). On a new droplet salt-call state.apply vault makes them; on "
                "this one, where users have vaults, the recovery kit brings them back: salt-call giggles.restore kit=/root/kit.txt."
            ) from error
        ring = self._folder / name
        if not _RING.fullmatch(name) or not _whole(ring):
            raise VaultError(
                f"{self._link} leads to {name}, which is no whole ring of keys. Nothing was changed. Point it at the ring that has "
                f"a file {_KEK}: ls {self._folder}/ring.*"
            )
        return ring

    # --- its key ------------------------------------------------------------------------------------------------------

    def _kek(self, ring: Path) -> bytes:
        """Return the key by which everything in a ring is wrapped."""
        kept = (ring / _KEK).read_bytes()
        share = _share_of(ring)
        return keys.combine(kept, self._secret(share), LABEL) if share else kept

    def _secret(self, share: Share) -> bytes:
        secret = self._memory.get(share.id)
        if secret is None:
            raise ShareMissingError(share.place)
        return secret

    def share(self) -> Share | None:
        """Return the share that lies in a bucket, None if the whole key is on this droplet."""
        return _share_of(self._current())

    def lacks_share(self) -> bool:
        """Tell whether no key can be opened before `fetch_share`, as after a boot."""
        share = self.share()
        return share is not None and self._memory.get(share.id) is None

    def insist_on_share(self) -> None:
        """Go on only if keys can be opened.

        Raises:
            ShareMissingError: the bucket's share is not in memory.
        """
        share = self.share()
        if share is not None:
            self._secret(share)

    def fetch_share(self, shares: Shares) -> bool:
        """Have the bucket's share in memory; return whether it was fetched now. Needs no lock.

        Raises:
            ShareUnreachableError: the bucket does not answer.
            ShareGoneError: it does, and does not have the share, or has something else in its place.
            VaultError: there is no memory to keep it in.
        """
        ring = self._current()
        share = _share_of(ring)
        if share is None or self._memory.get(share.id) is not None:
            return False
        try:
            secret = shares.fetch(share.id)
        except ShareGoneError as error:
            raise ShareGoneError(shares.place, share.place) from error
        if not self._opens(ring, secret):
            raise ShareGoneError(shares.place, share.place)
        self._memory.put(share.id, secret)
        return True

    @staticmethod
    def _opens(ring: Path, secret: bytes) -> bool:
        if len(secret) != keys.KEY_BYTES:
            return False
        kek = keys.combine((ring / _KEK).read_bytes(), secret, LABEL)
        wrapped = list(ring.glob(f"*/[!.]*{_SUFFIX}"))
        # One of them may be damaged, which is told where it is needed.
        return not wrapped or any(_unwraps(path, kek) for path in wrapped)

    def enable(self, shares: Shares) -> bool:
        """Have the key in two shares, one of them in this bucket; return whether that was changed now.

        Raises: as `rekey`.
        """
        share = self.share()
        if share is not None and share.place == shares.place:
            return False
        self.rekey(shares=shares)
        return True

    def disable(self) -> bool:
        """Have the whole key on this droplet, as before there was a bucket; return whether that was changed now.

        Raises: as `rekey`, apart from what comes from the bucket, which is not asked.
        """
        if self.share() is None:
            return False
        self._switch(self._unwrapped(), None)
        return True

    def tidy_shares(self, shares: Shares) -> int:
        """Destroy the shares of this droplet that are not in force: an earlier one, or one that a killed run never used.

        Those of other droplets, which may use the same bucket while one is moved, are left alone.

        Raises:
            ShareUnreachableError: not all of them are gone; asking again goes on.
        """
        share, droplet = self.share(), self._droplet()
        doomed = [name for name in shares.list() if droplet_of(name) == droplet and (share is None or name != share.id)]
        for name in doomed:
            shares.destroy(name)
        return len(doomed)

    def _new_share(self, shares: Shares) -> tuple[Share, bytes]:
        share, secret = Share(f"{self._droplet()}-{secrets.token_hex(16)}", shares.place), keys.new()
        # What needs the disk or the kernel first: a share in the bucket that nobody uses takes another request to go.
        self._memory.put(share.id, secret)
        shares.store(share.id, secret)
        # With a share that cannot be read again, the next boot would be the end of every clip.
        if shares.fetch(share.id) != secret:
            raise VaultError(
                f"The bucket {shares.place} took a new share of this droplet's key and gave back something else, so it is not used, and "
                "the keys stay as they were. Look for what changes objects there: two programs with one prefix, or a proxy in between."
            )
        return share, secret

    def _droplet(self) -> str:
        """Return what the shares of this droplet begin with. It tells nothing, and lasts as long as the folder of keys."""
        path = self._folder / _DROPLET
        try:
            found = path.read_text().strip()
        except FileNotFoundError:
            found = ""
        if _is_droplet(found):
            return found
        # The ring knows it too; then what is left in the bucket of an earlier ring is still found.
        share = self.share() if self.exists() else None
        found = share.droplet if share else secrets.token_hex(16)
        replace(path, f"{found}\n".encode(), 0o600)
        return found

    # --- keys in it ---------------------------------------------------------------------------------------------------

    def _list(self, kind: str) -> list[str]:
        folder = self._current() / kind
        names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
        return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX) and not name.startswith("."))

    def _unwrap(self, kind: str, name: str, kek: bytes | None = None) -> bytes:
        ring = self._current()
        path = ring / kind / f"{name}{_SUFFIX}"
        try:
            return keys.unwrap(path.read_bytes(), self._kek(ring) if kek is None else kek)
        except keys.WrongKeyError as error:
            raise VaultError(
                f"{path} cannot be unwrapped: it is damaged or was made by another key-encryption key. Nothing was changed. Put it "
                "back with the recovery kit: salt-call giggles.restore kit=/root/kit.txt. Without kit and backup, what it encrypts is lost."
            ) from error

    def _store(self, kind: str, name: str, key: bytes) -> None:
        ring = self._current()
        replace(ring / kind / f"{name}{_SUFFIX}", keys.wrap(key, self._kek(ring)), 0o600)

    def vaults(self) -> list[str]:
        """Return the ids of all vaults that have a key."""
        return self._list("vaults")

    def root_key(self, vault_id: str) -> bytes | None:
        """Return a user's root key, None if there is none.

        Raises:
            VaultError: it is there and cannot be unwrapped.
        """
        kept = self._current() / "vaults" / f"{vault_id}{_SUFFIX}"
        return self._unwrap("vaults", vault_id) if kept.exists() else None

    def make_root_key(self, vault_id: str) -> bytes:
        """Return a user's root key, made and kept now if there was none."""
        found = self.root_key(vault_id)
        if found is None:
            found = keys.new()
            self._store("vaults", vault_id, found)
        return found

    def lobby_identifiers(self) -> list[bytes]:
        """Return which keys of the lobby there are, without opening them."""
        return [bytes.fromhex(name) for name in self._list("lobby")]

    def lobby_keys(self) -> dict[bytes, bytes]:
        """Return the root keys of the lobby by their identifiers; more than one only while it is being replaced."""
        return {bytes.fromhex(name): self._unwrap("lobby", name) for name in self._list("lobby")}

    def make_lobby_key(self, volume: int) -> bytes:
        """Make a root key for a lobby, give it to the kernel, and return its identifier.

        Arguments:
            volume: descriptor of a folder of the volume.
        """
        root = keys.new()
        # Named by what the lobby's folders will say they are encrypted by. Nothing is, before the key is kept.
        identifier = fscrypt.add_key(volume, fscrypt_key(root))
        self._store("lobby", identifier.hex(), root)
        return identifier

    def drop_lobby_key(self, identifier: bytes) -> None:
        """Destroy a root key of the lobby."""
        path = self._current() / "lobby" / f"{identifier.hex()}{_SUFFIX}"
        # Out of the ring first: a key that was overwritten and not yet unlinked would be a damaged one.
        doomed = path.with_name(f".{path.name}")
        path.rename(doomed)
        _flush(path.parent)
        overwriting.erase(doomed)

    # --- of the backup ------------------------------------------------------------------------------------------------

    def secret(self, name: str) -> bytes | None:
        """Return a key of the backup, `SNAPSHOTS` or `DUMPS`; None if there is none."""
        return self._unwrap("backup", name) if (self._current() / "backup" / f"{name}{_SUFFIX}").exists() else None

    def keep_secret(self, name: str, key: bytes) -> None:
        """Keep a key of the backup."""
        (self._current() / "backup").mkdir(mode=0o700, exist_ok=True)
        self._store("backup", name, key)

    def names_key(self) -> bytes:
        """Return the key that ids of vaults are made with.

        Raises:
            VaultError: it is not there.
        """
        return self._names_key()

    def take_over(self, names_key: bytes, roots: Mapping[str, bytes], secrets: Mapping[str, bytes]) -> None:
        """Take the keys of a droplet that is gone, out of its backup. Safe to do again.

        Arguments:
            names_key: the key that ids of vaults are made with.
            roots: users' root keys by vault id.
            secrets: keys of the backup by name.

        Raises:
            RefusedError: users have vaults here already, under ids made with another key; nothing was changed.
        """
        self.insist_on_room(names_key, roots)
        for vault_id, root in roots.items():
            if not self._has(vault_id, root):
                self._store("vaults", vault_id, root)
        for name, key in secrets.items():
            self.keep_secret(name, key)
        # Last: as soon as vaults are named by it, adoption looks for their keys, and would make others.
        if self._names_key() != names_key:
            replace(self._folder / _NAMES, names_key, 0o600)

    def insist_on_room(self, names_key: bytes, roots: Iterable[str]) -> None:
        """Go on only if the keys of another droplet can be taken over; nothing is changed.

        Arguments:
            names_key: the key that ids of vaults are made with.
            roots: vault ids of that droplet.

        Raises:
            RefusedError: users have vaults here already, under ids made with another key.
        """
        strangers = set(self.vaults()) - set(roots)
        if strangers and self._names_key() != names_key:
            raise RefusedError(
                f"{len(strangers)} users already have vaults on this droplet, and their names are made with another key than those "
                "of the backup, so that the two cannot become one. Nothing was changed. Restore on a droplet that nobody has used "
                "yet; or, if these vaults are worth nothing, erase each (salt-call giggles.vaults, giggles.shred), then ask again."
            )

    def _has(self, vault_id: str, root: bytes) -> bool:
        try:
            return self.root_key(vault_id) == root
        except VaultError:
            # A damaged one is what somebody takes the keys over for; without the share, storing says so.
            return False

    # --- names ----------------------------------------------------------------------------------------------------------

    def vault_id(self, user_id: str) -> str:
        """Return the name of a user's vault: a keyed hash, since names in an unencrypted folder can be read by a thief."""
        return keys.keyed_hash(self._names_key(), user_id)

    def _names_key(self) -> bytes:
        try:
            return (self._folder / _NAMES).read_bytes()
        except FileNotFoundError as error:
            raise VaultError(
                f"{self._folder / _NAMES} is missing, and without it nobody knows which vault is whose. Put it back from the recovery "
                "kit; on a new droplet salt-call state.apply vault makes it."
            ) from error


def _whole(ring: Path) -> bool:
    try:
        _share_of(ring)
        return len((ring / _KEK).read_bytes()) == keys.KEY_BYTES
    except (OSError, VaultError):
        return False


def _share_of(ring: Path) -> Share | None:
    """Return which share of the bucket a ring needs, None if the whole key lies in it.

    Raises:
        VaultError: nobody can tell.
    """
    try:
        lines = (ring / _SHARE).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return None
    if len(lines) != 2 or droplet_of(lines[0]) is None:
        raise VaultError(
            f"{ring / _SHARE} is damaged: it does not name a share of this droplet's key. Nothing was changed. The objects below "
            "keys/shares/ in the bucket are those that there are; the file has such a name on its first line and the bucket on its second."
        )
    return Share(lines[0], lines[1])


def _is_droplet(text: str) -> bool:
    return droplet_of(f"{text}-{'0' * 32}") is not None


def _unwraps(path: Path, kek: bytes) -> bool:
    try:
        keys.unwrap(path.read_bytes(), kek)
    except keys.WrongKeyError:
        return False
    return True


def _destroy_ring(ring: Path) -> None:
    # The key first: whatever is killed from here on, the rest opens no more.
    for path in sorted(ring.rglob("*"), key=lambda entry: entry.name != _KEK):
        if path.is_symlink() or not path.is_dir():
            overwriting.erase(path)
    for folder in sorted((entry for entry in ring.rglob("*") if entry.is_dir()), reverse=True):
        folder.rmdir()
    ring.rmdir()
    _flush(ring.parent)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
