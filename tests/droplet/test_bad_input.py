"""Whatever is wrong, the operator reads one paragraph with cause and remedy, and the server goes on serving."""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from . import harm
from .conftest import DRIVER, Converged, Droplet
from .leaking import Secrets, leaks, secrets_of
from .release_repository import commit

DROPLET_PILLAR = "/etc/giggles/pillar/droplet.sls"
KEPT = "/etc/giggles/kept.sls"
BOOTSTRAP = "/srv/giggles-salt/bootstrap.sh"
LONGEST_PARAGRAPH = 1300
NOWHERE = "0" * 39 + "1"

Pillar = dict[str, Any]


@pytest.fixture(scope="module")
def good(droplet: Droplet) -> Iterator[Pillar]:
    """Return the pillar of the converged droplet; after all the bad input one apply has nothing to repair."""
    droplet.converge()
    yield yaml.safe_load(droplet.exec(["cat", DROPLET_PILLAR]).stdout)
    assert droplet.converge().changed == {}, "something was left behind"
    harm.login(droplet)


@pytest.fixture(scope="module")
def planted(droplet: Droplet, good: Pillar) -> Secrets:
    """Return the secrets that no message may hold."""
    return secrets_of(droplet)


@pytest.fixture(autouse=True)
def nothing_leaks(droplet: Droplet, planted: Secrets, told: list[str]) -> Iterator[None]:
    """Search everything that the test changed and printed for secrets."""
    begin = time.time() - 0.1
    yield
    assert leaks(droplet, planted, *told, since=begin) == []


@pytest.fixture
def told() -> list[str]:
    """Return what the test was told, to be searched for secrets too."""
    return []


@contextmanager
def pillar(droplet: Droplet, good: Pillar, change: Callable[[Pillar], object] | str) -> Iterator[None]:
    """Let droplet.sls hold a changed pillar, or any other text, during the block."""
    if isinstance(change, str):
        text = change
    else:
        changed = copy.deepcopy(good)
        change(changed["giggles"])
        text = "#!quiet_yaml\n" + json.dumps(changed, indent=1)
    # Kept beside it under another name and with its times, in the one folder that may hold it.
    lay = f"cp -a {DROPLET_PILLAR} {KEPT}; umask 077; cat > {KEPT}.new; cp {KEPT}.new {DROPLET_PILLAR}; rm {KEPT}.new"
    droplet.exec(["bash", "-euc", lay], stdin=text.encode())
    try:
        yield
    finally:
        droplet.shell(f"mv -f {KEPT} {DROPLET_PILLAR}")


def paragraph(text: str, *words: str) -> None:
    """Insist that `text` is one paragraph for an operator, and says all of `words` (regular expressions)."""
    print(text)
    assert "Traceback" not in text
    assert not re.search(r'File "/|line \d+, in ', text), f"a traceback is no explanation: {text}"
    assert "\n\n" not in text.strip(), f"that is more than one paragraph: {text}"
    flat = " ".join(text.split())
    assert len(flat) < LONGEST_PARAGRAPH, f"nobody reads {len(flat)} characters at night: {flat}"
    for word in words:
        assert re.search(word, flat, re.IGNORECASE), f"it does not say {word!r}: {flat}"


def bootstrap(droplet: Droplet, *arguments: str, user: str | None = None, **environment: str) -> tuple[int, str]:
    """Run bootstrap.sh in the droplet without a terminal; return its exit code and all that it printed."""
    given = [f"{name}={value}" for name, value in environment.items()]
    command = ["env", *given, BOOTSTRAP, *arguments]
    if user is not None:
        command = ["runuser", "-u", user, "--", *command]
    done = droplet.exec(command, check=False)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def explained(text: str, *words: str) -> None:
    """Insist that what bootstrap.sh printed says all of `words` (regular expressions), and shows no traceback."""
    print(text)
    assert not re.search(r'Traceback|File "/', text), text
    flat = " ".join(text.split())
    for word in words:
        assert re.search(word, flat), f"it does not say {word!r}: {flat}"


def failed_by_themselves(outcome: Converged) -> dict[str, str]:
    """Return the comments of the states that failed other than for a requisite, and insist on the exit code of a failed state."""
    assert outcome.code == 2, outcome.text
    return {name: comment for name, comment in outcome.failed.items() if "requisite failed" not in comment}


def only_failure(outcome: Converged, state: str) -> str:
    """Return the comment of the one state that failed by itself."""
    by_itself = failed_by_themselves(outcome)
    assert list(by_itself) == [state], by_itself
    return by_itself[state]


def only_explanation(outcome: Converged, state: str) -> str:
    """Return what is said at the end of a run about the one state that failed by itself, a state of Salt's own."""
    by_itself = failed_by_themselves(outcome)
    assert set(by_itself) == {state, "failures-explained"}, by_itself
    return by_itself["failures-explained"]


def neighbours(droplet: Droplet, script: str) -> None:
    """Run a script on the machine with the droplet's neighbours."""
    command = [str(DRIVER), "exec", "--name", droplet.name, "--role", "neighbours", "--", "bash", "-euc", script]
    subprocess.run(command, check=True, timeout=60, stdin=subprocess.DEVNULL)


@contextmanager
def no_names(droplet: Droplet) -> Iterator[None]:
    """Let no name outside of the trial have an address: what a droplet without a network mostly looks like."""
    nothing = "/etc/dnsmasq.d/nothing.conf"
    try:
        neighbours(droplet, f"printf 'local=/%s/\\n' org com net io > {nothing}; systemctl reset-failed dnsmasq; systemctl restart dnsmasq")
        yield
    finally:
        neighbours(droplet, f"rm -f {nothing}; systemctl reset-failed dnsmasq; systemctl restart dnsmasq")


@contextmanager
def no_repository(droplet: Droplet) -> Iterator[None]:
    """Stop the Git server during the block."""
    try:
        neighbours(droplet, "systemctl stop neighbour-git")
        yield
    finally:
        neighbours(droplet, "systemctl start neighbour-git")


# --- harm is noticed -----------------------------------------------------------------------------------------------------


def test_harm_is_noticed(droplet: Droplet, good: Pillar) -> None:
    with pytest.raises(AssertionError, match="/etc/planted"), harm.unharmed(droplet):
        droplet.shell("touch /etc/planted")
    droplet.shell("rm /etc/planted")
    with pytest.raises(AssertionError, match="requests failed while this ran"), harm.serving(droplet):
        droplet.shell("systemctl stop nginx; sleep 1; systemctl start nginx")
    droplet.shell("systemctl stop ssh.service")
    try:
        with pytest.raises(AssertionError, match="cannot log in"):
            harm.login(droplet)
    finally:
        droplet.shell("systemctl start ssh.service")


# --- a wrong pillar ------------------------------------------------------------------------------------------------------

WRONG_PILLARS: Mapping[str, tuple[Callable[[Pillar], object], list[str]]] = {
    "unknown key": (
        lambda top: top["app"].update(reff="main"),
        ["giggles:app:reff", r"\bref\b", "droplet.sls", "salt-call state.apply"],
    ),
    "wrong type": (
        lambda top: top.setdefault("hardening", {}).update(swap_mb="plenty"),
        ["giggles:hardening:swap_mb", "plenty", "number", "16384", "droplet.sls"],
    ),
    "missing secret": (
        lambda top: top["secrets"]["app"].pop("SUPABASE_SERVICE_ROLE_KEY"),
        ["giggles:secrets:app:SUPABASE_SERVICE_ROLE_KEY", "missing", "droplet.sls"],
    ),
    "secret in another form": (
        lambda top: top["secrets"]["app"].update(ENCRYPTION_KEY=top["secrets"]["app"]["SECRET_KEY"]),
        ["giggles:secrets:app:ENCRYPTION_KEY", "64", "hexadecimal", "droplet.sls"],
    ),
    "secret in the wrong place": (
        lambda top: top["app"].setdefault("environment", {}).update(DATABASE_URL=top["secrets"]["app"]["DATABASE_URL"]),
        ["giggles:app:environment:DATABASE_URL", "secrets", "droplet.sls"],
    ),
    "address as domain": (
        lambda top: top.update(domain="https://giggles.example.org/"),
        ["giggles:domain", "https://giggles.example.org/", "giggles.example.com", "droplet.sls"],
    ),
    "number as domain": (lambda top: top.update(domain=12), ["giggles:domain", "12", "droplet.sls"]),
}


def test_a_wrong_pillar_is_refused_before_anything_changes(
    droplet: Droplet, good: Pillar, told: list[str], subtests: pytest.Subtests
) -> None:
    with harm.unharmed(droplet):
        for case, (change, words) in WRONG_PILLARS.items():
            with subtests.test(case), pillar(droplet, good, change):
                outcome = droplet.apply()
                told.append(outcome.text)
                assert outcome.code == 5, outcome.text
                assert not outcome.states
                refused = [line for line in outcome.text.splitlines() if "The pillar is refused" in line]
                assert len(refused) == 1, outcome.text
                assert "Traceback" not in outcome.text
                paragraph(refused[0], *words, "Nothing on this droplet has been changed")


def test_a_pillar_that_is_no_yaml_is_refused_by_its_place_alone(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    key = good["giggles"]["secrets"]["app"]["SECRET_KEY"]
    text = f'#!quiet_yaml\ngiggles:\n  secrets:\n    app:\n      SECRET_KEY: "{key}\n'
    with harm.unharmed(droplet), pillar(droplet, good, text):
        outcome = droplet.apply()
    told.append(outcome.text)
    assert outcome.code == 5
    paragraph(outcome.text, "droplet.sls", "not YAML", r"line \d", "correct")


# --- bootstrap.sh --------------------------------------------------------------------------------------------------------


WRONG_OPTIONS: Sequence[tuple[list[str], list[str]]] = [
    (["--domian", "giggles.example.org"], ["'--domian' is not known", "The ones above"]),
    (["--domain"], ["--domain needs a value", "--help"]),
    (["--answers", "/root/nowhere.yaml"], ["/root/nowhere.yaml cannot be read", "path"]),
    (
        ["--domain", "https://giggles.example.org", "--admin-key", "/etc/hostname"],
        ["'https://giggles.example.org' is not a domain name", "look like", "--admin-key", "no public SSH key", r"\.pub"],
    ),
    (
        ["--environment", "prod", "--ref", "no such ref", "--repository", "ftp://example.org/x", "--acme-email", "nobody"],
        [
            "giggles:environment.*“prod”.*production, staging",
            "giggles:app:ref.*“no such ref”",
            "giggles:app:repository.*“ftp://example.org/x”.*https",
            "giggles:web:acme:email.*“nobody”",
            "The answers could not be taken over",
        ],
    ),
]


def test_bootstrap_refuses_wrong_options(droplet: Droplet, good: Pillar, told: list[str], subtests: pytest.Subtests) -> None:
    with harm.unharmed(droplet):
        for arguments, words in WRONG_OPTIONS:
            with subtests.test(" ".join(arguments)):
                code, text = bootstrap(droplet, "--non-interactive", *arguments)
                told.append(text)
                assert code == 1, text
                explained(text, *words)
                assert "converging" not in text


def test_bootstrap_refuses_answers_that_are_no_pillar(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    key = good["giggles"]["secrets"]["app"]["SUPABASE_SERVICE_ROLE_KEY"]
    try:
        for content, words in (
            (f"giggles:\n  secrets: {{app: {{SUPABASE_SERVICE_ROLE_KEY: '{key}\n", ["not YAML", r"line \d"]),
            (f"giggles: {{secrets: {{app: {{SUPABASE_SERVICE_ROL_KEY: '{key}'}}}}}}\n", ["SUPABASE_SERVICE_ROL_KEY"]),
            (f"SUPABASE_SERVICE_ROLE_KEY: '{key}'\n", ["giggles:", "PILLAR.md"]),
        ):
            droplet.write("/root/giggles-answers.yaml.bad", content, "0600")
            droplet.shell("mv /root/giggles-answers.yaml /root/kept; mv /root/giggles-answers.yaml.bad /root/giggles-answers.yaml")
            try:
                code, text = bootstrap(droplet, "--non-interactive", "--answers", "/root/giggles-answers.yaml")
            finally:
                droplet.shell("mv /root/kept /root/giggles-answers.yaml")
            told.append(text)
            assert code == 1, text
            explained(text, *words, "The answers could not be taken over")
    finally:
        droplet.shell("rm -f /root/giggles-answers.yaml.bad")


def test_bootstrap_needs_root(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    with harm.unharmed(droplet):
        code, text = bootstrap(droplet, "--non-interactive", user="nobody")
    told.append(text)
    assert code == 1
    explained(text, r"must run as root.*sudo")


def test_bootstrap_never_locks_the_operator_out(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    with harm.unharmed(droplet), pillar(droplet, good, lambda top: top["admin"].update(ssh_keys=[])):
        code, text = bootstrap(droplet, "--non-interactive")
    told.append(text)
    assert code == 1
    explained(text, "Nothing was changed", r"No SSH key.*lock you out.*--admin-key.*ssh-keygen")


@pytest.mark.parametrize(
    ("answer", "words"), [("203.0.113.9", ["points to 203.0.113.9", "A record"]), ("none", ["no address yet", "A record"])]
)
def test_bootstrap_refuses_a_domain_that_is_elsewhere(
    droplet: Droplet, good: Pillar, told: list[str], answer: str, words: list[str]
) -> None:
    try:
        droplet.driver("dns", "--answer", answer)
        with harm.unharmed(droplet):
            code, text = bootstrap(droplet, "--non-interactive")
    finally:
        droplet.driver("dns", "--reset")
    told.append(text)
    assert code == 1, text
    here = [re.escape(droplet.info["domain"]), re.escape(droplet.info["ip"])]
    explained(text, *words, *here, "--skip-dns-check", "Nothing was changed")


def test_bootstrap_says_when_there_is_no_network(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    def elsewhere(top: Pillar) -> None:
        top["web"]["acme"]["directory"] = "https://acme.giggles.test:14999/dir"

    with harm.unharmed(droplet), no_names(droplet), pillar(droplet, good, elsewhere):
        code, text = bootstrap(droplet, "--non-interactive", "--skip-dns-check")
    told.append(text)
    assert code == 1, text
    explained(
        text,
        r"package lists cannot be fetched.*apt says: Failed to fetch.*[Rr]esolv",
        r"resolv\.conf.*run this again",
        r"certificate authority at https://acme.giggles.test:14999/dir does not answer .*connect",
    )


def test_bootstrap_runs_once_at_a_time(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    running = "[b]ootstrap.sh --non-interactive --no-apply"
    with harm.unharmed(droplet):
        first = subprocess.Popen(
            [str(DRIVER), "exec", "--name", droplet.name, "--", BOOTSTRAP, "--non-interactive", "--no-apply"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            droplet.wait_for(
                "the first bootstrap to take its lock",
                lambda: "locked" in droplet.shell("flock -n /run/giggles-bootstrap.lock true || echo locked"),
            )
            droplet.shell(f"kill -STOP $(pgrep -f '{running}')")
            code, text = bootstrap(droplet, "--non-interactive", "--no-apply")
        finally:
            droplet.shell(f"kill -CONT $(pgrep -f '{running}') || true")
            said, _ = first.communicate(timeout=120)
    told += [text, said]
    assert code == 1, text
    explained(text, "Another bootstrap is running", "Wait for it to end")
    assert first.returncode == 0, said


# --- the release ---------------------------------------------------------------------------------------------------------


def test_an_unreachable_repository(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    with (
        harm.unharmed(droplet),
        no_repository(droplet),
        pillar(droplet, good, lambda top: top["app"].update(ref=NOWHERE)),
    ):
        outcome = droplet.apply("app")
    told.append(outcome.text)
    paragraph(
        only_failure(outcome, "release-live"),
        re.escape(droplet.info["app_repository"]),
        "cannot be read",
        "refused",
        "giggles:app:repository",
        "live release was left as it is",
    )


def test_an_unknown_ref(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    with harm.unharmed(droplet), pillar(droplet, good, lambda top: top["app"].update(ref=NOWHERE)):
        outcome = droplet.apply("app")
    told.append(outcome.text)
    paragraph(
        only_failure(outcome, "release-live"),
        re.escape(droplet.info["app_repository"]),
        NOWHERE,
        "giggles:app:ref",
        "live release was left as it is",
    )


WRONG_RELEASES: Mapping[str, tuple[dict[str, str], list[str]]] = {
    "folder": ({"subdirectory": "elsewhere"}, ["elsewhere", "giggles:app:subdirectory"]),
    "requirements": ({"requirements": "nothing.txt"}, ["nothing.txt", "giggles:app:requirements"]),
}


@pytest.mark.parametrize("case", WRONG_RELEASES)
def test_a_release_that_cannot_be_built(droplet: Droplet, good: Pillar, told: list[str], case: str) -> None:
    change, words = WRONG_RELEASES[case]
    with harm.unharmed(droplet), pillar(droplet, good, lambda top: top["app"].update(change)):
        outcome = droplet.apply("app.release")
    told.append(outcome.text)
    paragraph(only_failure(outcome, "release-live"), *words, "live release was left as it is")


def test_a_python_that_cannot_be_had(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    # Neither Debian 12 nor 13 has it, and without names nothing can be downloaded.
    with harm.unharmed(droplet), no_names(droplet), pillar(droplet, good, lambda top: top["app"].update(python="3.10")):
        outcome = droplet.apply("app.release")
    told.append(outcome.text)
    paragraph(
        only_failure(outcome, "release-live"),
        r"asks for Python 3\.10",
        r"this system has 3\.\d+",
        "could not install",
        "giggles:app:python",
        "live release was left as it is",
    )


def test_requirements_that_do_not_install(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    ref = commit(droplet, {"requirements.lock": lambda old: re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, old)})
    with harm.unharmed(droplet), pillar(droplet, good, lambda top: top["app"].update(ref=ref)):
        outcome = droplet.apply("app.release")
    told.append(outcome.text)
    paragraph(only_failure(outcome, "release-live"), "could not install", "hash mismatch", "requirements", "live release was left as it is")


def test_a_release_that_does_not_import(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    ref = commit(droplet, {"src/main.py": lambda old: "import no_such_module\n" + old})
    with harm.unharmed(droplet), pillar(droplet, good, lambda top: top["app"].update(ref=ref)):
        outcome = droplet.apply("app.release")
    told.append(outcome.text)
    paragraph(only_failure(outcome, "release-live"), "no_such_module", r"src/main\.py:\d", "giggles:app:ref", "keeps running")


def test_a_release_that_dies_on_trial_is_not_switched_to(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    ref = commit(
        droplet, {"src/main.py": lambda old: old.replace('for folder in ("clips", "temp"):', "os._exit(3)\n    for folder in ():")}
    )
    live = droplet.shell("readlink /opt/giggles/current")
    process = droplet.shell("systemctl show -p MainPID giggles.service")
    with harm.serving(droplet), pillar(droplet, good, lambda top: top["app"].update(ref=ref)):
        outcome = droplet.apply("app.release")
        assert droplet.shell("readlink /opt/giggles/current") == live
        assert droplet.shell("systemctl show -p MainPID giggles.service") == process, "it was started anew"
    told.append(outcome.text)
    paragraph(
        only_failure(outcome, "release-live"),
        ref[:12],
        "not well",
        "exit code 3",
        "is live and was not touched",
        "web.log",
        "giggles:app:ref",
    )
    assert droplet.apply("app").changed == {}


# --- the certificate -----------------------------------------------------------------------------------------------------

REFUSAL_NOTE = "/var/lib/letsencrypt/giggles-refusal.json"


@pytest.fixture
def web_put_back(droplet: Droplet, good: Pillar) -> Iterator[None]:
    """Forget refusals; the site's new name, which waits for its certificate, is taken out again and nothing else."""
    droplet.shell(f"rm -f {REFUSAL_NOTE}")
    yield
    droplet.shell(f"rm -f {REFUSAL_NOTE}")
    outcome = droplet.apply("web.nginx")
    assert outcome.code == 0, outcome.failed
    assert set(outcome.changed) <= {"nginx-site-giggles", "nginx-reloaded"}


def wants_another_name(top: Pillar) -> None:
    """Add a name, so that a new certificate is needed."""
    top["aliases"] = [f"www.{top['domain']}"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("none", ["could not resolve", "Let the A record .* of every name point at this server"]),
        ("neighbours", ["refused", "reach this server on port 80", "A and AAAA records point here"]),
    ],
)
def test_a_name_that_the_authority_does_not_find_here(
    droplet: Droplet, good: Pillar, told: list[str], web_put_back: None, answer: str, words: list[str]
) -> None:
    with harm.serving(droplet), pillar(droplet, good, wants_another_name):
        try:
            droplet.driver("dns", "--answer", droplet.info["neighbours"]["ip"] if answer == "neighbours" else answer)
            outcome = droplet.apply("web")
            again = droplet.apply("web")
        finally:
            droplet.driver("dns", "--reset")
    told += [outcome.text, again.text]
    always = [re.escape(droplet.info["domain"]), re.escape(droplet.info["acme"]["directory"]), "keeps serving"]
    paragraph(only_failure(outcome, "certificate-issued"), *always, *words, "next try")
    # The authority is not asked again and again.
    paragraph(only_failure(again, "certificate-issued"), *always, *words, "not repeated before", re.escape(REFUSAL_NOTE))


UNUSABLE_AUTHORITIES: Mapping[str, tuple[dict[str, str], list[str]]] = {
    "not there": ({"directory": "https://acme.giggles.test:14999/dir"}, ["14999", "cannot be reached", "giggles:web:acme:directory"]),
    "not trusted": ({"ca_bundle": "/etc/ssl/certs/ca-certificates.crt"}, ["not trusted", "giggles:web:acme:ca_bundle"]),
}


@pytest.mark.parametrize("case", UNUSABLE_AUTHORITIES)
def test_an_authority_that_cannot_be_used(droplet: Droplet, good: Pillar, told: list[str], web_put_back: None, case: str) -> None:
    change, words = UNUSABLE_AUTHORITIES[case]

    def changed(top: Pillar) -> None:
        wants_another_name(top)
        top["web"]["acme"].update(change)

    with harm.serving(droplet), pillar(droplet, good, changed):
        outcome = droplet.apply("web.certificate")
    told.append(outcome.text)
    paragraph(only_failure(outcome, "certificate-issued"), *words, "keeps serving")


def test_an_authority_that_refuses_the_account(droplet: Droplet, good: Pillar, told: list[str], web_put_back: None) -> None:
    accounts = "/etc/letsencrypt/accounts"
    other = 's#my-account/[^"]*#my-account/gone#'
    droplet.shell(f"cp -a {accounts} /etc/letsencrypt/kept; find {accounts} -name regr.json -exec sed -i '{other}' {{}} +")
    try:
        with harm.serving(droplet), pillar(droplet, good, wants_another_name):
            outcome = droplet.apply("web.certificate")
    finally:
        droplet.shell(f"rm -rf {accounts}; mv /etc/letsencrypt/kept {accounts}")
    told.append(outcome.text)
    paragraph(only_failure(outcome, "certificate-issued"), "account", re.escape(accounts), "keeps serving")


# --- a full disk, and no network -----------------------------------------------------------------------------------------


@contextmanager
def small_disk(droplet: Droplet, folder: str, options: str, fill: bool) -> Iterator[None]:
    """Let `folder` with all that it holds lie on a small file system of its own, full to the last byte if `fill`."""
    place = shlex.quote(folder)
    droplet.shell(
        f"mkdir -p /run/small && mount -t tmpfs -o mode=0755,{options} small /run/small && cp -a {place}/. /run/small/ "
        f"&& mount --bind /run/small {place} && umount /run/small"
    )
    try:
        if fill:
            # dd ends by failing: the disk is full, which is what it is for.
            droplet.shell(f"dd if=/dev/zero of={place}/.filler bs=4k 2>&1 || true")
        yield
    finally:
        droplet.shell(f"umount -l {place}; rmdir /run/small")


def newer(droplet: Droplet) -> str:
    """Return a commit that has never been built."""
    return commit(droplet, {"NEWER": lambda _: "A release that finds no room.\n"})


def test_no_room_for_a_release(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    with (
        harm.unharmed(droplet),
        small_disk(droplet, "/opt/giggles/releases", "size=400m", fill=False),
        pillar(droplet, good, lambda top: top["app"].update(ref=newer(droplet))),
    ):
        outcome = droplet.apply("app.release")
    told.append(outcome.text)
    paragraph(only_failure(outcome, "release-live"), "too full", "/opt/giggles/releases", "500 MB", "free", "left as it is")


def test_a_disk_that_fills_up_while_a_release_is_built(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    inside = int(droplet.shell("find /opt/giggles/releases | wc -l"))
    with (
        harm.unharmed(droplet),
        small_disk(droplet, "/opt/giggles/releases", f"size=800m,nr_inodes={inside + 60}", fill=False),
        pillar(droplet, good, lambda top: top["app"].update(ref=newer(droplet))),
    ):
        outcome = droplet.apply("app.release")
        assert droplet.shell("find /opt/giggles/releases -mindepth 1 -maxdepth 1 -name '*.building'") == ""
    told.append(outcome.text)
    paragraph(only_failure(outcome, "release-live"), "disk is (too )?full", "free", "left as it is")


def test_a_full_disk_under_the_configuration(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    with (
        harm.unharmed(droplet),
        small_disk(droplet, "/etc/nginx", "size=256k", fill=True),
        pillar(droplet, good, lambda top: top.setdefault("web", {}).update(max_upload_mb=123)),
    ):
        outcome = droplet.apply("web")
        droplet.shell("nginx -q -t")
    told.append(outcome.text)
    paragraph(
        only_explanation(outcome, "nginx-site-giggles"),
        r"^nginx-site-giggles failed, since there is too little room on the disk: /etc/nginx \(\d+ KB of 256 KB free\)",
        "sudo du -xh --max-depth=2 /etc/nginx",
        "What could not be written is as it was",
        "run `sudo salt-call state.apply`",
    )


def test_a_full_disk_under_the_answers(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    with harm.unharmed(droplet), small_disk(droplet, "/etc/giggles/pillar", "size=32k", fill=True):
        kept = droplet.shell(f"sha256sum {DROPLET_PILLAR}")
        code, text = bootstrap(droplet, "--non-interactive", "--acme-email", "somebody.else@giggles.test")
        assert droplet.shell(f"sha256sum {DROPLET_PILLAR}") == kept
    told.append(text)
    assert code == 1, text
    explained(text, rf"{DROPLET_PILLAR} cannot be written: No space left on device.*space", "The answers could not be taken over")


@contextmanager
def no_logrotate(droplet: Droplet, told: list[str]) -> Iterator[None]:
    """Let a package be missing during the block; afterwards one apply installs it and does nothing else."""
    droplet.shell("DEBIAN_FRONTEND=noninteractive dpkg --force-depends --remove logrotate; apt-get clean")
    try:
        yield
    finally:
        repaired = droplet.apply("app")
        told.append(repaired.text)
    assert repaired.code == 0, repaired.failed
    assert set(repaired.changed) == {"app-packages-installed"}


def test_a_missing_package_without_network(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    with harm.serving(droplet), no_logrotate(droplet, told):
        with no_names(droplet):
            outcome = droplet.apply("app")
        told.append(outcome.text)
    paragraph(
        only_explanation(outcome, "app-packages-installed"),
        "^app-packages-installed failed, since logrotate could not be fetched: there is no address for the name",
        "no name server answers or there is no network",
        r"getent hosts \S+",
        r"resolv\.conf",
        "run `sudo salt-call state.apply`",
    )


def test_a_missing_package_without_room_for_it(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    with harm.serving(droplet), no_logrotate(droplet, told):
        with small_disk(droplet, "/etc/cron.daily", "size=64k", fill=True):
            outcome = droplet.apply("app")
        told.append(outcome.text)
    # Salt and apt say no more than that dpkg failed.
    assert "No space left" not in failed_by_themselves(outcome)["app-packages-installed"]
    paragraph(
        only_explanation(outcome, "app-packages-installed"),
        r"too little room on the disk: /etc/cron\.daily \(",
        "sudo du -xh --max-depth=2 /etc/cron.daily",
        "run `sudo salt-call state.apply`",
    )


# --- killed half-way -----------------------------------------------------------------------------------------------------


def test_a_killed_apply_leaves_nothing_that_the_next_one_cannot_mend(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    ref = commit(droplet, {"KILLED": lambda _: "A release that is killed while it is built.\n"})
    with harm.serving(droplet), pillar(droplet, good, lambda top: top["app"].update(ref=ref)):
        run = subprocess.Popen(
            [str(DRIVER), "exec", "--name", droplet.name, "--", "salt-call", "--local", "--log-level=error", "state.apply", "app.release"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        building = f"/opt/giggles/releases/{ref}.building"
        droplet.wait_for("the release to be built", lambda: droplet.exec(["test", "-d", building], check=False).returncode == 0)
        droplet.shell("kill -9 $(pgrep -f '[s]tate.apply app.release')")
        said, _ = run.communicate(timeout=60)
        told.append(said)
        mended = droplet.apply("app.release")
        told.append(mended.text)
        assert mended.code == 0, mended.failed or mended.text
        assert droplet.shell("readlink /opt/giggles/current").strip().endswith(ref)
        assert droplet.exec(["test", "-d", building], check=False).returncode != 0
    back = droplet.apply("app.release")
    assert back.code == 0, back.failed
    assert list(back.changed) == ["release-live"]


def test_a_killed_bootstrap_can_be_run_again(droplet: Droplet, good: Pillar, told: list[str]) -> None:
    # What was being written when it died: a runtime of Salt without its end, and a file that was to be replaced.
    with harm.serving(droplet):
        droplet.shell("rm /etc/sysctl.d/99-zz-giggles.conf /etc/nginx/sites-enabled/giggles")
        run = subprocess.Popen(
            [str(DRIVER), "exec", "--name", droplet.name, "--", BOOTSTRAP, "--non-interactive"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        # In the middle of it: the first of the two files is back.
        half = "[ -e /etc/sysctl.d/99-zz-giggles.conf ]"
        droplet.shell(
            f"for _ in $(seq 6000); do if {half}; then break; fi; sleep 0.01; done; {half}; "
            "kill -9 $(pgrep -f '[s]alt-call.*state.apply') $(pgrep -f '[b]ootstrap.sh --non-interactive')"
        )
        said, _ = run.communicate(timeout=60)
        code, text = bootstrap(droplet, "--non-interactive")
    told += [said, text]
    assert run.returncode != 0, said
    assert code == 0, text
