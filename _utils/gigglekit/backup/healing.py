"""What earlier snapshots lack because the bucket has lost it, and what was stored again under other names since.

A snapshot says for each file what its content is, by a digest under a key of the user. So it can be written again to say that the same
content lies elsewhere: nothing but the place changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gigglekit.backup.manifest import Manifest, Stored
from gigglekit.backup.section import PackEntry, Section

Piece = tuple[str, int, int]
"""Id of a pack, offset and length."""
Moved = dict[Piece, tuple[PackEntry, int]]
"""Where pieces lie now: pack and offset."""


class Healer:
    """Finds what users' files that are lost in some packs lie in by now.

    Arguments:
        manifest: what this droplet knows to be in the bucket.
        broken: ids of packs that are not in the bucket as they were written.
        lying: what lies there: bytes by id.
    """

    def __init__(self, manifest: Manifest, broken: Collection[str], lying: Mapping[str, int]) -> None:
        self._manifest, self._broken, self._lying = manifest, broken, lying
        self._stored: dict[str, tuple[dict[str, Stored], dict[int, PackEntry]]] = {}

    def places(self, vault: str, section: Section) -> Moved:
        """Return where pieces of broken packs lie now, as far as the same content was stored again in pieces of the same lengths.

        Arguments:
            vault: whose section this is.
            section: what a snapshot holds of that user.
        """
        moved: Moved = {}
        for file in section.files:
            lost = [section.packs[part.pack].id in self._broken for part in file.extents]
            if any(lost):
                contents, packs = self._known(vault)
                stored = contents.get(file.digest)
                if stored is None or [part.length for part in file.extents] != [length for _, _, length in stored.extents]:
                    continue
                for part, is_lost, (number, offset, length) in zip(file.extents, lost, stored.extents, strict=True):
                    pack = packs[number]
                    if is_lost and pack.id not in self._broken and self._lying.get(pack.id) == pack.size:
                        moved[section.packs[part.pack].id, part.offset, length] = (pack, offset)
        return moved

    def _known(self, vault: str) -> tuple[dict[str, Stored], dict[int, PackEntry]]:
        if vault not in self._stored:
            contents = {stored.digest: stored for _, stored in self._manifest.files(vault).values()}
            packs = {pack.number: PackEntry(pack.id, pack.size, pack.header) for pack in self._manifest.packs(vault)}
            self._stored[vault] = contents, packs
        return self._stored[vault]
