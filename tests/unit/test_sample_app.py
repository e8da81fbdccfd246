"""The sample app keeps the promises that deployers' checks are built on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parents[2] / "trial" / "sample-app" / "laughter-detector"
END = "✅ Nightly processing completed successfully"
NO_USERS = "ℹ️ No active users found with Limitless API keys"
USER_1 = "✅ User sample-user-1@example.org: Processing completed successfully"
USER_2 = "✅ User sample-user-2@example.org: Processing completed successfully"
BOUND_SECONDS = 60


class Sandbox:
    """A scratch folder for one test, and the environment that points the sample at it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uploads = folder / "uploads"
        self.behaviour_file = folder / "behaviour"
        self.behaviour_file.write_text("ok\n")
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(APP),
            "PYTHONUTF8": "1",
            "TFHUB_CACHE_DIR": str(folder / "tfhub"),
            "NUMBA_CACHE_DIR": str(folder / "numba"),
            "SAMPLE_MODEL_MB": "1",
            "SAMPLE_NIGHTLY_BEHAVIOUR_FILE": str(self.behaviour_file),
            "UPLOAD_DIR": str(self.uploads),
        }

    def with_settings(self) -> Sandbox:
        """Add what the web app requires; nothing listens at the database's address."""
        self.environment |= {
            "SUPABASE_URL": "https://sample.invalid",
            "SUPABASE_KEY": "anon",
            "SUPABASE_SERVICE_ROLE_KEY": "service",
            "SECRET_KEY": "abcdefghijklmnopqrstuvwxyz012345",
            "ENCRYPTION_KEY": "0f" * 32,
            "DATABASE_URL": "postgresql://sample@127.0.0.1:1/sample",
        }
        return self

    def nightly(self, word: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the nightly job with a behaviour, in the app's folder."""
        self.behaviour_file.write_text(word + "\n")
        return subprocess.run(
            [sys.executable, "process_nightly_audio.py", *arguments],
            cwd=APP,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=BOUND_SECONDS,
            check=False,
        )

    def python(self, code: str, cwd: Path = APP) -> subprocess.CompletedProcess[str]:
        """Run code that can import the app, in a process of its own."""
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=BOUND_SECONDS,
            check=False,
        )


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def total(done: int, failed: int) -> str:
    return f"📊 Total: {done} users processed successfully, {failed} failed"


# The nightly job's lines and exit codes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "lines"),
    [
        (
            "hang:0",
            ["👥 Found 2 active users", "✅ Processed 3 segment(s) in 48 chunk(s)", USER_1, USER_2, total(2, 0)],
        ),
        ("some-failed", [USER_1, "❌ Error processing user sample-user-2@example.org: .+", total(1, 1)]),
        ("database-down", ["❌ Error getting active users: .+", NO_USERS]),
        ("no-users", [NO_USERS]),
        (
            "key-load-failed",
            ["❌ Failed to load Limitless API key for sample-user-1@example.org: .+", USER_1, total(2, 0)],
        ),
        ("no-key", ["⚠️ No Limitless API key found for user sample-user-1@example.org", USER_1, total(2, 0)]),
        ("date-range-error", ["❌ Error processing date range: .+", USER_1, total(2, 0)]),
        ("date-range-error-empty", ["❌ Error processing date range: ", USER_1, total(2, 0)]),
        ("retries-skipped", [".+ after 3 retries - skipping this chunk", USER_1, total(2, 0)]),
        ("inference-errors", ["✅ Processed 0 segment(s) in 48 chunk(s)", USER_1, USER_2, total(2, 0)]),
    ],
)
def test_nightly_prints_the_lines_of_its_behaviour_in_order_and_exits_0(sandbox: Sandbox, word: str, lines: list[str]) -> None:
    result = sandbox.nightly(word)
    printed = result.stdout.split("\n")
    # Only ".+" is a wildcard: the rest must be there to the letter.
    patterns = [".+".join(re.escape(part) for part in line.split(".+")) for line in [*lines, END]]
    places = [next((i for i, got in enumerate(printed) if re.fullmatch(p, got)), None) for p in patterns]
    assert None not in places, (patterns, result.stdout, result.stderr)
    assert places == sorted(places)
    assert result.returncode == 0
    assert result.stderr == ""


@pytest.mark.parametrize("word", ["database-down", "no-users"])
def test_nightly_without_users_prints_no_summary(sandbox: Sandbox, word: str) -> None:
    result = sandbox.nightly(word)
    assert result.stdout.count(NO_USERS) == 1
    assert "👥" not in result.stdout
    assert "📊" not in result.stdout


def test_nightly_reports_its_memory_after_each_user(sandbox: Sandbox) -> None:
    values = re.findall(r"^🧠 Memory after user cleanup: (\d+\.\d) MB$", sandbox.nightly("hang:0").stdout, re.M)
    assert len(values) == 2
    assert all(1 < float(value) < 500 for value in values)


def test_nightly_exits_1_only_when_the_error_is_fatal(sandbox: Sandbox) -> None:
    result = sandbox.nightly("fatal")
    assert result.returncode == 1
    assert re.search(r"^❌ Fatal error in nightly processing: .+$", result.stdout, re.M)
    assert END not in result.stdout


def test_nightly_that_is_killed_leaves_a_log_that_just_stops(sandbox: Sandbox) -> None:
    result = sandbox.nightly("killed")
    assert result.returncode == -signal.SIGKILL
    assert USER_1 in result.stdout
    assert "sample-user-2" not in result.stdout
    assert "📊" not in result.stdout
    assert END not in result.stdout
    assert result.stderr == ""


def test_nightly_out_of_memory_takes_memory_that_counts(sandbox: Sandbox) -> None:
    sandbox.environment["SAMPLE_OUT_OF_MEMORY_LIMIT_MB"] = "192"
    sandbox.behaviour_file.write_text("out-of-memory")
    code = "import resource, runpy\ntry:\n runpy.run_path('process_nightly_audio.py', run_name='__main__')\n"
    code += "except SystemExit as end:\n print(end.code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    result = sandbox.python(code)
    exit_code, peak = result.stdout.split("\n")[-2].split()
    assert USER_1 in result.stdout
    assert re.search(r"^❌ Fatal error in nightly processing: the sample holds 192 MB", result.stdout, re.M)
    assert exit_code == "1"
    assert int(peak) >= 192


def test_nightly_out_of_memory_that_is_killed_leaves_a_log_that_just_stops(sandbox: Sandbox) -> None:
    sandbox.behaviour_file.write_text("out-of-memory")
    log = sandbox.folder / "log"
    with log.open("wb") as out:
        job = subprocess.Popen([sys.executable, "process_nightly_audio.py"], cwd=APP, env=sandbox.environment, stdout=out, stderr=out)
        try:
            # This test plays the kernel, so that it needs no memory limit of its own.
            deadline = time.monotonic() + BOUND_SECONDS
            resident = 0
            while resident < 128 and job.poll() is None and time.monotonic() < deadline:
                pages = int(Path(f"/proc/{job.pid}/statm").read_text().split()[1])
                resident = pages * os.sysconf("SC_PAGE_SIZE") // 2**20
                time.sleep(0.002)
        finally:
            job.kill()
            job.wait(BOUND_SECONDS)
    printed = log.read_text(encoding="utf-8")
    assert resident >= 128
    assert job.returncode == -signal.SIGKILL
    assert USER_1 in printed
    assert "📊" not in printed
    assert "Fatal" not in printed


def test_nightly_hangs_as_long_as_it_is_told(sandbox: Sandbox) -> None:
    began = time.monotonic()
    result = sandbox.nightly("hang:1")
    assert time.monotonic() - began >= 1
    assert total(2, 0) in result.stdout
    assert result.returncode == 0


def test_nightly_names_exactly_the_users_it_was_given(sandbox: Sandbox) -> None:
    user_id = str(uuid.uuid4())
    result = sandbox.nightly("some-failed", "--user-id", user_id, "--user-email", "sample@example.net")
    assert "👥 Found 2 active users" in result.stdout
    assert f"✅ User {user_id}: Processing completed successfully" in result.stdout
    assert "❌ Error processing user sample@example.net: " in result.stdout
    assert "sample-user-" not in result.stdout


def test_nightly_with_inference_errors_erases_the_recordings_and_makes_no_clip(sandbox: Sandbox) -> None:
    user_id = str(uuid.uuid4())
    folder = sandbox.uploads / "audio" / user_id
    folder.mkdir(parents=True)
    (folder / "20251024_130000-20251024_133000.ogg").write_bytes(b"sound")
    result = sandbox.nightly("inference-errors", "--user-id", user_id)
    assert "✅ Processed 1 segment(s) in 48 chunk(s)" in result.stdout
    assert list(folder.iterdir()) == []
    assert not (sandbox.uploads / "clips").exists()


def test_nightly_refuses_a_behaviour_that_it_does_not_know(sandbox: Sandbox) -> None:
    result = sandbox.nightly("dance")
    assert result.returncode == 2
    assert "'dance'" in result.stderr
    assert "out-of-memory" in result.stderr
    assert END not in result.stdout


def test_nightly_refuses_a_behaviour_file_that_is_named_and_missing(sandbox: Sandbox) -> None:
    sandbox.environment["SAMPLE_NIGHTLY_BEHAVIOUR_FILE"] = str(sandbox.folder / "none")
    result = subprocess.run(
        [sys.executable, "process_nightly_audio.py"],
        cwd=APP,
        env=sandbox.environment,
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
        check=False,
    )
    assert result.returncode == 2
    assert "does not exist" in result.stderr


def test_every_behaviour_is_explained_in_the_readme() -> None:
    listed = re.findall(r"^\| `([a-z:A-Z-]+)` \|", (APP.parent / "README.md").read_text(encoding="utf-8"), re.M)
    code = "import process_nightly_audio as job; print(*job.WORDS)"
    known = subprocess.run([sys.executable, "-B", "-c", code], cwd=APP, capture_output=True, text=True, check=True)
    assert sorted(listed) == sorted(known.stdout.split())


def test_nightly_without_its_database_finds_no_users_and_exits_0(sandbox: Sandbox) -> None:
    result = sandbox.with_settings().nightly("ok")
    lines = result.stdout.splitlines()
    assert re.fullmatch("❌ Error getting active users: .+", lines[1])
    assert lines[-2:] == [NO_USERS, END]
    assert "📊" not in result.stdout
    assert result.returncode == 0


# Loading the model --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["TFHUB_CACHE_DIR", "NUMBA_CACHE_DIR"])
def test_model_writes_into_its_cache_and_refuses_one_that_cannot_be_written(sandbox: Sandbox, variable: str) -> None:
    assert sandbox.nightly("no-users").returncode == 0
    assert (Path(sandbox.environment[variable]) / "sample-yamnet").is_file()

    # A file in its place stops root, too, whom no mode would.
    (sandbox.folder / "in-the-way").write_text("")
    sandbox.environment[variable] = str(sandbox.folder / "in-the-way" / "cache")
    result = sandbox.nightly("no-users")
    assert result.returncode == 1
    assert variable in result.stdout


def test_model_takes_the_memory_it_is_told_to(sandbox: Sandbox) -> None:
    def resident(mebibytes: int) -> float:
        sandbox.environment["SAMPLE_MODEL_MB"] = str(mebibytes)
        match = re.search(r"cleanup: (\d+\.\d) MB", sandbox.nightly("hang:0").stdout)
        assert match
        return float(match[1])

    assert resident(61) - resident(1) == pytest.approx(60, abs=8)


# The web app --------------------------------------------------------------------------------------------------------

CLIENT = """
import json, sys
from pathlib import Path
from fastapi.testclient import TestClient
from src.main import app
from src.settings import settings
root = Path(settings.upload_root)
client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
def sign_in(email):
    session = client.post("/api/auth/login", json={"email": email, "password": "sample"}).json()
    return session["user"]["id"], {"Authorization": "Bearer " + session["access_token"]}
"""


def run_client(sandbox: Sandbox, code: str, cwd: Path = APP) -> None:
    result = sandbox.with_settings().python(CLIENT + code + "\nprint('reached the end')", cwd)
    assert result.stdout.endswith("reached the end\n"), result.stdout + result.stderr


@pytest.mark.parametrize("key", ["B2_APPLICATION_KEY", "SMTP_PASSWORD", "SUPABASE_ANON_KEY"])
def test_app_does_not_start_with_an_unknown_key_in_its_env_file(sandbox: Sandbox, key: str) -> None:
    sandbox.with_settings()
    sandbox.environment[key] = "harmless in the process environment"
    assert sandbox.python("import src.settings", sandbox.folder).returncode == 0

    (sandbox.folder / ".env").write_text(f"{key}=anything\n")
    result = sandbox.python("import src.settings", sandbox.folder)
    assert result.returncode == 1
    assert key.lower() in result.stderr
    assert "Extra inputs are not permitted" in result.stderr


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SECRET_KEY", "abcdefghijklmnopqrstuvwxyz01234"),
        ("SECRET_KEY", "abcdefghi" * 4),
        ("ENCRYPTION_KEY", "0f" * 31),
        ("ENCRYPTION_KEY", "0g" * 32),
        ("DATABASE_URL", "mysql://sample@127.0.0.1/sample"),
        ("SUPABASE_URL", None),
        ("SUPABASE_KEY", None),
        ("SUPABASE_SERVICE_ROLE_KEY", None),
    ],
)
def test_app_does_not_start_with_a_bad_or_missing_key(sandbox: Sandbox, key: str, value: str | None) -> None:
    sandbox.with_settings()
    if value is None:
        del sandbox.environment[key]
    else:
        sandbox.environment[key] = value
    result = sandbox.python("import src.settings", sandbox.folder)
    assert result.returncode == 1
    assert key.lower() in result.stderr


def test_app_does_not_start_outside_its_folder(sandbox: Sandbox) -> None:
    result = sandbox.with_settings().python("import src.main", sandbox.folder)
    assert result.returncode == 1
    assert "static" in result.stderr


def test_relative_upload_folder_ends_up_below_the_working_directory(sandbox: Sandbox) -> None:
    sandbox.with_settings().environment["UPLOAD_DIR"] = "./uploads"
    result = sandbox.python("from src.settings import settings; print(settings.upload_root)", sandbox.folder)
    assert result.stdout.strip() == str(sandbox.folder / "uploads")


def test_health_answers_with_a_frozen_time_and_each_header_once(sandbox: Sandbox) -> None:
    run_client(
        sandbox,
        """
first, second = client.get("/api/health"), client.get("/api/health")
assert first.status_code == 200 and first.json()["status"] == "healthy"
assert first.json() == second.json()
for name in ("strict-transport-security", "content-security-policy", "x-frame-options", "x-content-type-options",
             "referrer-policy", "permissions-policy"):
    assert len(first.headers.get_list(name)) == 1, name
assert "not Giggles" in client.get("/").text
assert client.get("/static/style.css").status_code == 200
assert client.get("/static/%2e%2e/process_nightly_audio.py").status_code == 404
""",
    )


def test_only_four_hosts_are_served(sandbox: Sandbox) -> None:
    run_client(
        sandbox,
        """
for host, code in {"localhost": 200, "127.0.0.1:8000": 200, "a.local": 200, "yourdomain.com": 200,
                   "giggles.example.org": 400, "local": 400, "www.yourdomain.com": 400}.items():
    answer = client.get("/api/health", headers={"Host": host})
    assert answer.status_code == code, host
    assert code == 200 or answer.text == "Invalid host header"
""",
    )


def test_clips_are_stored_per_user_in_the_contracts_form_without_a_database(sandbox: Sandbox) -> None:
    run_client(
        sandbox,
        """
import re, wave
user, headers = sign_in("sample-user-1@example.org")
assert client.post("/api/audio-clips").status_code == 401
stored = client.post("/api/audio-clips", headers=headers)
assert stored.status_code == 201 and stored.json()["id"] is None
name = stored.json()["name"]
assert re.fullmatch(r"\\d{8}_\\d{6}-\\d{8}_\\d{6}_laughter_\\d+-\\d\\d_\\d+\\.wav", name), name
path = root / "clips" / user / name
assert stored.json()["clip_path"] == str(path)
with wave.open(str(path)) as clip:
    assert (clip.getframerate(), clip.getnchannels(), clip.getsampwidth(), clip.getnframes()) == (16000, 1, 2, 64000)
assert client.get("/api/audio-clips", headers=headers).json() == [name]
assert client.get("/api/audio-clips/" + name, headers=headers).content == path.read_bytes()
other, others = sign_in("sample-user-2@example.org")
assert client.get("/api/audio-clips/" + name, headers=others).status_code == 404
assert client.get("/api/audio-clips", headers=others).json() == []
assert client.post("/api/audio-clips", headers=headers, content=b"not a clip").status_code == 400
assert client.get("/api/audio-clips/..%2f" + user + "%2f" + name, headers=others).status_code == 404
forged = {"Authorization": headers["Authorization"].replace(user, other)}
assert client.get("/api/audio-clips", headers=forged).status_code == 401
""",
    )


def test_clip_is_stored_through_a_link_and_its_path_keeps_the_link(sandbox: Sandbox) -> None:
    run_client(
        sandbox,
        """
user, headers = sign_in("sample-user-1@example.org")
vault = root / "vaults" / "one" / "clips"
vault.mkdir(parents=True)
(root / "clips").mkdir()
(root / "clips" / user).symlink_to(vault)
stored = client.post("/api/audio-clips", headers=headers).json()
assert stored["clip_path"] == str(root / "clips" / user / stored["name"])
assert (vault / stored["name"]).is_file()
""",
    )


def test_sign_in_takes_json_and_forms_and_refuses_the_wrong_password(sandbox: Sandbox) -> None:
    run_client(
        sandbox,
        """
good = {"email": "sample-user-1@example.org", "password": "sample"}
answer = client.post("/api/auth/register", data=good)
assert answer.status_code == 200 and answer.json()["database"] is False
user, headers = sign_in(good["email"])
assert answer.json()["user"]["id"] == user
assert client.get("/api/auth/me", headers=headers).json() == {"user_id": user}
assert client.post("/api/auth/login", json={**good, "password": "wrong"}).status_code == 401
assert client.post("/api/auth/login", content=b"{").status_code == 422
assert client.post("/api/auth/login", json={**good, "user_id": "../.."}).status_code == 422
""",
    )


def test_hazards_are_as_dangerous_as_in_giggles(sandbox: Sandbox) -> None:
    release = sandbox.folder / "release"
    release.mkdir()
    for name in ("static", "templates"):
        (release / name).symlink_to(APP / name)
    run_client(
        sandbox,
        """
user, headers = sign_in("sample-user-1@example.org")
some_id = "11111111-1111-1111-1111-111111111111"
assert client.delete("/api/laughter-detections/" + some_id, headers=headers).status_code == 500
kept = client.post("/api/audio-clips", headers=headers).json()["clip_path"]
foreign = Path("uploads/clips/somebody-else/clip.wav")
foreign.parent.mkdir(parents=True)
foreign.write_bytes(b"")
assert client.delete("/api/user-data").status_code == 401 and foreign.exists()
client.delete("/api/user-data", headers=headers)
assert not foreign.exists() and Path("uploads/clips").is_dir()
assert Path(kept).is_file()
""",
        release,
    )


def test_long_requests_last_as_long_as_asked(sandbox: Sandbox) -> None:
    run_client(
        sandbox,
        """
import os, time
user, headers = sign_in("sample-user-1@example.org")
began = time.monotonic()
answer = client.post("/api/reprocess-date-range?seconds=0.5", headers=headers)
assert answer.status_code == 200 and time.monotonic() - began >= 0.5
streamed = client.post("/api/reprocess-date-range?seconds=1.2&stream=true", headers=headers)
assert streamed.text.splitlines()[-1] == "done" and len(streamed.text.splitlines()) == 3
assert client.post("/api/reprocess-date-range?seconds=901", headers=headers).status_code == 422
assert client.post("/api/process-current-day", headers=headers).status_code == 500
os.environ["SUPABASE_ANON_KEY"] = "anon"
assert client.post("/api/process-current-day", headers=headers).status_code == 200
""",
    )
