"""What the next snapshot says of each user, put into words while packs of the users after them are still on their way."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from gigglekit.backup.clips import User
from gigglekit.backup.manifest import Manifest
from gigglekit.backup.section import Encoded, Extent, FileEntry, PackEntry, Section


@dataclass
class Describing:
    """The users who have been looked at in this run, and their sections.

    Arguments:
        manifest: where their files' contents lie.
    """

    manifest: Manifest
    _found: dict[str, tuple[User, dict[str, str]]] = field(default_factory=dict)
    _sections: dict[str, Encoded] = field(default_factory=dict)

    def take(self, user: User, names: dict[str, str]) -> None:
        """Take what there is of a user, in place of what was taken before.

        Arguments:
            user: whose.
            names: what stands for each path in the manifest.
        """
        self._sections.pop(user.vault_id, None)
        self._found[user.vault_id] = (user, names)

    def vaults(self) -> set[str]:
        """Return the vault ids of all that were taken."""
        return {*self._found, *self._sections}

    def go_on(self, waits: Callable[[str], bool]) -> None:
        """Make the sections of those whose contents are stored altogether.

        Arguments:
            waits: tells of a vault id whether contents of it are on their way.
        """
        for vault in [vault for vault in self._found if not waits(vault)]:
            self._sections[vault] = Encoded.of(self._section(*self._found.pop(vault)))

    def finish(self, vaults: Collection[str]) -> dict[str, Encoded]:
        """Return the sections of these by vault id; the contents of all are stored."""
        for vault in self._found.keys() - vaults:
            del self._found[vault]
        self.go_on(lambda _: False)
        return {vault: self._sections[vault] for vault in sorted(vaults)}

    def _section(self, user: User, names: dict[str, str]) -> Section:
        known = self.manifest.files(user.vault_id)
        packs = {pack.number: pack for pack in self.manifest.packs(user.vault_id)}
        order: dict[int, int] = {}
        files = []
        for path, name in sorted(names.items()):
            state, stored = known[name]
            parts = tuple(Extent(order.setdefault(pack, len(order)), offset, length) for pack, offset, length in stored.extents)
            files.append(FileEntry(path, stored.size, state.modified, stored.digest, parts))
        entries = tuple(PackEntry(packs[number].id, packs[number].size, packs[number].header) for number in order)
        return Section(user.user_id, entries, tuple(files))
