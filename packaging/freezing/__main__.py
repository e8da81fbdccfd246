"""What packaging/build runs when all parts are there: assembles, packs, and says what came of it."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from . import archive, assembling


def main() -> None:
    """Do it."""
    parser = argparse.ArgumentParser(prog="freezing", description=__doc__)
    for name in ("frozen", "environment", "uv", "locks", "work", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--moment", type=int, required=True, help="the time that all files get, in seconds since 1970")
    given = parser.parse_args()
    place: Path = given.work
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    facts = assembling.assemble(place, given.frozen, given.environment, given.uv, given.locks, given.moment)
    given.output.mkdir(parents=True, exist_ok=True)
    title = f"giggles-salt-{facts['salt']}-{facts['machine']}-{facts['lock'][:8]}"
    packed = given.output / f"{title}.tar.gz"
    incoming = given.output / f".{title}.tar.gz.new"
    total = archive.pack(place, incoming, given.moment)
    incoming.replace(packed)
    listed = given.output / f"{title}.sbom.json"
    shutil.copy(place / "sbom.json", listed)
    (given.output / f"{title}.sha256").write_text(f"{total}  {packed.name}\n{archive.digest(listed)}  {listed.name}\n")
    print(json.dumps({"bundle": str(packed), "sha256": total, "megabytes": packed.stat().st_size // 1_000_000, **facts}, indent=2))


if __name__ == "__main__":
    main()
