"""
What the app's database at Supabase insists on, beside the app's own policies.

.. code-block:: yaml

    second-factor-enforced:
      supabase.second_factor:
        - enforced: enrolled
"""

from pathlib import Path

from gigglekit.database_policies import looked
from gigglekit.database_policies.errors import DatabaseError, UnreachableError


def __virtual__():
    return "supabase"


def second_factor(name, enforced="off", notes="/var/lib/giggles/database/second_factor.json"):
    """
    The database shows and changes rows of users only with a second factor: ``enrolled``, of those who have one; ``all``, of
    everybody; ``off``, of nobody by this state. Policies of other names are left alone. The database is asked once a day, and
    whenever this or its address has changed; if it cannot be reached, that is told, and fails only what has never been put in force.

    name
        Not used; any text.
    enforced
        ``off``, ``enrolled`` or ``all``.
    notes
        Where it is noted when all was as it should be.

    .. code-block:: yaml

        second-factor-enforced:
          supabase.second_factor:
            - enforced: all
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    # Not an argument: those are for everybody to read.
    url = __pillar__.get("giggles", {}).get("secrets", {}).get("app", {}).get("DATABASE_URL")
    if not url:
        return {**ret, "comment": "There is no database (giggles:secrets:app:DATABASE_URL)."}
    notes = Path(notes)
    try:
        last = looked.last(notes, enforced, url)
        if not last.due:
            return {**ret, "comment": f"The second factor ({enforced}) was in force as it should be at {last.day}."}
        return _brought(ret, enforced, url, notes, last)
    except (DatabaseError, ValueError) as error:
        return {**ret, "result": False, "comment": str(error)}
    except OSError as error:
        where = error.filename or notes
        return {**ret, "result": False, "comment": f"{where}: {error.strerror}. Look at df and dmesg, then apply again."}


def _brought(ret, enforced, url, notes, last):
    from gigglekit.database_policies.keeping import Policies
    from gigglekit.database_policies.second_factor import choice

    policies, wanted = Policies(url), choice(enforced)
    try:
        found = policies.look(wanted) if __opts__["test"] else policies.bring(wanted)
    except UnreachableError as error:
        if last.time is not None or enforced == "off":
            return {**ret, "comment": f"{error} When it was last asked with these settings, all was well: {last.day}."}
        if __opts__["test"]:
            return {**ret, "result": None, "changes": {"database": "looked at"}, "comment": str(error)}
        raise
    absent = f" It has no table public.{', public.'.join(found.absent)}." if found.absent and enforced != "off" else ""
    if __opts__["test"] and found.changes:
        return {**ret, "result": None, "changes": found.changes, "comment": f"The database's policies would be changed.{absent}"}
    if not __opts__["test"]:
        looked.note(notes, enforced, url)
    words = "were changed" if found.changes else "are as they should be"
    return {**ret, "changes": found.changes, "comment": f"The database's policies for a second factor ({enforced}) {words}.{absent}"}
