"""
What an operator can ask a Giggles server.
"""

from gigglekit.release import manifest
from gigglekit.release.settings import COMMIT, Layout

__virtualname__ = "giggles"


def __virtual__():  # noqa: N807 - the name that Salt looks for
    return __virtualname__


def releases():
    """
    List the releases on this droplet, the newest first: which one is live, which one was live before, and whether each
    is still as it was built.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.releases
    """
    layout = Layout()
    live = layout.live()
    before = layout.before()
    found = []
    if layout.releases.is_dir():
        for folder in layout.releases.iterdir():
            if COMMIT.fullmatch(folder.name):
                facts = manifest.facts(folder) or {}
                found.append(
                    {
                        "commit": folder.name,
                        "live": folder.name == live,
                        "previous": folder.name == before,
                        "built": facts.get("built", "incomplete"),
                        "interpreter": facts.get("interpreter", ""),
                        "changed": manifest.drift(folder),
                    }
                )
    return sorted(found, key=lambda release: release["built"], reverse=True)


def live():
    """
    Return the commit that is live, or None.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.live
    """
    return Layout().live()


def previous():
    """
    Return the commit that was live before, or None.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.previous
    """
    return Layout().before()
