"""A droplet that is told what to be from elsewhere has the same commit of this repository as whoever tells it."""

from pathlib import Path

from gigglekit.health.basis import commit_of


def __virtual__():
    return "commit"


def at(name, commit):
    """Fail unless a working tree is at a commit. It changes nothing, and under ``test=True`` it does the same.

    What states import, and what timers run, lies in the tree of the droplet, while the states themselves come from whoever applies
    them. With ``order: first`` and ``failhard: True`` nothing else runs on a mixture; of several first ones Salt begins with the one
    whose module comes first in the alphabet.

    name
        The tree on the droplet.
    commit
        All forty digits of the commit that the states come from.

    .. code-block:: yaml

        tree-is-the-same:
          commit.at:
            - name: /srv/giggles-salt
            - commit: 0123456789abcdef0123456789abcdef01234567
            - order: first
            - failhard: True
    """
    found = commit_of(Path(name))
    if found == commit:
        return {"name": name, "result": True, "changes": {}, "comment": f"It is at {commit}."}
    has = f"is at {found}" if found else "has no commit that git knows of"
    comment = (
        f"The states that were to be applied are those of commit {commit}, but {name} on this droplet {has}, and what the states import "
        "and what timers run comes from there. Nothing was changed, since a mixture of both has never been tried. Bring the droplet the "
        f"same commit: over salt-ssh with fleet/pack and salt-ssh --pre-flight, under a master with git -C {name} fetch and "
        f"git -C {name} checkout {commit} (docs/FLEET.md). Then apply again."
    )
    return {"name": name, "result": False, "changes": {}, "comment": comment}
