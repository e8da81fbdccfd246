"""What Salt's own states report without a remedy is explained at the end of a run. The causes are in `gigglekit.failures`."""

from pathlib import Path

from gigglekit.failures import explanation, failure


def __virtual__():
    return "failures"


def explained(name):
    """Fail with a paragraph for each known cause behind the states that failed: what happened, why, what to do.

    This repository's own states say so themselves. It changes nothing, and under ``test=True`` it does the same.

    name
        Only an identifier.

    .. code-block:: yaml

        failures-explained:
          failures.explained:
            - order: 1.0e+12
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "Nothing failed that does not say itself what to do."}
    failed = failure.unexplained(__running__, explaining=_own())
    if not failed:
        return ret
    paragraphs = explanation.explain(failed)
    if not paragraphs:
        ret["comment"] = "Nothing more is known here of what failed than it says itself; docs/TROUBLESHOOTING.md may help."
        return ret
    return {**ret, "result": False, "comment": "\n\n".join(paragraphs)}


def _own():
    return {path.stem for path in Path(__file__).parent.glob("*.py")}
