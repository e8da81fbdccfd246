"""The check refuses what is wrong, never fails itself, and never shows a secret."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from gigglekit.settings.check import check, merged, misplaced, missing
from gigglekit.settings.formats import FORMATS
from gigglekit.settings.machine import Machine
from gigglekit.settings.overlays import backup_beside
from gigglekit.settings.places import REPOSITORY, UNREADABLE
from gigglekit.settings.report import paragraphs
from gigglekit.settings.rules import RULES, rule_problems
from gigglekit.settings.schema import DEFAULTS_FILE, defaults, node_at, nodes, schema, schema_problems
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DROPLET = Machine("production", 1987)

Settings = dict[str, Any]


BUCKET = {"bucket": "giggles-backup", "endpoint": "https://s3.eu-central-003.backblazeb2.com", "region": "eu-central-003"}
BUCKET_KEY = {"key_id": "0031a2b3c4d5e6f0000000001", "application_key": "K003planted0application0key0abc"}


def told(pillar: dict[Any, Any], machine: Machine = DROPLET) -> str:
    return "\n".join(paragraphs(check(pillar, machine)))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_every_section_of_the_schema_is_closed_and_explains_itself() -> None:
    for key, node in nodes():
        assert node.get("description"), key
        assert "type" in node, key
        if "properties" in node:
            assert node["additionalProperties"] is False, key
            assert node["title"], key
        if "format" in node:
            assert node["format"] in FORMATS, key


def test_every_format_is_used() -> None:
    used = {below.get("format") for _, node in nodes() for below in (node, node.get("items", {}))}
    assert used - {None} == set(FORMATS)


def test_examples_of_the_schema_are_right_where_they_are_complete() -> None:
    examples = [(key, example) for key, node in nodes() for example in node.get("examples", []) if "…" not in str(example)]
    assert examples
    for key, example in examples:
        settings_: Any = example
        for name in reversed(key[1:]):
            settings_ = {name: settings_}
        assert [problem for problem in schema_problems(merged(defaults(), settings_)) if problem.key == key] == []


def test_the_defaults_are_right_and_only_lack_what_nobody_can_know() -> None:
    assert schema_problems(defaults()) == []
    assert rule_problems(defaults(), DROPLET, frozenset()) == []
    assert {":".join(key[1:]) for key, _, _ in missing(defaults())} >= {"domain", "admin:ssh_keys", "app:ref"}


def test_every_setting_has_a_default_unless_it_is_a_secret_or_of_the_app() -> None:
    text = DEFAULTS_FILE.read_text()
    given_ = yaml.safe_load(text)
    for key, node in nodes():
        if "properties" in node or key[1] == "secrets" or key[1:3] == ("app", "environment"):
            continue
        section: Any = given_
        for name in key[1:]:
            assert name in section, key
            section = section[name]


@pytest.mark.parametrize("name", ["giggles", "production", "staging"])
def test_the_committed_choices_are_right(name: str, right: Settings) -> None:
    content = yaml.safe_load((REPOSITORY / "pillar" / f"{name}.sls").read_text())["giggles"]
    right.pop("environment")
    environment = content.get("environment", "production")
    assert told({"giggles": merged(right, content)}, Machine(environment, 1987)) == ""


def test_a_right_pillar_passes(right: Settings) -> None:
    assert told({"giggles": right, "other": 1}) == ""


def test_a_setting_beside_giggles_instead_of_below_it_is_refused_where_it_lies() -> None:
    sources = [
        ("pillar/giggles.sls", {"giggles": None, "converge": {"allowed_signers": ["planted"]}, "mine": 1}),
        ("pillar/production.sls", ["giggles"]),
        ("droplet.sls", {"giggles": {}, "domain": "planted.example"}),
    ]
    said = paragraphs(misplaced(sources), sources)
    assert len(said) == 2, "of what is somebody else's nothing is said"
    assert "because of converge: " in said[0]
    assert "giggles:converge" in said[0]
    assert "pillar/giggles.sls" in said[0]
    assert "because of domain: " in said[1]
    assert "droplet.sls" in said[1]
    assert "planted" not in "".join(said)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: s.update(roles=["hardening", "hardening"]), ["giggles:roles", "twice"]),
        (lambda s: s.update(roles=["hardning"]), ["giggles:roles:0", "did you mean hardening?"]),
        (lambda s: s.update(roles=[]), ["giggles:roles", "too short"]),
        (lambda s: s.update(web=None), ["giggles:web", "it is empty"]),
        (lambda s: s.update(domian="a.example"), ["giggles:domian", "did you mean giggles:domain?"]),
        (lambda s: s.update(SECRET_KEY="x"), ["did you mean giggles:secrets:app:SECRET_KEY?"]),
        (lambda s: s["app"].update(ref=datetime.date(2026, 1, 1)), ["giggles:app:ref", "a date; put it in quotes"]),
        (lambda s: s["app"].update(python=3.1), ["giggles:app:python", "put it in quotes"]),
        (lambda s: s["app"].update(keep_releases="3"), ["giggles:app:keep_releases", "without quotes"]),
        (lambda s: s["app"].update(memory_max_mb=1500.0), ["giggles:app:memory_max_mb", "a number of the wrong kind"]),
        (lambda s: s["app"].update(environment={"LAUGHTER_THRESHOLD": float("nan")}), ["LAUGHTER_THRESHOLD"]),
        (lambda s: s["app"].update(environment={"UPLOAD_DIR": "/x"}), ["always /var/lib/giggles/uploads"]),
        (lambda s: s["app"].update(environment={"MY_KEY": "x"}), ["giggles:app:environment:MY_KEY", "no such setting"]),
        (lambda s: s["app"].update(environment={"ALLOWED_ORIGINS": "https://a.b\nDEBUG=1"}), ["ALLOWED_ORIGINS"]),
        (lambda s: s["app"].update(repository="https://me:planted-pw@h/x"), ["contains credentials", "https://…@h/x"]),
        (lambda s: s["app"].update(repository="https://me:a/planted-pw@h/x"), ["not a valid address", "https://…@h/x"]),
        (lambda s: s["app"].update(repository="git://h/x", ref="main"), ["giggles:app:ref", "git://"]),
        (lambda s: s["app"].update(memory_high_mb=1500), ["giggles:app:memory_high_mb", "not below"]),
        (lambda s: s["app"].update(memory_max_mb=1900), ["giggles:app:memory_max_mb", "at most 1787 MB"]),
        (lambda s: s.update(hardening={"swap_mb": 512}), ["giggles:hardening:swap_mb", "add up to 3200 MB"]),
        (lambda s: s.update(backup={"at": "03:00"}), ["giggles:backup:at", "meets giggles:nightly:at"]),
        (
            lambda s: s.update(hardening={"reboot_at": "06:44"}),
            ["giggles:hardening:reboot_at", "meets giggles:backup:at"],
        ),
        (lambda s: s.update(backup=BUCKET), ["giggles:secrets:backup:key_id", "the setting backup:bucket cannot do without it"]),
        (lambda s: s.update(backup={"bucket": "giggles-backup"}), ["giggles:backup:endpoint", "giggles:backup:region", "application_key"]),
        (lambda s: s.update(backup=BUCKET | {"region": "us-west-004"}), ["giggles:backup:region", "the endpoint is in eu-central-003"]),
        (lambda s: s.update(backup={"lock_days": 15}), ["giggles:backup:lock_days", "more than backup:keep:daily, 14 days"]),
        (
            lambda s: s.update(backup={"lock_days": 31, "keep": {"daily": 90}}),
            ["giggles:backup:lock_days", "more than backup:keep_dumps_days"],
        ),
        (lambda s: s.update(backup=BUCKET | {"drill_at": "Sat 06:30"}), ["giggles:backup:drill_at", "meets giggles:backup:at"]),
        (lambda s: s.update(backup=BUCKET | {"drill_at": "Sat 05:00"}), ["giggles:backup:drill_at", "meets giggles:nightly:at"]),
        (lambda s: s.update(backup=BUCKET | {"drill_at": "Sat 06:50"}), ["giggles:backup:drill_at", "meets giggles:hardening:reboot_at"]),
        (lambda s: s.update(backup=BUCKET | {"drill_at": "Sat 01:30"}), ["giggles:backup:drill_at", "meets giggles:hardening:updates_at"]),
        (lambda s: s.update(backup=BUCKET | {"memory_max_mb": 1900}), ["giggles:backup:memory_max_mb", "at most 1787 MB"]),
        (lambda s: s.update(backup={"database": {"schemas": []}}), ["giggles:backup:database:schemas", "too short"]),
        (lambda s: s.update(converge={"every_minutes": 180}), ["giggles:monitoring:thresholds:converge_hours", "every 180 minutes"]),
        (lambda s: s.update(aliases=[s["domain"]]), ["giggles:aliases", "the domain itself"]),
        (
            lambda s: s.update(monitoring={"uptimerobot": {"enabled": True}}),
            ["giggles:secrets:monitoring:uptimerobot_key", "it is missing"],
        ),
        (lambda s: s["app"].update(second_factor=False), ["giggles:app:second_factor", "true or false; put it in quotes"]),
        (
            lambda s: s.update(environment="staging"),
            ["giggles:environment", "giggles:web:acme:directory", "rate limits"],
        ),
        (
            lambda s: s["secrets"]["app"].update(SUPABASE_KEY="planted-service-role-key"),
            ["SUPABASE_KEY", "the same as"],
        ),
        (lambda s: s["secrets"]["app"].update(ENCRYPTION_KEY="planted"), ["ENCRYPTION_KEY", "64 characters"]),
        (lambda s: s["secrets"].update(monitoring={"smtp_user": "planted"}), ["giggles:secrets:monitoring:smtp_password", "go together"]),
        (lambda s: s["secrets"].update(monitoring={"smtp_password": "planted"}), ["giggles:secrets:monitoring:smtp_user", "go together"]),
        (lambda s: s["secrets"].update(app="planted-text"), ["giggles:secrets:app", "it is text"]),
        (lambda s: s.update(secrets="planted-text"), ["giggles:secrets", "it is text"]),
        (lambda s: s.update(domain="planted-anon-key"), ["giggles:domain", "no dot"]),
        (lambda s: s["admin"].update(name="root"), ["giggles:admin:name", "“root”"]),
        (lambda s: s["admin"].update(ssh_keys=[]), ["giggles:admin:ssh_keys", "it is missing", "hardening"]),
        (lambda s: s["admin"].update(ssh_keys=["-----BEGIN OPENSSH PRIVATE KEY----- planted"]), ["PRIVATE key"]),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(spoil: Callable[[Settings], object], words: list[str], right: Settings) -> None:
    spoil(right)
    said = told({"giggles": right})
    for word in words:
        assert word in said
    assert "Allowed: " in said
    assert "planted" not in said


def test_a_role_that_is_off_needs_nothing(right: Settings) -> None:
    right["secrets"] = {}
    right["app"] = {}
    right["roles"] = ["hardening"]
    assert told({"giggles": right}) == ""


@pytest.mark.parametrize("pillar", [{}, {"giggles": None}, {"giggles": []}, {"giggles": "x"}, {"giggles": 1}])
def test_a_pillar_without_settings_is_refused(pillar: Any) -> None:
    assert "giggles" in told(pillar)


def test_a_bucket_with_all_that_it_needs_passes(right: Settings) -> None:
    right["secrets"]["backup"] = BUCKET_KEY
    assert told({"giggles": right | {"backup": BUCKET}}) == ""


def test_staging_and_production_never_share_a_place_in_the_bucket(right: Settings) -> None:
    right["secrets"]["backup"] = BUCKET_KEY
    for beside, prefix, refused in (
        ((None, ""), "", True),
        (("giggles-backup", "production/"), "production/", True),
        (("giggles-backup", ""), "staging/", False),
        (("another-bucket", ""), "", False),
        (None, "", False),
    ):
        said = told({"giggles": right | {"backup": BUCKET | {"prefix": prefix}}}, Machine("production", 1987, backup_beside=beside))
        assert ("giggles:backup:prefix" in said) is refused, (beside, prefix, said)
    without_a_bucket = told({"giggles": right}, Machine("production", 1987, backup_beside=(None, "")))
    assert without_a_bucket == ""


def test_what_git_names_for_the_other_environment_is_read_from_its_overlay(tmp_path: Path) -> None:
    (tmp_path / "giggles.sls").write_text("#!quiet_yaml\ngiggles: {backup: {bucket: giggles-backup}}\n")
    (tmp_path / "staging.sls").write_text("#!quiet_yaml\ngiggles: {backup: {prefix: staging/}}\n")
    assert backup_beside("production", tmp_path) == ("giggles-backup", "staging/")
    assert backup_beside("staging", tmp_path) == ("giggles-backup", "")
    assert backup_beside("neither", tmp_path) is None
    (tmp_path / "giggles.sls").write_text("giggles: {backup: 7}\n")
    assert backup_beside("staging", tmp_path) == (None, "")


def test_the_committed_overlays_differ_in_their_place_in_the_bucket() -> None:
    beside = [backup_beside(environment) for environment in ("staging", "production")]
    assert None not in beside
    assert beside[0] != beside[1]


def test_without_a_bucket_the_time_of_the_drill_and_its_memory_do_not_matter(right: Settings) -> None:
    assert told({"giggles": right | {"backup": {"drill_at": "Sat 05:50", "memory_max_mb": 9000}}}) == ""


def test_without_the_role_a_bucket_needs_nothing(right: Settings) -> None:
    roles = ["hardening", "vault", "app", "web", "nightly"]
    assert told({"giggles": right | {"roles": roles, "backup": BUCKET | {"drill_at": "Sat 05:50"}}}) == ""


def test_a_backup_without_the_vault_is_refused_since_its_keys_are_there(right: Settings) -> None:
    right["secrets"]["backup"] = BUCKET_KEY
    said = told({"giggles": right | {"roles": ["hardening", "backup"], "backup": BUCKET}})
    assert "giggles:roles: backup is among them and vault is not" in said
    assert told({"giggles": right | {"roles": ["vault", "backup"], "backup": BUCKET}}) == ""
    assert told({"giggles": right | {"roles": ["hardening", "backup"]}}) == ""


def test_a_mail_server_on_the_droplet_itself_may_be_named(right: Settings) -> None:
    right["monitoring"] = {"mail": {"to": "ops@example.com", "host": "localhost", "port": 25, "security": "none"}}
    assert told({"giggles": right}) == ""


def test_who_waits_for_no_converge_may_have_it_come_seldom(right: Settings) -> None:
    right["converge"] = {"every_minutes": 1440, "enabled": False}
    assert told({"giggles": right}) == ""
    right["converge"] = {"every_minutes": 1440}
    right["monitoring"] = {"thresholds": {"converge_hours": 25}}
    assert told({"giggles": right}) == ""


def test_every_rule_is_stated_for_the_docs() -> None:
    assert all(rule.statement.endswith(".") and rule.reads for rule in RULES)


NAMES = st.sampled_from(sorted({key[-1] for key, _ in nodes()})) | st.text(max_size=12)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=8)
    | st.dates()
    | st.sampled_from(["https://x", "12:30", "ssh-rsa AAAA", "postgresql://[", "a" * 40, "production", "staging"])
)
KEYS = NAMES | st.none() | st.integers() | st.booleans()
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12)
SHAPED = st.dictionaries(st.sampled_from([key[1] for key, _ in nodes() if len(key) == 2]), ANYTHING, max_size=5)


@settings(max_examples=200, deadline=None)
@given(ANYTHING | SHAPED, st.sampled_from(["production", "staging", "other", None]), st.none() | st.integers(0, 10**6))
def test_no_pillar_makes_the_check_fail_itself(chosen: Any, environment: str | None, memory_mb: int | None) -> None:
    problems = check({"giggles": chosen}, Machine(environment, memory_mb))
    assert all(paragraph.startswith("The pillar is refused") for paragraph in paragraphs(problems))


def test_a_number_beyond_every_limit_is_refused(right: Settings) -> None:
    right["web"] = {"max_upload_mb": 10**4000}
    right["app"]["environment"] = {"CLIP_DURATION": 10**4000}
    said = told({"giggles": right})
    assert "giggles:web:max_upload_mb: it is too large" in said
    assert "giggles:app:environment:CLIP_DURATION: it is too large" in said


def test_a_list_that_holds_itself_is_refused(right: Settings) -> None:
    knot: list[Any] = []
    knot.append(knot)
    right["aliases"] = knot
    right["secrets"]["app"]["SUPABASE_KEY"] = knot
    assert "giggles:aliases:0" in told({"giggles": right})


PLACES = [key for key, node in nodes() if "properties" not in node]
SECRETS = st.text(alphabet="0123456789QXZWVqxzwv-_:/@.%[]{}*&!# \n", min_size=12, max_size=90).filter(
    lambda text: len(set(text)) > 5 and text.strip() == text
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    secret=SECRETS,
    at_home=st.sampled_from([key for key in PLACES if key[1] == "secrets"]),
    elsewhere=st.sampled_from(PLACES),
    as_name=st.booleans(),
)
def test_no_secret_appears_in_any_message(
    secret: str, at_home: tuple[str, ...], elsewhere: tuple[str, ...], as_name: bool, right: Settings
) -> None:
    chosen = deepcopy(right)
    chosen["secrets"]["app"][at_home[-1]] = secret
    section: Any = chosen
    for name in elsewhere[1:-1]:
        section = section.setdefault(name, {})
    section[elsewhere[-1]] = secret
    if as_name:
        section[secret] = 1
    assert secret not in told({"giggles": chosen})


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, ANYTHING, max_size=5), st.dictionaries(NAMES, ANYTHING, max_size=5))
def test_settings_are_merged_as_salt_merges_them(below: Any, above: Any) -> None:
    dictupdate = pytest.importorskip("salt.utils.dictupdate")
    assert repr(merged(below, above)) == repr(dictupdate.merge(deepcopy(below), above, strategy="recurse"))


def test_a_key_of_the_schema_is_found_again() -> None:
    assert all(node_at(key) is node for key, node in nodes())


@pytest.mark.parametrize(
    ("sls", "place"),
    [
        ("droplet", "/etc/giggles/pillar/droplet.sls"),
        ("fleet", "fleet.sls of the fleet"),
        ("droplets.night1", "droplets/night1.sls of the fleet"),
    ],
)
def test_a_file_that_is_not_yaml_is_named_where_it_lies(sls: str, place: str) -> None:
    assert place in told({UNREADABLE: {sls: "line 3, column 1"}})
