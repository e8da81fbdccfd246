"""A droplet that is told what to be from elsewhere has the same commit of this repository as whoever tells it."""

from pathlib import Path

from gigglekit.health.basis import commit_of


def __virtual__():
    return "commit"


def at(name, commit):
    """Fail unless a working tree is at a commit, and has no edits. It changes nothing, and under ``test=True`` it does the same.

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
    from gigglekit.health.fetching import FetchError, Tree

    found = commit_of(Path(name))
    if found == commit:
        try:
            edits = Tree(Path(name)).edits()
        except FetchError as error:
            return {"name": name, "result": False, "changes": {}, "comment": str(error)}
        if not edits:
            return {"name": name, "result": True, "changes": {}, "comment": f"It is at {commit}, and nothing in it was changed."}
        comment = (
            f"Files of {name} on this droplet are not as commit {commit} has them: {', '.join(edits[:5])}"
            f"{', …' if len(edits) > 5 else ''}. What the states import and what timers run comes from there, so nothing was changed. "
            f"Over salt-ssh, salt-ssh --pre-flight lays the commit out anew and keeps what was changed in {name}.before; under a master, "
            f"or by hand on the droplet, git -C {name} stash push --include-untracked does (git -C {name} stash show -p shows it). If it "
            "is to stay, commit it where the states come from. Then apply again."
        )
        return {"name": name, "result": False, "changes": {}, "comment": comment}
    has = f"is at {found}" if found else "has no commit that git knows of"
    comment = (
        f"The states that were to be applied are those of commit {commit}, but {name} on this droplet {has}, and what the states import "
        "and what timers run comes from there. Nothing was changed, since a mixture of both has never been tried. Bring the droplet the "
        f"same commit: over salt-ssh with fleet/pack and salt-ssh --pre-flight, under a master with git -C {name} fetch and "
        f"git -C {name} checkout {commit} (docs/FLEET.md). Then apply again."
    )
    return {"name": name, "result": False, "changes": {}, "comment": comment}
