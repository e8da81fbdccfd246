"""A release's own virtual environment, filled by uv in a box that cannot see this server's secrets or data."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gigglekit.command import CommandTimeoutError, Outcome, run
from gigglekit.files import folder as files_folder
from gigglekit.files.replacing import replace
from gigglekit.release import box, custody, interpreter, single_run
from gigglekit.release.errors import BuildError
from gigglekit.release.settings import Layout, Settings
from gigglekit.uv import SETTINGS

UV = Path("/opt/giggles-tools/uv/bin/uv")
FOLDER = ".venv"
_INSTALL_SECONDS = 1500
_COMPILE_SECONDS = 900
_HASH = re.compile(r"(?m)(?:^|\s)--hash[= ]")
# How this server reaches a package index.
_PASSED = (
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
)


def create(settings: Settings, layout: Layout, folder: Path, uv: Path = UV) -> str:
    """Create the virtual environment of the release in `folder`.

    With hashes in the requirements file everything must match one (and nothing else is installed); without, the
    constraints hold. Packages are built and installed as an account of their own (see `box`), which can write the
    environment and its cache and nothing else of the release.

    Arguments:
        settings: interpreter, requirements, constraints.
        layout: says where uv's cache and interpreters lie.
        folder: the release, exported already and readable by everybody.
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
    account = box.account()
    environment = {
        **SETTINGS,
        # Hard links into the cache would let one edited file reach every release, and survive a rebuild.
        "UV_LINK_MODE": "copy",
        "UV_NO_PROGRESS": "1",
    }
    cache = _cache(layout, account.pw_uid, account.pw_gid)
    # The cache is the build account's: root neither reads nor writes there.
    as_root = {**environment, "UV_NO_CACHE": "1"}
    python = interpreter.choose(settings.python, uv, layout, as_root)
    target = folder / FOLDER
    _must(
        run(
            [str(uv), "venv", "--no-project", "--no-config", "--relocatable", "--python", python, str(target)],
            seconds=120,
            environment=as_root,
        ),
        "create a virtual environment",
    )
    install = [str(uv), "pip", "install", "--python", str(target / "bin/python")]
    if _HASH.search(requirements.read_text(encoding="utf-8", errors="replace")):
        install += ["--require-hashes"]
    elif settings.constraints:
        constraints = folder / ".giggles-constraints.txt"
        replace(constraints, ("\n".join(settings.constraints) + "\n").encode(), 0o644)
        install += ["--constraint", str(constraints)]
    custody.transfer(target, os.geteuid(), account.pw_uid, account.pw_gid)
    passed = {name: os.environ[name] for name in _PASSED if os.environ.get(name)}
    _must(
        _boxed([*install, "--requirement", str(requirements)], {**passed, **environment, "UV_CACHE_DIR": str(cache)}, [target, cache]),
        "install the packages",
    )
    custody.transfer(target, account.pw_uid, os.geteuid(), os.getegid())
    _guard(target)
    return python


def _cache(layout: Layout, uid: int, gid: int) -> Path:
    """Return uv's cache: the build account's, in a folder that only it and root can enter."""
    layout.cache.parent.mkdir(parents=True, exist_ok=True)
    cache = layout.cache / "uv"
    try:
        files_folder.present(layout.cache, files_folder.Wanted(os.geteuid(), gid, 0o750))
        files_folder.present(cache, files_folder.Wanted(uid, gid, 0o700))
    except files_folder.NotAFolderError as error:
        raise BuildError(
            f"{error}, where uv's cache belongs. Remove it, then apply again; the cache fills itself. The live release was left as it is."
        ) from error
    return cache


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
    """Put what keeps a second nightly job out where each start of this environment's Python runs it."""
    top = os.path.realpath(target)
    places = [path for path in target.glob("lib/python*/site-packages") if os.path.realpath(path) == f"{top}/{path.relative_to(target)}"]
    if len(places) != 1:
        raise BuildError(
            f"{target} has no site-packages of its own, but one elsewhere or several. A package moved it while it was "
            "installed; find out which and remove it from the app's requirements. The live release was left as it is."
        )
    # Put there in one step: a package may have left a link of that name, which is replaced and not followed.
    replace(places[0] / "giggles_single_run.py", Path(single_run.__file__).read_bytes(), 0o644)
    replace(places[0] / "giggles_single_run.pth", b"import giggles_single_run\n", 0o644)


def _boxed(argv: list[str], environment: dict[str, str], writable: list[Path]) -> Outcome:
    try:
        return box.run_boxed(argv, environment, writable, seconds=_INSTALL_SECONDS)
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
