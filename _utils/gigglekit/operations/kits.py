"""The recovery kit: made once, and made anew when the old one must not open anything any more."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping

from gigglekit import records
from gigglekit.backup import kit, names, signed
from gigglekit.backup.errors import BackupError, DamagedError, MissingError, RefusedError
from gigglekit.backup.kit import Kit
from gigglekit.backup.manifest import Manifest
from gigglekit.backup.repository import Repository
from gigglekit.backup.section import NotReadableError
from gigglekit.crypto import chunked, sealing
from gigglekit.operations.droplet import Droplet
from gigglekit.operations.progress import Progress

_SEALED, _ENDING = "dump-sealed:", "dump-ending:"
"""Facts of the manifest, while a kit is replaced: which keys of dumps are sealed for the new one, and which end with the old one."""


def recovery_kit(droplet: Droplet, *, rotate: bool = False) -> str:
    """Make a recovery kit and return it. It is kept nowhere: what is returned is all there will ever be of it.

    Arguments:
        droplet: this one.
        rotate: make another one, seal every key for it, and delete what was sealed for the one before. Copies of the bucket from
            before still open with the old kit, and never with the new one.

    Raises:
        RefusedError: there is one, and `rotate` was not asked for; nothing was changed.
        BackupError, VaultError: asking again with `rotate=True` makes a whole one.
    """
    chosen = droplet.settings()
    with droplet.locked():
        is_there = droplet.has_kit()
        if is_there and not rotate:
            raise RefusedError(
                "There is a recovery kit already, and it cannot be shown again, since this droplet does not know it. Nothing was changed. "
                "If you have it, all is well. If it was lost, or somebody else has seen it, make a new one, which replaces it: salt-call "
                "giggles.recovery_kit rotate=True"
            )
        private, public = sealing.new_pair()
        created = records.now()
        repository = droplet.repository(make=True)
        if repository.secrets.signer is None:
            raise RefusedError("There is no key to sign with. Look at salt-call giggles.verify_receipt.")
        made = Kit(chosen.endpoint, chosen.region, chosen.bucket, chosen.prefix, created, private, repository.secrets.signer.public)
        try:
            before = droplet.kit_public()
        except BackupError:
            # It is damaged, which is why it is replaced.
            before = None
        if is_there:
            try:
                with droplet.manifest() as manifest, Progress("sealing") as progress:
                    if before is not None:
                        # What an earlier replacement has left, so that each key lies there once.
                        repository.secrets = dataclasses.replace(repository.secrets, kit_public=before)
                        finish(droplet, repository, manifest)
                    repository.secrets = dataclasses.replace(repository.secrets, kit_public=public)
                    _seal_again(droplet, repository, manifest, progress)
                    _seal_dumps(droplet, repository, manifest)
            except BackupError as error:
                raise BackupError(
                    f"The recovery kit was not replaced: {error} The one from before is still in force, and the next backup seals for it "
                    "what was sealed for the new one by now. Then ask again: salt-call giggles.recovery_kit rotate=True"
                ) from error
        repository.secrets = dataclasses.replace(repository.secrets, kit_public=public)
        # Last: until somebody has the new one, the old one has to open everything. What a run that was killed has sealed for a kit
        # that nobody has is sealed again by the next backup.
        droplet.keep_kit(public, created)
        if is_there:
            # Not before: until then the kit of before is in force, and it alone opens them. The next backup goes on, if this fails.
            with contextlib.suppress(BackupError), droplet.manifest() as manifest:
                finish(droplet, repository, manifest)
    return kit.write(made)


def _seal_again(droplet: Droplet, repository: Repository, manifest: Manifest, progress: Progress) -> None:
    wanted = kit.fingerprint(repository.secrets.kit_public or b"")
    secrets = repository.secrets
    # Nobody's key comes back who was erased by another droplet.
    erased = {*droplet.ledger().tombstones(), *repository.erased([])}
    everything = {names.USER_KEYS + vault: root for vault, root in droplet.roots().items() if vault not in erased}
    everything |= {names.SYSTEM_KEYS + "names": secrets.names, names.SYSTEM_KEYS + "snapshots": secrets.snapshots}
    if secrets.signer is not None:
        everything[names.SYSTEM_KEYS + "signing"] = secrets.signer.private
    there = {entry.name for prefix in (names.USER_KEYS, names.SYSTEM_KEYS) for entry in repository.bucket.list(prefix)}
    _insist_on_every_key(repository, there - everything.keys() - {names.USER_KEYS + vault for vault in erased})
    for number, name in enumerate(sorted(there | everything.keys())):
        progress.words(f"{number} of {len(there | everything.keys())} keys")
        with manifest.change():
            manifest.put(f"sealed:{name}", None)
        # All versions: the one before opens with the old kit.
        repository.bucket.erase(name)
        if name in everything:
            repository.store_key(name, everything[name])
            with manifest.change():
                manifest.put(f"sealed:{name}", wanted)


def _insist_on_every_key(repository: Repository, others: Iterable[str]) -> None:
    """See that nothing is about to be deleted that is the last that opens somebody's clips.

    Arguments:
        repository: it.
        others: sealed keys that this droplet does not have, of users that nobody has erased.

    Raises:
        RefusedError: one of them was sealed by this droplet, or by another one with the same keys.
    """
    for name in sorted(others):
        try:
            signed.open_signed(signed.KEY, name, repository.bucket.get(name, 4096), repository.secrets.signer_public)
        except (NotReadableError, DamagedError, MissingError):
            continue  # it opens nothing
        raise RefusedError(
            f"{name} in the bucket opens clips of somebody whose key this droplet does not have, and nobody asked for it to be erased: it "
            "was lost here, or another droplet with the same keys has made it. No new kit could open it, and it would be gone. Nothing was "
            "changed. If the key was lost, bring it back with the kit that you have: salt-call giggles.restore kit=/root/kit.txt; if there "
            "is a second droplet, stop the backup of one. If nobody is to have these clips any more, delete that object with all its "
            "versions in the web UI of Backblaze."
        )


def _seal_dumps(droplet: Droplet, repository: Repository, manifest: Manifest) -> None:
    """Seal the keys of dumps again. This droplet knows those since the last erasure; earlier ones end when the new kit is in force."""
    wanted = kit.fingerprint(repository.secrets.kit_public or b"")
    sizes = {entry.name.removeprefix(names.DATABASE): entry.size for entry in repository.bucket.list(names.DATABASE)}
    for entry in list(repository.bucket.list(names.DATABASE_KEYS)):
        dump = entry.name.removeprefix(names.DATABASE_KEYS)
        key = _known_key(droplet, repository, dump, sizes)
        with manifest.change():
            # Before it is done: whoever finds the kit of before in force seals for that again.
            manifest.put(f"{_SEALED if key else _ENDING}{dump}", wanted)
        if key is not None:
            # Above the one that the kit of before opens, which stays until the new kit is in force: if it never is, and an erasure takes
            # the key from this droplet first, nobody could seal it again.
            repository.store_key(entry.name, key)


def finish(droplet: Droplet, repository: Repository, manifest: Manifest) -> None:
    """Do what a replacement of the kit has left to be done, for the kit that is in force: with nothing left, nothing is asked.

    Arguments:
        droplet: this one; the lock of the backup is held.
        repository, manifest: open. The repository seals for the kit in force.

    Raises:
        BackupError: the bucket does not answer; the next run goes on.
    """
    sealed, ending = manifest.all(_SEALED), manifest.all(_ENDING)
    if not sealed and not ending:
        return
    in_force = kit.fingerprint(repository.secrets.kit_public or b"")
    others = [dump for dump, wanted in sealed.items() if wanted != in_force]
    # A dump whose key was destroyed has ended: it gets none again, though what was locked of it lies there still.
    keyed = {entry.name.removeprefix(names.DATABASE_KEYS) for entry in repository.bucket.list(names.DATABASE_KEYS)} if others else set()
    lying = {entry.name.removeprefix(names.DATABASE): entry.size for entry in repository.bucket.list(names.DATABASE)} if others else {}
    sizes = {dump: size for dump, size in lying.items() if dump in keyed}
    for dump, wanted in sealed.items():
        newest = wanted == in_force
        if not newest:
            # It was sealed for a kit that never came into force.
            key = _known_key(droplet, repository, dump, sizes)
            if key is not None:
                repository.store_key(names.DATABASE_KEYS + dump, key)
                newest = True
        repository.bucket.keep_one(names.DATABASE_KEYS + dump, newest=newest)
    # All versions: they open with the kit of before.
    repository.bucket.erase_many(names.DATABASE_KEYS + dump for dump, wanted in ending.items() if wanted == in_force)
    with manifest.change():
        for mark in [*(_SEALED + dump for dump in sealed), *(_ENDING + dump for dump in ending)]:
            manifest.put(mark, None)


def _known_key(droplet: Droplet, repository: Repository, dump: str, sizes: Mapping[str, int]) -> bytes | None:
    key = droplet.dump_key(dump)
    return key if key is not None and dump in sizes and opens(repository, dump, sizes[dump], key) else None


def opens(repository: Repository, dump: str, size: int, key: bytes) -> bool:
    """Tell whether a dump opens with a key."""
    try:
        header = repository.bucket.read(names.DATABASE + dump, 0, chunked.HEADER_BYTES)
        chunked.Reader(key, names.dump_context(dump), header, size)
    except (chunked.DamagedError, MissingError):
        return False
    return True
