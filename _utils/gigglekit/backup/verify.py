"""Verify: whether everything that snapshots refer to is in the bucket, and as it was written."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from gigglekit.backup import names, signed, waiting
from gigglekit.backup.contents import Contents
from gigglekit.backup.errors import DamagedError, MissingError
from gigglekit.backup.manifest import Manifest
from gigglekit.backup.names import SnapshotName
from gigglekit.backup.repository import Opened, Repository, backup_key
from gigglekit.backup.section import NotReadableError, PackEntry, Section
from gigglekit.backup.snapshot import Part
from gigglekit.crypto import chunked


@dataclass
class Verified:
    """What was found.

    Attributes:
        snapshots, users, files, packs, size: how much snapshots refer to; users and files are those of the newest one; bytes of packs.
        dumps: database dumps that can still be opened.
        read_packs, read_size: what was read and decrypted; bytes.
        compared: contents whose digest was compared with what snapshots say: those that lie in packs that were read.
        erased: users in snapshots whose key was destroyed, as it should be.
        unused: data objects that no snapshot refers to; giggles.prune removes them, a day after it came upon them at the earliest.
        problems: one sentence each, with the object's name; empty if all is well.
    """

    snapshots: int = 0
    users: int = 0
    files: int = 0
    packs: int = 0
    size: int = 0
    dumps: int = 0
    read_packs: int = 0
    read_size: int = 0
    compared: int = 0
    erased: int = 0
    unused: int = 0
    problems: list[str] = field(default_factory=list)


def verify(
    repository: Repository,
    roots: Mapping[str, bytes],
    *,
    expected: str | None = None,
    manifest: Manifest | None = None,
    fraction: float = 0.0,
    progress: Callable[[int], None] = lambda _: None,
    chance: random.Random | None = None,
) -> Verified:
    """Check the bucket.

    Arguments:
        repository: it.
        roots: root keys of users by vault id.
        expected: the snapshot that this droplet made last; None if nobody knows.
        manifest: this droplet's, if the caller holds the lock of the backup: packs that are missing or broken are written down there, so
            that the next sync stores again what it still has of them.
        fraction: which part of all packs is read and decrypted, 0 to 1, and every file in these compared with its digest; the rest is
            only looked for.
        progress: told bytes read, now and then.
        chance: chooses the packs.

    Raises:
        UnreachableError, DeniedError: the bucket could not be asked. What is missing or damaged is no error but a problem.
    """
    found = Verified()
    erased = repository.erased(found.problems)
    # Somebody whom another droplet has erased has no key, as it should be, whatever this one still has.
    roots = {vault: root for vault, root in roots.items() if vault not in erased}
    snapshots = repository.snapshots()
    found.snapshots = len(snapshots)
    if expected and expected not in {name.base for name in snapshots}:
        found.problems.append(
            f"The snapshot {expected}, which this droplet made last, is not in the bucket: somebody removed it, or put an older state back."
        )
    contents = Contents(roots)
    used: dict[str, tuple[PackEntry, str]] = {}
    dumps: dict[str, int] = {}
    for name in snapshots:
        sections, opened = _read(repository, name, roots, erased, found)
        for part, content in sections:
            if fraction > 0:
                contents.add(name, part.vault, content)
            for pack in content.packs:
                known = used.setdefault(names.DATA + pack.id, (pack, part.vault))
                if known != (pack, part.vault):
                    found.problems.append(f"{names.DATA}{pack.id}: {name.object} describes it otherwise than an earlier snapshot.")
        if opened is not None and opened.head.dump is not None:
            dumps[opened.head.dump.id] = opened.head.dump.size
        if name == snapshots[-1]:
            found.users, found.files = len(sections), sum(len(content.files) for _, content in sections)
    # After the snapshots: what a new one refers to was there before it.
    lying = {entry.name: entry.size for entry in repository.bucket.list(names.DATA)}
    broken = {pack.id for name_, (pack, _) in used.items() if lying.get(name_) != pack.size}
    for name_, (pack, _) in used.items():
        if name_ not in lying:
            found.problems.append(f"{name_} is missing, and snapshots refer to it.")
        elif lying[name_] != pack.size:
            found.problems.append(f"{name_} has {lying[name_]} bytes and should have {pack.size}: it was cut, or exchanged.")
    found.packs, found.size = len(used), sum(pack.size for pack, _ in used.values())
    found.unused = len(lying.keys() - used.keys())
    _check_keys(repository, {vault for _, vault in used.values()}, erased, found)
    _check_dumps(repository, dumps, found)
    waiting.read(repository, waiting.record_names(repository), found.problems)
    whole = [entry for name_, entry in sorted(used.items()) if lying.get(name_) == entry[0].size]
    number = len(whole) if fraction >= 1 else min(len(whole), round(len(whole) * fraction + 0.4999)) if fraction > 0 else 0
    whole_packs: set[str] = set()
    for pack, vault in (chance or random.SystemRandom()).sample(whole, number):
        (whole_packs if _read_pack(repository, pack, vault, contents, found) else broken).add(pack.id)
        progress(found.read_size)
    if fraction > 0:
        _compare_the_rest(repository, {pack.id: pack for pack, _ in used.values()}, whole_packs, contents, found, progress)
    if manifest is not None and broken.intersection(pack.id for pack in manifest.packs()):
        with manifest.change():
            manifest.lose(broken)
    return found


def _read(
    repository: Repository, name: SnapshotName, roots: Mapping[str, bytes], erased: Collection[str], found: Verified
) -> tuple[list[tuple[Part, Section]], Opened | None]:
    try:
        opened = repository.open(name)
    except (DamagedError, MissingError) as error:
        found.problems.append(str(error))
        return [], None
    sections = []
    for part in opened.head.users:
        if part.vault not in roots:
            if part.vault in erased:
                found.erased += 1
            else:
                found.problems.append(f"{name.object}: there is no key for vault {part.vault}, and nobody asked for it to be erased.")
            continue
        try:
            sections.append((part, repository.section(opened, part, roots[part.vault])))
        except (DamagedError, MissingError) as error:
            found.problems.append(str(error))
    return sections, opened


def _check_keys(repository: Repository, vaults: Collection[str], erased: Collection[str], found: Verified) -> None:
    for entry in repository.bucket.list(names.USER_KEYS):
        if entry.name.removeprefix(names.USER_KEYS) in erased:
            found.problems.append(
                f"{entry.name} is in the bucket, although that user was erased, so a recovery kit opens what copies of the bucket there "
                "are: the erasure is not complete, or a droplet that did not know of it has stored the key again. salt-call "
                "giggles.prune removes it. If there is a second droplet with the same keys, erase the user there, too: salt-call "
                "giggles.shred user_id=…"
            )
    wanted = [names.SYSTEM_KEYS + "names", names.SYSTEM_KEYS + "snapshots", names.SYSTEM_KEYS + "signing"]
    wanted += [names.USER_KEYS + vault for vault in sorted(vaults)]
    for name in wanted:
        try:
            signed.open_signed(signed.KEY, name, repository.bucket.get(name, 4096), repository.secrets.signer_public)
        except MissingError:
            found.problems.append(f"{name} is missing: the recovery kit could not open what it is the key of.")
        except NotReadableError as error:
            found.problems.append(f"{name} is not as it was written: {error}.")
        except DamagedError as error:
            found.problems.append(str(error))


def _check_dumps(repository: Repository, dumps: Mapping[str, int], found: Verified) -> None:
    if not dumps:
        return
    opens = {entry.name.removeprefix(names.DATABASE_KEYS) for entry in repository.bucket.list(names.DATABASE_KEYS)}
    lying = {entry.name.removeprefix(names.DATABASE): entry.size for entry in repository.bucket.list(names.DATABASE)}
    for dump, size in sorted(dumps.items()):
        # One without a key has ended, as dumps do.
        if dump in opens:
            found.dumps += 1
            if lying.get(dump) != size:
                found.problems.append(f"{names.DATABASE}{dump} is missing, or has not the {size} bytes that it should have.")


def _read_pack(repository: Repository, pack: PackEntry, vault: str, contents: Contents, found: Verified) -> bool:
    """Read and decrypt a pack, and compare what lies in it; return whether it is as it was written."""
    name = names.DATA + pack.id
    decryptor = chunked.Decryptor(backup_key(contents.roots[vault]), names.pack_context(pack.id))
    digests = contents.of_pack(vault, pack.id)
    first = b""
    found.read_packs += 1
    try:
        for block in repository.bucket.stream(name):
            first = first if len(first) >= chunked.HEADER_BYTES else (first + bytes(block))[: chunked.HEADER_BYTES]
            digests.update(decryptor.update(block))
            found.read_size += len(block)
        digests.update(decryptor.finish())
        if first != pack.header:
            raise chunked.DamagedError("it begins otherwise than it did")
    except chunked.DamagedError as error:
        found.problems.append(f"{name} is not as it was written: {error}.")
        return False
    except (DamagedError, MissingError) as error:
        found.problems.append(str(error))
        return False
    contents.compare(vault, digests.finish())
    return True


def _compare_the_rest(
    repository: Repository,
    packs: Mapping[str, PackEntry],
    opened: Collection[str],
    contents: Contents,
    found: Verified,
    progress: Callable[[int], None],
) -> None:
    def read(size: int) -> None:
        found.read_size += size
        progress(found.read_size)

    try:
        contents.compare_the_rest(repository, packs, opened, read)
    except (DamagedError, MissingError) as error:
        found.problems.append(str(error))
    found.problems += contents.wrong
    found.compared = contents.compared
