"""Plain YAML for files with secrets: a mistake in one is told by its place, never by quoting it.

Salt's own renderer logs what stands around a mistake, and a secret with it. This one notes the mistake in the pillar,
where _pillar/giggles.py finds it and refuses the pillar. A pillar file asks for it in its first line: ``#!quiet_yaml``.
"""

from typing import Any

import salt.utils.stringutils
import yaml
from salt.utils.yamlloader import SaltYamlSafeLoader

# As in gigglekit.settings.places, which is not importable yet when Salt loads its renderers.
UNREADABLE = "giggles_unreadable"


def render(data: Any, saltenv: str = "base", sls: str = "", **_: Any) -> Any:  # noqa: ANN401, ARG001 (Salt's interface)
    """Read a pillar file.

    Args:
        data: its text, or a file object with it.
        saltenv: not used.
        sls: its name as in top.sls, such as `droplet`.

    Returns:
        What the file says; if it is not YAML, a note for _pillar/giggles.py that has its name and the line.
    """
    text = data if isinstance(data, (str, bytes)) else data.read()
    try:
        return yaml.load(salt.utils.stringutils.to_unicode(text), Loader=SaltYamlSafeLoader) or {}  # noqa: S506 (it is a safe loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
    except ValueError:
        place = "a value looks like a number or date that cannot be; put it in quotes"
    return {UNREADABLE: {sls: place}}
