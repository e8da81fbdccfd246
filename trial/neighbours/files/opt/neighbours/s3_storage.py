"""moto's S3 server, without the copy that it makes of all content of a bucket whenever the versions in it are listed."""

from __future__ import annotations

import sys

from moto.s3.models import FakeKey
from moto.server import main


def _without_content(key: FakeKey, _: dict[int, object]) -> FakeKey:
    # Nobody changes what is listed, so the copy may share everything with the original.
    copied = object.__new__(type(key))
    copied.__dict__.update(key.__dict__)
    return copied


FakeKey.__deepcopy__ = _without_content

if __name__ == "__main__":
    main(sys.argv[1:])
