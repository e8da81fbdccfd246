"""Refuse a wrong pillar before anything changes.

An external pillar runs last, on the pillar that all files have been merged into. Masterless, this one adds nothing to it; if a
value is wrong it returns the reserved key `_errors`, and then `salt-call state.apply` prints them and exits with 5
before the first state runs. What is right is written down in pillar/schema.yaml.

Minion configuration:

.. code-block:: yaml

    pillar_dirs: [/srv/giggles-salt/_pillar]
    utils_dirs: [/srv/giggles-salt/_utils]
    ext_pillar:
      - giggles: {}
"""

import dataclasses
from pathlib import Path

from gigglekit.settings import remembering
from gigglekit.settings.machine import Machine


def ext_pillar(minion_id, pillar, tree=None):
    """Check the merged pillar.

    Args:
        minion_id: name of the minion, which a file of a fleet has.
        pillar: the pillar as merged from all files.
        tree: the working tree that the states come from, where somebody else than the droplet reads it (docs/FLEET.md).

    Returns:
        For a pillar that may be applied an empty dictionary, or with `tree` its commit as `giggles_pushed`; else
        `{"_errors": [one paragraph per problem]}`. No paragraph holds a secret.
    """
    if tree is not None:
        # Only now, since a droplet that reads its own pillar does without.
        from gigglekit.settings import pushing

        place = Path(tree).resolve()
        problem = pushing.problem(place, pillar)
        if problem:
            return {"_errors": [problem]}
        return {**_checked(minion_id, pillar), **pushing.told(place)}
    return _checked(minion_id, pillar)


def _checked(minion_id, pillar):
    files = _pillar_files(minion_id)
    machine = Machine(
        environment=__grains__.get("giggles_environment"),
        memory_mb=__grains__.get("mem_total"),
        has_answers=any(file.parent not in _committed() for file in files),
    )
    cache = Path(__opts__["cachedir"])
    mark = remembering.fingerprint(dict(pillar), machine)
    if remembering.is_remembered(cache, mark):
        return {}
    # Only now, since these imports cost more than everything else together.
    from gigglekit.settings.check import check, misplaced
    from gigglekit.settings.overlays import backup_beside
    from gigglekit.settings.report import paragraphs, pillar_sources

    sources = pillar_sources(files)
    machine = dataclasses.replace(machine, backup_beside=backup_beside(machine.environment))
    problems = [*misplaced(sources), *check(pillar, machine)]
    if problems:
        return {"_errors": paragraphs(problems, sources)}
    remembering.remember(cache, mark)
    return {}


def _roots():
    return [Path(root) for root in __opts__["pillar_roots"].get("base", [])]


def _committed():
    """Return the first of the pillar's roots, which is in Git; answers and secrets lie in the others."""
    return _roots()[:1]


def _pillar_files(minion_id):
    """Return the pillar files of this droplet that are there, those that win last."""
    names = ["giggles.sls", f"{__grains__.get('giggles_environment')}.sls", "fleet.sls", f"droplets/{minion_id}.sls", "droplet.sls"]
    return [root / name for name in names for root in _roots() if (root / name).is_file()]
