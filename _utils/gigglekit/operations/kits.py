"""The recovery kit: made once, and made anew when the old one must not open anything any more."""

from __future__ import annotations

import dataclasses

from gigglekit import records
from gigglekit.backup import kit, names
from gigglekit.backup.errors import BackupError, MissingError, RefusedError
from gigglekit.backup.kit import Kit
from gigglekit.backup.manifest import Manifest
from gigglekit.backup.repository import Repository
from gigglekit.crypto import chunked, sealing
from gigglekit.operations.droplet import Droplet
from gigglekit.operations.progress import Progress


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
        repository.secrets = dataclasses.replace(repository.secrets, kit_public=public)
        if is_there:
            try:
                with droplet.manifest() as manifest, Progress("sealing") as progress:
                    _seal_again(droplet, repository, manifest, progress)
            except BackupError as error:
                raise BackupError(
                    f"The recovery kit was not replaced: {error} The one from before is still in force, and the next backup seals for it "
                    "what was sealed for the new one by now. Then ask again: salt-call giggles.recovery_kit rotate=True"
                ) from error
        # Last: until somebody has the new one, the old one has to open everything. What a run that was killed has sealed for a kit
        # that nobody has is sealed again by the next backup.
        droplet.keep_kit(public, created)
    return kit.write(made)


def _seal_again(droplet: Droplet, repository: Repository, manifest: Manifest, progress: Progress) -> None:
    wanted = kit.fingerprint(repository.secrets.kit_public or b"")
    secrets = repository.secrets
    everything = {names.USER_KEYS + vault: root for vault, root in droplet.roots().items()}
    everything |= {names.SYSTEM_KEYS + "names": secrets.names, names.SYSTEM_KEYS + "snapshots": secrets.snapshots}
    if secrets.signer is not None:
        everything[names.SYSTEM_KEYS + "signing"] = secrets.signer.private
    there = {entry.name for prefix in (names.USER_KEYS, names.SYSTEM_KEYS) for entry in repository.bucket.list(prefix)}
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
    _end_dumps_of_others(droplet, repository)


def _end_dumps_of_others(droplet: Droplet, repository: Repository) -> None:
    """Seal the keys of dumps again. This droplet knows those since the last erasure; earlier ones end with the old kit."""
    sizes = {entry.name.removeprefix(names.DATABASE): entry.size for entry in repository.bucket.list(names.DATABASE)}
    for entry in list(repository.bucket.list(names.DATABASE_KEYS)):
        dump = entry.name.removeprefix(names.DATABASE_KEYS)
        key = droplet.dump_key(dump)
        known = key is not None and dump in sizes and opens(repository, dump, sizes[dump], key)
        repository.bucket.erase(entry.name)
        if known and key is not None:
            repository.store_key(entry.name, key)


def opens(repository: Repository, dump: str, size: int, key: bytes) -> bool:
    """Tell whether a dump opens with a key."""
    try:
        header = repository.bucket.read(names.DATABASE + dump, 0, chunked.HEADER_BYTES)
        chunked.Reader(key, names.dump_context(dump), header, size)
    except (chunked.DamagedError, MissingError):
        return False
    return True
