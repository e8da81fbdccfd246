"""The database insists on a second factor: a restrictive policy on each of the app's tables.

A restrictive policy only takes away from what the app's own policies allow, so it can never open anything. It binds the role
`authenticated`, which Supabase gives every logged-in user; the service role and the owner of the tables are not bound. `aal2` in
a token says that its session was opened with a second factor.

Whether somebody has one is asked through a function of the owner's rights, since users may not read `auth.mfa_factors`, and row
level security there would hide the factors without a word. It tells callers of themselves alone. It lies in `public`, so that a
dump of the app's schemas is whole.

Source: https://supabase.com/docs/guides/auth/auth-mfa (Enforce rules for MFA logins); PostgreSQL's documentation, "CREATE POLICY".
"""

from __future__ import annotations

from typing import Literal, get_args

Choice = Literal["off", "enrolled", "all"]

POLICY = "giggles_second_factor"
FUNCTION = "giggles_has_second_factor"
ROLE = "authenticated"
TABLES = ("users", "limitless_keys", "audio_segments", "laughter_detections", "processing_logs")
"""The app's tables in the schema `public`."""

BODY = "SELECT EXISTS (SELECT FROM auth.mfa_factors AS f WHERE f.user_id = auth.uid() AND f.status = 'verified')"
"""What the function does."""

_AAL2 = "coalesce((SELECT auth.jwt() ->> 'aal'), '') = 'aal2'"
_CONDITIONS: dict[str, str] = {"enrolled": f"{_AAL2} OR NOT (SELECT public.{FUNCTION}())", "all": _AAL2}


def choice(value: object) -> Choice:
    """Return a setting as one of the choices.

    Raises:
        ValueError: it is none.
    """
    for known in get_args(Choice):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise ValueError("A second factor is enforced for off, enrolled or all. Correct giggles:app:second_factor.")


def condition(enforced: Choice) -> str | None:
    """Return under which condition a user sees or changes a row at all, in SQL; None if there is none."""
    return _CONDITIONS.get(enforced)
