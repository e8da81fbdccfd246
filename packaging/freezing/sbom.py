"""The list of what a bundle is made of (CycloneDX 1.5), for whoever has to know whether a hole in a library concerns it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

from . import archive

_NAMESPACE = uuid.UUID("6a0e9d0e-3c1f-5d0b-9b5f-3f6f0c8b7a11")


def describe(bundle: Path, facts: dict[str, Any], moment: int) -> dict[str, Any]:
    """Return the list.

    Arguments:
        bundle: the folder of the bundle.
        facts: what stands in its bundle.json.
        moment: the time that is written into it, in seconds since 1970.
    """
    components = [*packages(bundle / "lib" / "site-packages"), *_libraries(bundle / "frozen" / "_internal")]
    components.append(
        {"type": "application", "name": "CPython", "version": facts["python"], "bom-ref": f"pkg:generic/cpython@{facts['python']}"}
    )
    components.append(_file(bundle / "bin" / "uv", "uv", facts["uv"]))
    described: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)),
            "component": {"type": "application", "name": "giggles-salt bundle", "version": facts["salt"], "bom-ref": "bundle"},
            "properties": [{"name": f"giggles:{name}", "value": str(facts[name])} for name in ("lock", "machine", "glibc")],
        },
        "components": sorted(components, key=lambda component: component["bom-ref"]),
    }
    described["serialNumber"] = f"urn:uuid:{uuid.uuid5(_NAMESPACE, json.dumps(described, sort_keys=True))}"
    return described


def packages(folder: Path) -> list[dict[str, Any]]:
    """Return an entry for each Python package that is installed in a folder.

    Arguments:
        folder: site-packages.
    """
    found = []
    for one in importlib.metadata.distributions(path=[str(folder)]):
        name = one.metadata["Name"].lower().replace("_", "-").replace(".", "-")
        entry: dict[str, Any] = {"type": "library", "name": name, "version": one.version, "purl": f"pkg:pypi/{name}@{one.version}"}
        entry["bom-ref"] = entry["purl"]
        expressions = one.metadata.get_all("License-Expression") or []
        classifiers = [text.rsplit(" :: ", 1)[1] for text in one.metadata.get_all("Classifier") or [] if text.startswith("License ::")]
        if expressions:
            entry["licenses"] = [{"expression": expressions[0]}]
        elif classifiers:
            entry["licenses"] = [{"license": {"name": text}} for text in classifiers]
        found.append(entry)
    return found


def _libraries(folder: Path) -> list[dict[str, Any]]:
    return [_library(path) for path in sorted(folder.glob("*.so*"))]


def _library(path: Path) -> dict[str, Any]:
    entry = _file(path, path.name, "")
    package = _debian_package(path.name)
    if package:
        name, version = package
        entry["version"] = version
        entry["purl"] = f"pkg:deb/{platform.freedesktop_os_release().get('ID', 'debian')}/{name}@{version}"
    return entry


def _file(path: Path, name: str, version: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "name": name, "bom-ref": f"file:{path.name}"}
    if version:
        entry["version"] = version
    entry["hashes"] = [{"alg": "SHA-256", "content": archive.digest(path)}]
    return entry


def _debian_package(library: str) -> tuple[str, str] | None:
    try:
        owner = subprocess.run(["dpkg-query", "-S", f"*/{library}"], capture_output=True, text=True, check=False).stdout.split(",")[0]
        name = owner.split(": ")[0].split(":")[0].strip()
        shown = subprocess.run(["dpkg-query", "-W", "-f", "${Version}\n", name], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return None
    return (name, shown.split()[0]) if name and shown.split() else None
