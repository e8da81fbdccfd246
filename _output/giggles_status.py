"""
Shows what giggles.status returns as one screen for a person.
"""

import pprint

_MARKS = {"ok": "✓", "warning": "!", "problem": "✕", "unknown": "?"}
_COLOURS = {"ok": "\033[0;32m", "warning": "\033[0;33m", "problem": "\033[0;31m", "unknown": "\033[0;35m"}
_END = "\033[0m"


def __virtual__():  # noqa: N807 - the name that Salt looks for
    return "giggles_status"


def output(ret, **kwargs):  # noqa: ARG001 - what Salt passes to every outputter
    """
    Return the text for each minion that answered; what is no status (an error) is shown as it is.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.status
    """
    answers = ret.values() if isinstance(ret, dict) else [ret]
    return "\n".join(_screen(answer, bool(__opts__.get("color"))) for answer in answers)


def _screen(found, colour):
    if not isinstance(found, dict) or not isinstance(found.get("facts"), (list, tuple)):
        return found if isinstance(found, str) else pprint.pformat(found)
    lines = [_printable(found.get("summary")), ""]
    width = max((len(str(fact.get("title"))) for fact in found["facts"]), default=0)
    for fact in found["facts"]:
        level = fact.get("level")
        mark = _MARKS.get(level, "?")
        mark = f"{_COLOURS.get(level, '')}{mark}{_END}" if colour else mark
        lines.append(f" {mark} {_printable(fact.get('title')):{width}}  {_printable(fact.get('text'))}")
        if fact.get("todo"):
            lines.append(f"   {'':{width}}  → {_printable(fact['todo'])}")
    return "\n".join(lines)


def _printable(text):
    # What a record holds must not move the cursor of whoever looks at it.
    return "".join(letter if letter.isprintable() else "�" for letter in str(text))
