"""
Records every run of states, by hand or by the self-converge, for ``giggles.status`` and ``giggles.history``. What is recorded, and
what is told apart, stands in ``gigglekit.health``.

Minion configuration:

.. code-block:: yaml

    return: giggles_record
    # Only for tests: other places than those in gigglekit.health.recording.Places.
    giggles_record: {records: /tmp/records, last: /tmp/last.json}
"""

import logging
from pathlib import Path

log = logging.getLogger(__name__)


def __virtual__():
    return "giggles_record"


def returner(ret):
    """
    Record a run of states; anything else, and a run with ``test=True``, is let pass. No run ever fails over its record.

    ret
        What Salt's call returned.

    CLI Example:

    .. code-block:: bash

        salt-call --return giggles_record state.apply
    """
    # Every salt-call comes here, so what is no run of states is let go before anything is imported.
    if not str(ret.get("fun")).startswith("state."):
        return
    try:
        from gigglekit.health.recording import Places, is_run, record

        testing = bool(__opts__.get("test"))
        pillar = __opts__.get("pillar") or {}
        if __opts__.get("file_client") == "remote" and is_run(ret.get("fun"), ret.get("fun_args") or [], testing=testing):
            pillar = _of_this_run(pillar)
        places = Places(**{name: Path(path) for name, path in (__opts__.get("giggles_record") or {}).items()})
        record(ret, pillar, testing=testing, places=places)
    except OSError as error:
        log.warning(
            "%s: this run is not recorded (%s). Look at df and ls -l.", error.filename or "/var/lib/giggles/records", error.strerror
        )
    except Exception as error:  # noqa: BLE001 (whatever it is, the run went as it went)
        log.warning("This run is not recorded, since recording it failed (%s).", type(error).__name__)


def _of_this_run(kept):
    """Return the pillar as the master has it now: a minion that waits for its master has kept the one from when it began to."""
    import salt.pillar
    from salt.exceptions import SaltException

    try:
        return salt.pillar.get_pillar(__opts__, __grains__, __opts__["id"], __opts__.get("saltenv")).compile_pillar()
    except SaltException:
        # The master is gone meanwhile.
        return kept
