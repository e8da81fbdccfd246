"""moto's S3 server, without the copy that it makes of all content of a bucket whenever the versions in it are listed."""

from __future__ import annotations

import sys

from moto.s3.models import FakeKey
from moto.server import main


def _itself(key: FakeKey, _: dict[int, object]) -> FakeKey:
    # Nobody changes what is listed. A copy that shared the content would close it for the original as soon as it is thrown away.
    return key


FakeKey.__deepcopy__ = _itself

if __name__ == "__main__":
    main(sys.argv[1:])
