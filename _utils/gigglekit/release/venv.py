"""A release's own virtual environment, filled by uv in a box that cannot see this server's secrets or data."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gigglekit.command import CommandTimeoutError, Outcome, run
from gigglekit.release import interpreter, single_run
from gigglekit.release.errors import BuildError
from gigglekit.release.settings import Layout, Settings

UV = Path("/opt/giggles-tools/uv/bin/uv")
FOLDER = ".venv"
_INSTALL_SECONDS = 1500
_COMPILE_SECONDS = 900
_HASH = re.compile(r"(?m)(?:^|\s)--hash[= ]")
_KEPT_FROM = ("/etc/giggles", "/var/lib/giggles", "/var/log/giggles", "/opt/giggles/.env", "/opt/giggles/process.env")
_PASSED = (
    "UV_SYSTEM_CERTS",
    "UV_CACHE_DIR",
    "UV_LINK_MODE",
    "UV_NO_PROGRESS",
    "SSL_CERT_FILE",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "https_proxy",
    "http_proxy",
    "no_proxy",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_FIND_LINKS",
    "HOME",
    "PATH",
    "LC_ALL",
)


def create(settings: Settings, layout: Layout, folder: Path, uv: Path = UV) -> str:
    """Create the virtual environment of the release in `folder`.

    With hashes in the requirements file everything must match one (and nothing else is installed); without, the
    constraints hold.

    Arguments:
        settings: interpreter, requirements, constraints.
        layout: says where uv's cache and interpreters lie.
        folder: the release, exported already.
        uv: the uv program.

    Returns:
        The interpreter it was made with.

    Raises:
        BuildError: no interpreter, or packages that cannot be installed.
    """
    if not uv.exists():
        raise BuildError(
            f"uv, which installs the app's packages, is not at {uv}. Run bootstrap.sh again, which puts it there. The "
            "live release was left as it is."
        )
    app = folder / settings.subdirectory
    requirements = app / settings.requirements
    if not requirements.is_file():
        raise BuildError(
            f"The release has no file {Path(settings.subdirectory, settings.requirements)}. Correct "
            "giggles:app:requirements or giggles:app:subdirectory in the pillar, or the commit. The live release was "
            "left as it is."
        )
    environment = {
        "UV_SYSTEM_CERTS": "1",
        "UV_CACHE_DIR": str(layout.cache),
        # Hard links into the cache would let one edited file reach every release, and survive a rebuild.
        "UV_LINK_MODE": "copy",
        "UV_NO_PROGRESS": "1",
    }
    layout.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    python = interpreter.choose(settings.python, uv, layout, environment)
    target = folder / FOLDER
    _must(
        run(
            [str(uv), "venv", "--no-project", "--no-config", "--relocatable", "--python", python, str(target)],
            seconds=120,
            environment=environment,
        ),
        "create a virtual environment",
    )
    install = [str(uv), "pip", "install", "--python", str(target / "bin/python")]
    if _HASH.search(requirements.read_text(encoding="utf-8", errors="replace")):
        install += ["--require-hashes"]
    elif settings.constraints:
        constraints = folder / ".giggles-constraints.txt"
        constraints.write_text("\n".join(settings.constraints) + "\n", encoding="utf-8")
        install += ["--constraint", str(constraints)]
    _must(
        _boxed([*install, "--requirement", str(requirements)], environment, [folder, layout.cache]),
        "install the packages",
    )
    _guard(target)
    return python


def compile_all(python: str, folder: Path, final: Path) -> None:
    """Compile every module of the release, as it will be called once it lies at `final`.

    The app may not write into its release, so what is not compiled now is compiled at each start.
    """
    try:
        # -S keeps the .pth files of installed packages, which are code, from running as root.
        outcome = run(
            [python, "-I", "-S", "-m", "compileall", "-q", "-j", "2", "-s", str(folder), "-p", str(final), str(folder)],
            seconds=_COMPILE_SECONDS,
        )
    except CommandTimeoutError as error:
        raise BuildError(f"Compiling the release did not end: {error}. Apply again when the droplet is less busy.") from error
    if "No space left on device" in outcome.complaint + outcome.output:
        _must(outcome, "compile the release")
    # Other complaints are left: packages ship files for other Python versions, which do not compile.


def _guard(target: Path) -> None:
    for packages in target.glob("lib/python*/site-packages"):
        source = Path(single_run.__file__).read_text(encoding="utf-8")
        (packages / "giggles_single_run.py").write_text(source, encoding="utf-8")
        (packages / "giggles_single_run.pth").write_text("import giggles_single_run\n", encoding="utf-8")


def _boxed(argv: list[str], environment: dict[str, str], writable: list[Path]) -> Outcome:
    """Run a command of which parts are strangers' build scripts: root, but without this server's secrets and data."""
    added = {"HOME": "/root", "PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", **environment}
    box = [
        "systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec",
        f"--property=RuntimeMaxSec={_INSTALL_SECONDS}", "--property=ProtectSystem=strict", "--property=PrivateTmp=yes",
        "--property=ProtectHome=read-only", "--property=NoNewPrivileges=yes", "--property=PrivateDevices=yes",
        "--property=ProtectKernelTunables=yes", "--property=ProtectControlGroups=yes",
        "--property=RestrictNamespaces=yes",
        "--property=CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_FOWNER CAP_CHOWN", "--property=UMask=0022",
        "--property=IPAddressDeny=link-local",
        f"--property=ReadWritePaths={' '.join(map(str, writable))}",
        f"--property=InaccessiblePaths={' '.join('-' + path for path in _KEPT_FROM)}",
        # By name only: an index address may hold a password, and arguments are for everybody to read.
        *(f"--setenv={name}" for name in _PASSED if added.get(name) or os.environ.get(name)),
    ]  # fmt: skip
    try:
        return run([*box, *argv], seconds=_INSTALL_SECONDS + 30, environment=added)
    except CommandTimeoutError as error:
        raise BuildError(
            f"Installing the app's packages did not end: {error}. Check the droplet's network, then apply again. The "
            "live release was left as it is."
        ) from error


def _must(outcome: Outcome, purpose: str) -> None:
    if outcome.code == 0:
        return
    if "No space left on device" in outcome.complaint:
        raise BuildError(
            f"The disk is full: uv could not {purpose}. Free some space (logs, apt's cache, older releases), then "
            "apply again. The live release was left as it is."
        )
    raise BuildError(
        f"uv could not {purpose} ({outcome.last_words or f'exit code {outcome.code}'}). Correct the requirements of "
        "this commit or giggles:app:constraints in the pillar; if the package index did not answer, apply again. The "
        "live release was left as it is."
    )
