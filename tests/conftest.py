"""What every test needs: the library on the import path, and a pillar that is right."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.public_keys import ed25519_key

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "_utils"))

_RIGHT: dict[str, Any] = {
    "environment": "production",
    "domain": "giggles.example.test",
    "admin": {"ssh_keys": [ed25519_key()]},
    "app": {"repository": "https://git.example.test/owner/app.git", "ref": "0123456789abcdef0123456789abcdef01234567"},
    "secrets": {
        "app": {
            "SUPABASE_URL": "https://project.supabase.co",
            "SUPABASE_KEY": "planted-anon-key",
            "SUPABASE_SERVICE_ROLE_KEY": "planted-service-role-key",
            "SECRET_KEY": "planted-secret-key-0123456789abcdefghij",
            "ENCRYPTION_KEY": "0123456789abcdef" * 4,
            "DATABASE_URL": "postgresql://planted:planted-password@db.example.test:5432/postgres",
        }
    },
}


def right_settings() -> dict[str, Any]:
    """Return settings below `giggles` that pass every check, for the caller to spoil."""
    return deepcopy(_RIGHT)


@pytest.fixture
def right() -> dict[str, Any]:
    """Settings below `giggles` that pass every check; each test gets its own to spoil."""
    return right_settings()


def pytest_collection_finish() -> None:
    """Have only warnings logged: Salt, which a plugin of pytest imports, has everything logged.

    pytest keeps that to the end: hundreds of megabytes, whose page tables are copied for every child that is forked to be killed.
    """
    logging.getLogger().setLevel(logging.WARNING)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test of the booted machine fail when it is skipped: that would be a promise nobody looked at."""
    report = yield
    if report.skipped and {"droplet", "audit"} & set(item.path.parts):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which tests of the booted machine may not be"
    return report
