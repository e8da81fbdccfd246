"""The app at work: users who store clips through its own API and read them back, and what of it lies on the disk.

It is asked over its UNIX socket from inside the droplet, since nginx slows down whoever signs up fifty times.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .conftest import DRIVER, EXEC_TIMEOUT, Droplet

UPLOADS = "/var/lib/giggles/uploads"
IMAGE = "/var/lib/giggles/vault.img"
LEDGER = "/var/lib/giggles/ledger"
KEYS = "/etc/giggles/keys"

_PYTHON = ["env", "PYTHONPATH=/srv/giggles-salt/_utils", "PYTHONDONTWRITEBYTECODE=1", "/opt/salt/current/bin/python", "-s", "-c"]

# Signs users up and stores clips until it is told to stop; prints JSON about every clip.
_WRITER = r"""
import hashlib, http.client, json, os, socket, struct, sys, threading, time

order = json.loads(sys.stdin.readline())
marker = bytes.fromhex(order["marker"])
stop, lock = threading.Event(), threading.Lock()
written, failed, tokens, adopted, unanswered = [], [], {}, {}, []

class App(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect("/run/giggles.sock")

def ask(*arguments):
    # A connection that the app had taken when it was told to stop ends without an answer; whoever asked asks again.
    for last in (False, True):
        try:
            return ask_once(*arguments)
        except (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected):
            unanswered.append(time.monotonic())
            if last:
                raise

def ask_once(method, path, body=None, token=None, kind="audio/wav"):
    app = App("localhost", timeout=120)
    headers = {"Content-Type": kind}
    if token:
        headers["Authorization"] = "Bearer " + token
    try:
        app.request(method, path, body, headers)
        answer = app.getresponse()
        return answer.status, answer.read()
    finally:
        app.close()

def wav():
    sound = os.urandom(order["bytes"] - len(marker)) + marker
    return struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(sound), b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16, b"data",
                       len(sound)) + sound

def link_comes(user, began):
    path = "/var/lib/giggles/uploads/clips/" + user
    while time.monotonic() - began < 60:
        if os.path.islink(path):
            adopted[user] = time.monotonic() - began
            return
        time.sleep(0.02)

def store(user, watch=False):
    content = wav()
    began = time.monotonic()
    status, said = ask("POST", "/api/audio-clips", content, tokens[user])
    if status != 201:
        with lock:
            failed.append([user, "POST", status, said.decode(errors="replace")[:200]])
        return
    clip = json.loads(said)
    digest = hashlib.sha256(content).hexdigest()
    if watch:
        threading.Thread(target=link_comes, args=(user, began), daemon=True).start()
    status, back = ask("GET", "/api/audio-clips/" + clip["name"], None, tokens[user])
    if status != 200 or hashlib.sha256(back).hexdigest() != digest:
        with lock:
            failed.append([user, "GET", status, clip["name"]])
    with lock:
        written.append([user, clip["name"], clip["clip_path"], digest, clip["id"]])

def work(users):
    try:
        for user in users:
            body = json.dumps({"email": user + "@example.com", "password": "right", "user_id": user}).encode()
            status, said = ask("POST", "/api/auth/register", body, None, "application/json")
            if status != 200:
                failed.append([user, "register", status, said.decode(errors="replace")[:200]])
                continue
            tokens[user] = json.loads(said)["access_token"]
            store(user, watch=True)
        turn = 0
        while not stop.is_set() if order["clips"] is None else turn < order["clips"] - 1:
            for user in users:
                if user in tokens and not stop.is_set():
                    store(user)
                    stop.wait(order["pause"])
            turn += 1
    # Of a thread nobody hears; every test insists that nothing failed.
    except Exception as error:
        failed.append(["", "", 0, repr(error)])

groups = [order["users"][number::order["threads"]] for number in range(order["threads"])]
threads = [threading.Thread(target=work, args=(group,)) for group in groups if group]
for thread in threads:
    thread.start()
if order["clips"] is None:
    print("ready", flush=True)
    sys.stdin.readline()
    stop.set()
for thread in threads:
    thread.join()
end = time.monotonic() + 60
while order["adopted"] and len(adopted) < len(tokens) and time.monotonic() < end:
    time.sleep(0.1)
print(json.dumps({"written": written, "failed": failed, "tokens": tokens, "adopted": adopted, "unanswered": len(unanswered)}))
"""

# Reads clips by the app and by their paths; prints JSON: what is not as it was.
_READER = r"""
import hashlib, http.client, json, socket, sys
order = json.load(sys.stdin)
class App(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect("/run/giggles.sock")
wrong, app = [], None
for user, name, path, digest, row in order["written"]:
    try:
        with open(path, "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() != digest:
                wrong.append(["changed on the disk", path])
    except OSError as error:
        wrong.append([type(error).__name__, path])
    app = app or App("localhost", timeout=120)
    app.request("GET", "/api/audio-clips/" + name, None, {"Authorization": "Bearer " + order["tokens"][user]})
    answer = app.getresponse()
    body = answer.read()
    if answer.status != 200 or hashlib.sha256(body).hexdigest() != digest:
        wrong.append(["answered " + str(answer.status), path])
json.dump(wrong, sys.stdout)
"""


@dataclasses.dataclass
class Written:
    """What users stored.

    Arguments:
        written: user id, name, path, SHA-256 and row of each clip.
        failed: what did not go well, with user, request and status.
        tokens: what each user signs in with, by user id.
        adopted: seconds from a user's first request until the folder was a link, by user id.
        unanswered: how many requests ended without an answer and were asked again.
    """

    written: list[list[str]] = dataclasses.field(default_factory=list)
    failed: list[list[Any]] = dataclasses.field(default_factory=list)
    tokens: dict[str, str] = dataclasses.field(default_factory=dict)
    adopted: dict[str, float] = dataclasses.field(default_factory=dict)
    unanswered: int = 0

    @property
    def users(self) -> list[str]:
        """Return the users' ids."""
        return list(self.tokens)

    def of(self, user: str) -> list[list[str]]:
        """Return a user's clips."""
        return [clip for clip in self.written if clip[0] == user]

    def without(self, *users: str) -> Written:
        """Return what all the others stored."""
        return Written([clip for clip in self.written if clip[0] not in users], self.failed, self.tokens, self.adopted)


def new_users(number: int) -> list[str]:
    """Return ids that nobody has."""
    return [str(uuid.uuid4()) for _ in range(number)]


def _order(users: Sequence[str], clips: int | None, size: int, threads: int, pause: float, marker: bytes, adopted: bool) -> bytes:
    asked = {"users": list(users), "clips": clips, "bytes": size, "threads": threads, "pause": pause, "marker": marker.hex()}
    return json.dumps({**asked, "adopted": adopted}).encode() + b"\n"


def store(
    droplet: Droplet,
    users: Sequence[str],
    clips: int = 2,
    *,
    size: int = 128_000,
    marker: bytes = b"",
    threads: int = 4,
    adopted: bool = True,
) -> Written:
    """Have users sign up and store clips; return when all are stored, and the users are adopted (if they shall be)."""
    order = _order(users, clips, size, threads, 0, marker, adopted)
    return Written(**json.loads(droplet.exec(["/usr/bin/python3", "-c", _WRITER], stdin=order).stdout))


@contextmanager
def storing(droplet: Droplet, users: Sequence[str], *, size: int = 16_000, threads: int = 2, pause: float = 0.05) -> Iterator[Written]:
    """Have users store clips during the block without a pause; look at the result after it."""
    result = Written()
    writer = subprocess.Popen(
        [str(DRIVER), "exec", "--name", droplet.name, "--", "/usr/bin/python3", "-c", _WRITER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert writer.stdin
        assert writer.stdout
        writer.stdin.write(_order(users, None, size, threads, pause, b"", False))
        writer.stdin.flush()
        assert writer.stdout.readline() == b"ready\n"
        yield result
        said, _ = writer.communicate(b"stop\n", timeout=EXEC_TIMEOUT)
        vars(result).update(json.loads(said))
    finally:
        if writer.poll() is None:
            writer.kill()
            writer.wait(10)


def wrong(droplet: Droplet, what: Written) -> list[list[str]]:
    """Read every clip by the app and by its path, and return those that are not as they were."""
    order = json.dumps({"written": what.written, "tokens": what.tokens}).encode()
    return json.loads(droplet.exec(["/usr/bin/python3", "-c", _READER], stdin=order).stdout)


def library(droplet: Droplet, script: str, *arguments: str) -> Any:
    """Run Python inside with gigglekit in reach, and return the JSON that it prints."""
    return json.loads(droplet.exec([*_PYTHON, script, *arguments]).stdout)


@dataclasses.dataclass(frozen=True)
class Asked:
    """How `salt-call giggles.*` ended.

    Arguments:
        code: its exit code.
        text: all it printed.
        returned: the value, None if it failed.
        seconds: how long it took.
    """

    code: int
    text: str
    returned: Any
    seconds: float


def ask(droplet: Droplet, function: str, *arguments: str) -> Asked:
    """Run `salt-call giggles.FUNCTION` as an operator would."""
    began = time.monotonic()
    done = droplet.exec(_call(function, *arguments), check=False)
    return _asked(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


def start(droplet: Droplet, function: str, *arguments: str) -> tuple[subprocess.Popen[bytes], float]:
    """Start `salt-call giggles.FUNCTION` and do not wait for it."""
    begun = subprocess.Popen(
        [str(DRIVER), "exec", "--name", droplet.name, "--", *_call(function, *arguments)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    return begun, time.monotonic()


def answer(started: tuple[subprocess.Popen[bytes], float]) -> Asked:
    """Wait for what `start` has started."""
    process, began = started
    try:
        out, err = process.communicate(timeout=EXEC_TIMEOUT)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
    return _asked(process.returncode, out, err, time.monotonic() - began)


def _call(function: str, *arguments: str) -> list[str]:
    return ["salt-call", "--local", "--retcode-passthrough", "--log-level=warning", "--out=json", f"giggles.{function}", *arguments]


def _asked(code: int, out: bytes, err: bytes, seconds: float) -> Asked:
    try:
        returned = json.loads(out)["local"] if code == 0 else None
    except (ValueError, KeyError):
        returned = None
    return Asked(code, out.decode(errors="replace") + err.decode(errors="replace"), returned, seconds)


def vault_ids(droplet: Droplet, *users: str) -> dict[str, str]:
    """Return the vault id of each user."""
    script = (
        "import json, sys; from gigglekit.vault.keyring import Keyring; from gigglekit.vault.places import Places; "
        "print(json.dumps({user: Keyring(Places()).vault_id(user) for user in sys.argv[1:]}))"
    )
    return library(droplet, script, *users)


def adopted(droplet: Droplet, *users: str) -> bool:
    """Tell whether the clips of all these users lie in vaults."""
    paths = " ".join(f"{UPLOADS}/clips/{user}" for user in users)
    # ls fails where there is nothing aside, which is how it should be.
    left = f"for path in {paths}; do test -L $path || echo $path; done; ls -d {UPLOADS}/*/.adopting-* 2>/dev/null || true"
    return droplet.shell(left) == ""


def sql(droplet: Droplet, statement: str, **values: str) -> str:
    """Have the neighbour's PostgreSQL do something, as its administrator, and return the rows.

    Args:
        values: what `:'name'` in the statement stands for.
    """
    given = " ".join(f"-v {name}={shlex.quote(value)}" for name, value in values.items())
    return neighbour(
        droplet, f"cd /; runuser -u postgres -- psql -qAt -v ON_ERROR_STOP=1 {given} -d giggles <<'SQL'\n{statement};\nSQL"
    ).strip()


def neighbour(droplet: Droplet, script: str) -> str:
    """Run bash on the machine with the database."""
    return droplet.exec(["bash", "-euc", script], role="neighbours").stdout.decode()


_COUNT = """
SELECT 'auth.users', count(*) FROM auth.users WHERE id = :'user'
UNION ALL SELECT 'public.users', count(*) FROM public.users WHERE id = :'user'
UNION ALL SELECT 'public.limitless_keys', count(*) FROM public.limitless_keys WHERE user_id = :'user'
UNION ALL SELECT 'public.audio_segments', count(*) FROM public.audio_segments WHERE user_id = :'user'
UNION ALL SELECT 'public.laughter_detections', count(*) FROM public.laughter_detections WHERE user_id = :'user'
UNION ALL SELECT 'public.processing_logs', count(*) FROM public.processing_logs WHERE user_id = :'user'
"""


def rows(droplet: Droplet, user: str) -> dict[str, int]:
    """Return how many rows of a user each table has."""
    counted = (line.split("|") for line in sql(droplet, _COUNT, user=user).splitlines())
    return {table: int(number) for table, number in counted}


def add_log(droplet: Droplet, user: str) -> None:
    """Give a user a row in the table that the app's routes do not write."""
    sql(droplet, "INSERT INTO public.processing_logs (user_id, date, status) VALUES (:'user', now(), 'completed')", user=user)


def add_detection(droplet: Droplet, user: str, path: str) -> None:
    """Give a user a further row that names a clip."""
    statement = (
        "INSERT INTO public.laughter_detections (user_id, audio_segment_id, timestamp, probability, clip_path) "
        "SELECT user_id, id, now(), 0.5, :'path' FROM public.audio_segments WHERE user_id = :'user' LIMIT 1"
    )
    sql(droplet, statement, user=user, path=path)


def forgotten(droplet: Droplet, users: Sequence[str]) -> None:
    """Take users out of the database, so that a later nightly job or sweep of another test does not meet them."""
    sql(droplet, "DELETE FROM auth.users WHERE id = ANY (string_to_array(:'users', ',')::uuid[])", users=",".join(users))
