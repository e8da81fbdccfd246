"""The manifest: what this droplet knows to be in the bucket, so that a run with nothing new asks nobody.

It is a cache in SQLite: without it, it is read from the newest snapshot again. It lies on the root disk and outlives the users
in it, so names and contents stand in it only as hashes under a key that goes with the user.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gigglekit.backup.digests import PREFIX, is_earlier
from gigglekit.backup.section import MOST_TIME
from gigglekit.crypto import keys

_VERSION = 1
_FORGOTTEN = "digests like:"
"""What a fact begins with that remembers, by vault id, of which kind a user's digests were that are forgotten: one of them."""
_AS_BEFORE = "0" * 32
"""A digest of the earlier kind."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS packs (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, vault TEXT NOT NULL, size INTEGER NOT NULL, header BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS packs_of_vault ON packs (vault);
CREATE TABLE IF NOT EXISTS underway (object TEXT PRIMARY KEY, vault TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS contents (
    number INTEGER PRIMARY KEY, vault TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, extents TEXT NOT NULL,
    UNIQUE (vault, digest));
CREATE TABLE IF NOT EXISTS files (
    vault TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, modified INTEGER NOT NULL, changed INTEGER NOT NULL,
    inode INTEGER NOT NULL, content INTEGER NOT NULL REFERENCES contents (number), PRIMARY KEY (vault, name)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_of_content ON files (content);
CREATE TABLE IF NOT EXISTS given_up (id TEXT PRIMARY KEY, vault TEXT NOT NULL) WITHOUT ROWID;
"""


class State(NamedTuple):
    """What a file looks like from outside: size in bytes, times in nanoseconds, inode."""

    size: int
    modified: int
    changed: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> State:
        """Return what stat(2) says, with a time that sections and SQLite can hold: the app may set any."""
        modified = status.st_mtime_ns
        if not -MOST_TIME <= modified <= MOST_TIME:
            modified = MOST_TIME if modified > 0 else -MOST_TIME
        return cls(status.st_size, modified, status.st_ctime_ns, status.st_ino)


class Stored(NamedTuple):
    """A content that lies in the bucket: its digest, bytes, and where: (number of the pack, offset, length)."""

    number: int
    digest: str
    size: int
    extents: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Pack:
    """A pack that lies in the bucket."""

    number: int
    id: str
    vault: str
    size: int
    header: bytes


def name_of(under: keys.KeyedHash, path: str) -> str:
    """Return what stands for a path in the manifest, under the manifest key of its user."""
    return under.of(f"path\0{path.encode('utf-8', 'surrogateescape').hex()}")


def _text_of(extents: Iterable[tuple[int, int, int]]) -> str:
    """Return extents as JSON; of numbers it is this, and an encoder takes ten times as long."""
    return f"[{','.join([f'[{pack},{offset},{length}]' for pack, offset, length in extents])}]"


def _extents(text: object) -> tuple[tuple[int, int, int], ...]:
    try:
        return tuple((int(pack), int(offset), int(length)) for pack, offset, length in json.loads(text))  # type: ignore[arg-type]
    except (TypeError, ValueError, RecursionError):
        # SQLite looks after its own structure, and not after what is kept in it.
        raise sqlite3.DatabaseError("a place in it is none") from None


def _all_extents(texts: list[str]) -> Iterable[tuple[tuple[int, int, int], ...]]:
    """Read many at once, which takes a fifth of the time."""
    try:
        every = json.loads(f"[{','.join(texts)}]")
        if len(every) == len(texts):
            return [tuple([(int(pack), int(offset), int(length)) for pack, offset, length in parts]) for parts in every]
    except (TypeError, ValueError, RecursionError):
        pass
    return map(_extents, texts)


class Manifest:
    """An open manifest. Whoever has it open holds the lock of the backup.

    Arguments:
        path: of the file; its folder has to be there and closed to others.

    Raises:
        sqlite3.DatabaseError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        previous = os.umask(0o077)
        try:
            self._connection = sqlite3.connect(path, isolation_level=None)
            try:
                self._prepare()
            except UnicodeDecodeError:
                # From SQLite's own message, which quotes what is damaged.
                self._connection.close()
                raise sqlite3.DatabaseError("a name in it is no text") from None
            except BaseException:
                self._connection.close()
                raise
        finally:
            os.umask(previous)

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA secure_delete = ON")
        self._connection.execute("PRAGMA foreign_keys = ON")
        # Nobody else has it open. So a change waits for the disk once, where a rollback journal waits four times.
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._connection.execute("PRAGMA journal_mode = WAL")
        # A power cut must not leave a manifest that knows of packs which are not there; the other way round is mended.
        self._connection.execute("PRAGMA synchronous = FULL")
        if self._connection.execute("PRAGMA user_version").fetchone()[0] not in (0, _VERSION):
            raise sqlite3.DatabaseError("of another version")
        with self.change():
            for statement in _SCHEMA.split(";"):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {_VERSION}")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def change(self) -> Iterator[None]:
        """All that is changed in the block is kept, or nothing of it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # On a full disk SQLite has taken it back by itself.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    # --- facts ---------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> str | None:
        """Return a fact."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, value: str | None) -> None:
        """Remember a fact, or forget it."""
        if value is None:
            self._connection.execute("DELETE FROM meta WHERE key = ?", (key,))
        else:
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def all(self, prefix: str) -> dict[str, str]:
        """Return the facts whose keys begin so, by the rest of the key."""
        rows = self._connection.execute("SELECT key, value FROM meta WHERE substr(key, 1, ?) = ?", (len(prefix), prefix))
        return {key[len(prefix) :]: value for key, value in rows}

    # --- objects that are being stored -----------------------------------------------------------------------------------

    def begin(self, name: str, vault: str) -> None:
        """Write down that an object is about to be stored: if that is never finished, it is somebody's to remove."""
        self._connection.execute("INSERT OR REPLACE INTO underway VALUES (?, ?)", (name, vault))

    def finish(self, name: str) -> None:
        """The object is stored, and known; or it is gone."""
        self._connection.execute("DELETE FROM underway WHERE object = ?", (name,))

    def underway(self) -> list[str]:
        """Return the objects that were begun and never finished."""
        return [row[0] for row in self._connection.execute("SELECT object FROM underway ORDER BY object")]

    def underway_of(self, vault: str) -> list[str]:
        """Return those of one user."""
        return [row[0] for row in self._connection.execute("SELECT object FROM underway WHERE vault = ? ORDER BY object", (vault,))]

    # --- packs and contents ------------------------------------------------------------------------------------------------

    def add_pack(self, pack_id: str, vault: str, size: int, header: bytes) -> int:
        """Write down a pack; return its number."""
        cursor = self._connection.execute("INSERT INTO packs (id, vault, size, header) VALUES (?, ?, ?, ?)", (pack_id, vault, size, header))
        return int(cursor.lastrowid or 0)

    def packs(self, vault: str | None = None) -> Iterator[Pack]:
        """Yield the packs of a user, or of all."""
        rows = self._connection.execute(
            "SELECT number, id, vault, size, header FROM packs WHERE ?1 IS NULL OR vault = ?1 ORDER BY number", (vault,)
        )
        for row in rows.fetchall():
            yield Pack(*row)

    def add_content(self, vault: str, digest: str, size: int, extents: Iterable[tuple[int, int, int]]) -> int:
        """Write down a content, or find it; return its number."""
        cursor = self._connection.execute(
            "INSERT OR IGNORE INTO contents (vault, digest, size, extents) VALUES (?, ?, ?, ?)",
            (vault, digest, size, _text_of(extents)),
        )
        if cursor.rowcount == 1:
            return int(cursor.lastrowid or 0)
        row = self._connection.execute("SELECT number FROM contents WHERE vault = ? AND digest = ?", (vault, digest)).fetchone()
        return int(row[0])

    def contents(self, vault: str) -> dict[str, int]:
        """Return the numbers of a user's contents that lie in the bucket, by digest."""
        return dict(self._connection.execute("SELECT digest, number FROM contents WHERE vault = ?", (vault,)).fetchall())

    def digest_like(self, vault: str) -> str:
        """Return a digest of the kind that all new ones of a user are to be, so that contents are known again; "" if any will do.

        Of somebody whose contents an earlier program has saved it is the earlier kind, and stays it: what the bucket loses is stored
        again under the digest by which the snapshots before know it.
        """
        row = self._connection.execute(
            "SELECT digest FROM contents WHERE vault = ? AND substr(digest, 1, ?) <> ? LIMIT 1", (vault, len(PREFIX), PREFIX)
        ).fetchone()
        if row:
            return str(row[0])
        forgotten = self.get(_FORGOTTEN + vault)
        if forgotten is None and self.given_up(vault) and not self.contents(vault):
            # By an earlier program, which did not remember it.
            return _AS_BEFORE
        return forgotten or ""

    # --- files --------------------------------------------------------------------------------------------------------------

    def files(self, vault: str) -> dict[str, tuple[State, Stored]]:
        """Return the files of a user by what stands for their names."""
        rows = self._connection.execute(
            "SELECT f.name, f.size, f.modified, f.changed, f.inode, c.number, c.digest, c.size, c.extents"
            " FROM files f JOIN contents c ON c.number = f.content WHERE f.vault = ?",
            (vault,),
        ).fetchall()
        places = _all_extents([extents for *_, extents in rows])
        return {
            name: (State(size, modified, changed, inode), Stored(number, digest, length, extents))
            for (name, size, modified, changed, inode, number, digest, length, _), extents in zip(rows, places, strict=True)
        }

    def states(self, vault: str) -> dict[str, State]:
        """Return what the files of a user looked like, by what stands for their names."""
        rows = self._connection.execute("SELECT name, size, modified, changed, inode FROM files WHERE vault = ?", (vault,))
        return {row[0]: State(row[1], row[2], row[3], row[4]) for row in rows}

    def put_file(self, vault: str, name: str, state: State, content: int) -> None:
        """Write down what a file looks like and which content it has."""
        self.put_files([(vault, name, state, content)])

    def put_files(self, files: Iterable[tuple[str, str, State, int]]) -> None:
        """Write down many: vault id, what stands for the name, what it looks like, and which content it has."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(vault, name, *state, content) for vault, name, state, content in files],
        )

    def touch_file(self, vault: str, name: str, state: State) -> None:
        """Write down that a known file looks otherwise, with the content it had."""
        self._connection.execute(
            "UPDATE files SET size = ?, modified = ?, changed = ?, inode = ? WHERE vault = ? AND name = ?",
            (state.size, state.modified, state.changed, state.inode, vault, name),
        )

    def drop_file(self, vault: str, name: str) -> None:
        """Forget a file; its content stays known as long as a pack holds it."""
        self._connection.execute("DELETE FROM files WHERE vault = ? AND name = ?", (vault, name))

    def needed_packs(self) -> set[str]:
        """Return the ids of packs that files of now lie in."""
        ids = dict(self._connection.execute("SELECT number, id FROM packs"))
        rows = self._connection.execute("SELECT DISTINCT c.extents FROM files f JOIN contents c ON c.number = f.content")
        numbers = {part[0] for (extents,) in rows for part in _extents(extents)}
        if not numbers <= ids.keys():
            raise sqlite3.DatabaseError("a place in it is in no pack")
        return {ids[number] for number in numbers}

    def move(self, vault: str, packs: Iterable[tuple[str, int, bytes]], moved: Mapping[tuple[str, int, int], tuple[str, int]]) -> None:
        """Write down that pieces of a user's contents lie elsewhere now.

        Arguments:
            vault: the user's vault id.
            packs: the new ones: id, size and header.
            moved: by id of the old pack, offset and length: id of the new one and offset.
        """
        for pack_id, size, header in packs:
            self.add_pack(pack_id, vault, size, header)
        numbers = {pack.id: pack.number for pack in self.packs(vault)}
        ids = {number: pack_id for pack_id, number in numbers.items()}
        for number, extents in self._connection.execute("SELECT number, extents FROM contents WHERE vault = ?", (vault,)).fetchall():
            parts = []
            for pack, offset, length in _extents(extents):
                target = moved.get((ids[pack], offset, length))
                parts.append((numbers[target[0]], target[1], length) if target else (pack, offset, length))
            text = _text_of(parts)
            if text != extents:
                self._connection.execute("UPDATE contents SET extents = ? WHERE number = ?", (text, number))

    # --- whole users ----------------------------------------------------------------------------------------------------------

    def vaults(self) -> list[str]:
        """Return the vault ids of all users that have something in the bucket."""
        rows = self._connection.execute("SELECT DISTINCT vault FROM packs UNION SELECT DISTINCT vault FROM files ORDER BY 1")
        return [row[0] for row in rows]

    def forget_vault(self, vault: str) -> None:
        """Forget a user altogether."""
        for table in ("files", "contents", "packs", "underway", "given_up"):
            self._connection.execute(f"DELETE FROM {table} WHERE vault = ?", (vault,))  # noqa: S608 (names from above)
        self.put(_FORGOTTEN + vault, None)

    def forget_everything(self) -> None:
        """Forget all but which bucket this is, so that it is read from there again."""
        for table in ("files", "contents", "packs", "underway", "given_up"):
            self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 (names from above)
        self._connection.execute("DELETE FROM meta WHERE key <> 'bucket'")

    def give_up(self, packs: Collection[str]) -> None:
        """Refer to packs no more that are to be removed later; whose they are is known until then."""
        numbers = []
        for pack in self.packs():
            if pack.id in packs:
                self._connection.execute("INSERT OR REPLACE INTO given_up VALUES (?, ?)", (pack.id, pack.vault))
                numbers.append(pack.number)
        self.forget_packs(numbers)

    def lose(self, packs: Collection[str]) -> None:
        """Know of packs that the bucket has lost, or has not as they were written; what was in them is stored again by the next sync.

        What may be left of them goes with their users, or by a prune once no snapshot names them: until then it may still be of use.
        """
        self.give_up(packs)
        self.put("unsaved", "yes")

    def given_up(self, vault: str) -> list[str]:
        """Return the ids of a user's packs that were given up and, as far as is known, not removed."""
        return [row[0] for row in self._connection.execute("SELECT id FROM given_up WHERE vault = ? ORDER BY id", (vault,))]

    def forget_given_up(self, lying: Collection[str]) -> None:
        """Forget packs that were given up and are gone.

        Arguments:
            lying: ids of the packs that are still there.
        """
        gone = [row for row in self._connection.execute("SELECT id FROM given_up").fetchall() if row[0] not in lying]
        self._connection.executemany("DELETE FROM given_up WHERE id = ?", gone)

    def forget_packs(self, numbers: Iterable[int]) -> None:
        """Forget packs that were removed, and every content in them."""
        gone = set(numbers)
        if not gone:
            return
        rows = self._connection.execute("SELECT number, vault, digest, extents FROM contents").fetchall()
        for number, vault, digest, extents in rows:
            if not any(part[0] in gone for part in _extents(extents)):
                continue
            if is_earlier(digest) or self.get(_FORGOTTEN + vault) is None:
                self.put(_FORGOTTEN + vault, digest)
            self._connection.execute("DELETE FROM files WHERE content = ?", (number,))
            self._connection.execute("DELETE FROM contents WHERE number = ?", (number,))
        for number in gone:
            self._connection.execute("DELETE FROM packs WHERE number = ?", (number,))
