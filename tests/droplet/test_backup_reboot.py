"""After a restart without the bucket the app waits, says why, keeps nothing in the clear, and comes up by itself."""

from __future__ import annotations

import shlex
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from . import clips
from .clips import UPLOADS, new_users, wrong
from .conftest import Droplet
from .test_backup import somebody
from .test_backup_units import bucket_away, control
from .test_bad_input import paragraph
from .test_shred import BOUND_SECONDS

UNLOCK = "giggles-vault-unlock.service"


@pytest.fixture(scope="module", autouse=True)
def mended(droplet: Droplet) -> Iterator[None]:
    """At the end a highstate has nothing to repair."""
    droplet.converge()
    yield
    control(droplet, "DELETE", "/faults")
    droplet.wait_for("the app", droplet.healthy, seconds=60)
    assert droplet.converge().changed == {}
    assert droplet.shell("systemctl list-units --failed --plain --no-legend 'giggles*' '*uploads*'") == ""


def as_the_app(droplet: Droplet, commands: Sequence[str]) -> list[str]:
    """Return which of these commands succeed for the app's account."""
    script = "".join(f"{one} 2>/dev/null && echo {shlex.quote(one)};" for one in commands)
    return droplet.shell(f"runuser -u giggles -- bash -c {shlex.quote(script + 'true')}").splitlines()


def test_after_a_restart_without_the_bucket_the_app_waits_and_comes_up_by_itself(droplet: Droplet) -> None:
    with somebody(droplet) as done:
        assert droplet.healthy()
        files = f"find {UPLOADS} -xdev -type f | wc -l; find {UPLOADS} -xdev -mindepth 1 -maxdepth 1 ! -name .lobby | sort"
        # The link is there before the folder that it took the place of is empty.
        droplet.wait_for("the user to be adopted", lambda: clips.adopted(droplet, *done.users), seconds=BOUND_SECONDS)
        left = f"find {UPLOADS}/.lobby -mindepth 1"
        droplet.wait_for("the lobby to be tidy", lambda: droplet.shell(left) == "", seconds=BOUND_SECONDS)
        before = droplet.shell(files)
        visitor = ThreadPoolExecutor(1)
        with bucket_away(droplet):
            restarted = droplet.driver("restart", check=False)
            vars(droplet).pop("info", None)
            assert restarted.returncode == 0, restarted.stderr.decode(errors="replace")
            status = f"systemctl show --property=ActiveState,SubState,StatusText {UNLOCK}"
            said = [""]

            def is_said() -> bool:
                said[0] = droplet.shell(status)
                return "StatusText=The bucket" in said[0]

            droplet.wait_for("the reason in the status", is_said, seconds=60)
            assert "ActiveState=activating" in said[0]
            reason = said[0].split("StatusText=", 1)[1].splitlines()[0]
            paragraph(reason, "share of this droplet", "nothing is stored in the clear", "comes up by itself", "network")
            for unit in ("giggles.service", "giggles-vault-adopt.service", "giggles-nightly.service"):
                assert droplet.shell(f"systemctl is-active {unit} || true").strip() != "active", unit
            assert droplet.shell("systemctl is-active giggles.socket").strip() == "active"
            assert not droplet.healthy()
            # A name that can be read would be a key that is there.
            assert done.users[0] not in droplet.shell(f"ls -R {UPLOADS}")
            tries = [f"touch {UPLOADS}/{place}/x" for place in (".", "clips", "audio", "temp", "vaults")]
            tries += [f"mkdir {UPLOADS}/{place}/{uuid.uuid4()}" for place in ("clips", "audio", ".")]
            assert as_the_app(droplet, tries) == []
            assert as_the_app(droplet, ["touch /tmp/x", "rm /tmp/x"]) == ["touch /tmp/x", "rm /tmp/x"]
            assert droplet.exec(["systemctl", "start", "giggles-nightly.service"], check=False).returncode != 0
            assert droplet.exec(["systemctl", "start", "giggles-backup.service"], check=False).returncode != 0
            assert droplet.shell(files).split("\n")[0] == before.split("\n")[0]
            # Somebody who asks meanwhile is answered when it is there.
            waiting = visitor.submit(lambda: droplet.request(path="/api/health", timeout=120).status)
        began = time.monotonic()
        droplet.wait_for("the app, by itself", droplet.healthy, seconds=60)
        print(f"the app was there {time.monotonic() - began:.1f} s after the bucket")
        assert waiting.result(60) == 200
        assert droplet.shell(files) == before
        assert wrong(droplet, done) == []
        assert "ActiveState=active\n" in droplet.shell(status)
        droplet.wait_for(
            "adoption", lambda: droplet.shell("systemctl is-active giggles-vault-adopt.service || true").strip() == "active", BOUND_SECONDS
        )
        more = clips.store(droplet, new_users(1), clips=1, size=16_000)
        clips.forgotten(droplet, more.users)
        assert (more.failed, len(more.adopted)) == ([], 1)
        droplet.shell("systemctl reset-failed giggles-nightly.service giggles-backup.service")
        assert droplet.converge().changed == {}
