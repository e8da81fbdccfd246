"""
States of the Giggles app that Salt's core lacks: folders that the app owns and root repairs, the app's socket, and the
live release.

.. code-block:: yaml

    uploads-private:
      giggles.tree:
        - name: /var/lib/giggles/uploads
        - user: giggles
        - group: giggles
        - dir_mode: '0750'
        - file_mode: '0640'

    release-live:
      giggles.release:
        - repository: https://github.com/owner/giggles-cli.git
        - ref: 22319c4d0c1f0d6c7ef3b0d1d0f4c4b54f0b7a55
"""

import grp
import os
import pwd
import shutil
import stat
from pathlib import Path

from gigglekit.files import folder as files_folder
from gigglekit.files import tree as files_tree
from gigglekit.release import droplet, live, pin
from gigglekit.release.errors import ReleaseError
from gigglekit.release.settings import Layout, Settings
from gigglekit.release.switching import Course
from salt.exceptions import SaltInvocationError

__virtualname__ = "giggles"


def __virtual__():
    return __virtualname__


def _mode(name, value):
    text = str(value)
    if not text or len(text) > 4 or set(text) - set("01234567"):
        raise SaltInvocationError(f"{name} is {value!r}; give an octal mode in quotes, such as '0750'.")
    return int(text, 8)


def tree(name, user, group, dir_mode="0750", file_mode="0640", limit=50, skip=()):
    """
    Every folder and file at and below a folder has one owner, one group, and one mode each.

    Links are neither followed nor changed. A file with several names, a device, a socket, a FIFO or another file system
    mounted below is left alone; if it is not as wanted, the state fails and names it.

    name
        The folder.
    user, group
        Owner and group, by name.
    dir_mode, file_mode
        Octal modes, in quotes.
    limit
        How many paths are named in the changes; all are counted.
    skip
        Names directly below the folder that other states look after.

    .. code-block:: yaml

        uploads-private:
          giggles.tree:
            - name: /var/lib/giggles/uploads
            - user: giggles
            - group: giggles
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    test = __opts__["test"]
    modes = _mode("dir_mode", dir_mode), _mode("file_mode", file_mode)
    try:
        wanted = files_tree.Wanted(pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid, *modes)
        report = files_tree.repair(Path(name), wanted, limit=int(limit), dry_run=test, skip=tuple(skip))
    except (KeyError, FileNotFoundError) as error:
        if test:
            ret["comment"] = f"{name} or its owner {user}:{group} does not exist yet; nothing in it can be wrong."
            return ret
        ret["result"] = False
        ret["comment"] = (
            f"{name} cannot be checked, since it or its owner {user}:{group} does not exist ({error}). Apply the "
            "states that create them first: salt-call state.apply app.folders."
        )
        return ret
    except OSError as error:
        ret["result"] = False
        ret["comment"] = (
            f"{name} cannot be checked: {error.strerror} ({error.filename or name}). If it is a symbolic link, put the "
            "folder itself in its place; else look at the disk with dmesg, then apply again."
        )
        return ret
    if report.repaired_count:
        ret["changes"] = {entry.path: {"old": entry.found, "new": entry.wanted} for entry in report.repaired}
        more = report.repaired_count - len(report.repaired)
        if more:
            ret["changes"]["and more"] = {"old": f"{more} further paths", "new": "not listed"}
        ret["comment"] = f"{report.repaired_count} of {report.seen} paths {'would be' if test else 'were'} put right."
        ret["result"] = None if test else True
    else:
        ret["comment"] = f"All {report.seen} paths are as they should be."
    if report.refused_count:
        ret["result"] = False
        ret["comment"] += (
            f" {report.refused_count} were left alone, since changing them could change something elsewhere: "
            f"{'; '.join(report.refused[:5])}. Find out who made them, then remove or replace them."
        )
    return ret


def folder(name, user, group, mode="0750"):
    """
    A folder exists inside a folder that somebody else may write, with its owner, group and mode.

    ``file.directory`` changes a path, and whoever may write the folder above can put a link there in between. This state
    opens it once without following links and changes what it opened. A link or a file in its place is left there, and the
    state fails.

    name
        The folder. The one above has to exist.
    user, group
        Owner and group, by name.
    mode
        Octal mode, in quotes.

    .. code-block:: yaml

        folder-/var/lib/giggles/uploads/clips:
          giggles.folder:
            - name: /var/lib/giggles/uploads/clips
            - user: giggles
            - group: giggles
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "The folder is as it should be."}
    test = __opts__["test"]
    octal = _mode("mode", mode)
    try:
        wanted = files_folder.Wanted(pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid, octal)
        found = files_folder.present(Path(name), wanted, dry_run=test)
    except (KeyError, FileNotFoundError) as error:
        # On a bare machine, the states before this one would make what it needs.
        found = files_folder.MISSING
        if not test:
            ret["result"] = False
            ret["comment"] = (
                f"{name} cannot be made, since the folder above or its owner {user}:{group} does not exist ({error}). "
                "Apply the states that create them first: salt-call state.apply app.folders."
            )
            return ret
    except files_folder.NotAFolderError as error:
        ret["result"] = False
        ret["comment"] = (
            f"{error}, and a folder belongs there. It was left alone, since only somebody who may write the folder "
            "above can have put it there: the app, or an administrator who moved the data. Find out who; move the data "
            "back if there is any, remove what is there, then apply again."
        )
        return ret
    except OSError as error:
        ret["result"] = False
        ret["comment"] = f"{name} cannot be made ({error.strerror}). Look at the disk with df and dmesg, then apply again."
        return ret
    if found:
        changed = {"directory": "new"} if found == files_folder.MISSING else {"old": found, "new": str(wanted)}
        ret["changes"] = {name: changed}
        ret["result"] = None if test else True
        ret["comment"] = f"The folder {'would be' if test else 'was'} {'made' if found == files_folder.MISSING else 'put right'}."
    return ret


def socket(name, user, group, mode="0660"):
    """
    A UNIX socket belongs to whom it should. While it does not exist, its unit is what makes it, with the right owner.

    name
        Path of the socket, in a folder that only root can write.
    user, group, mode
        Owner, group and octal mode.

    .. code-block:: yaml

        app-socket-private:
          giggles.socket:
            - name: /run/giggles.sock
            - user: giggles
            - group: www-data
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "The socket is as it should be."}
    octal = _mode("mode", mode)
    try:
        found = Path(name).lstat()
        owner = pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
    except FileNotFoundError:
        ret["comment"] = f"{name} does not exist yet."
        return ret
    except KeyError as error:
        ret["result"] = None if __opts__["test"] else False
        ret["comment"] = f"{name} cannot be given to {user}:{group}, since one of them does not exist ({error})."
        return ret
    if not stat.S_ISSOCK(found.st_mode):
        ret["result"] = False
        ret["comment"] = f"{name} is no socket. Remove it and run systemctl restart giggles.socket giggles.service."
        return ret
    was = f"{found.st_uid}:{found.st_gid} {stat.S_IMODE(found.st_mode):04o}"
    wanted = f"{owner[0]}:{owner[1]} {octal:04o}"
    if was == wanted:
        return ret
    ret["changes"] = {name: {"old": was, "new": wanted}}
    if __opts__["test"]:
        ret["result"] = None
        ret["comment"] = f"{name} would be put right."
        return ret
    os.lchown(name, *owner)
    Path(name).chmod(octal)
    ret["comment"] = f"{name} was put right."
    return ret


def release(
    name,
    repository,
    ref,
    subdirectory="",
    python="system",
    requirements="requirements.txt",
    constraints=(),
    module="src.main:app",
    keep=3,
    health_seconds=180,
    domain=None,
    trial=True,
    gate_seconds=10,
    migration=None,
    migration_dump=True,
    backup=False,
):
    """
    The app's release of a commit, tag or branch is live: built, unchanged since, named by /opt/giggles/current, and run
    by giggles.service, which answers.

    What is missing or was changed by hand is built anew beside the running release, tried, switched to, and taken back if
    it is not well. A wanted release that is live costs no network if ``ref`` is a commit, and one question to the
    repository otherwise. A release that ``giggles.deploy`` or ``giggles.rollback`` has put live stays so until ``ref``
    names another one.

    name
        Not used; any text.
    repository
        Address that git fetches from, without credentials. An SSH key in /etc/giggles/keys/deploy or a token in
        /etc/giggles/keys/repository-token is used if there is one.
    ref
        A commit with all its 40 digits, a tag or a branch.
    subdirectory
        Folder of the app in the repository.
    python
        ``system``, a version such as ``3.11``, or a range such as ``>=3.9,<3.12``.
    requirements
        Requirements file in the app's folder; with hashes in it, everything must match one.
    constraints
        Further constraints, for requirements without hashes.
    module
        What uvicorn serves.
    keep
        How many releases to keep, at least 2.
    health_seconds
        How long the app may take to answer after a start.
    domain
        Name that nginx serves the app under. With one, a release is judged through nginx as well.
    trial
        Whether a release is started beside the running one, and judged there, before it gets any request.
    gate_seconds
        How long a release has to be well, there and again once it is live.
    migration
        Command that makes the database ready for a release; run once for each commit, before it goes live.
    migration_dump
        Whether the database has to be saved into the bucket before that.
    backup
        Whether there is a bucket.

    .. code-block:: yaml

        release-live:
          giggles.release:
            - repository: https://github.com/owner/giggles-cli.git
            - ref: main
            - subdirectory: laughter-detector
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    test = __opts__["test"]
    layout = Layout()
    surroundings = droplet.surroundings(
        domain=domain, gate_seconds=float(gate_seconds), dump=_dump if backup else None, health_seconds=float(health_seconds)
    )
    try:
        settings = Settings(
            repository=repository or "",
            ref=str(ref or ""),
            subdirectory=subdirectory or "",
            python=str(python),
            requirements=requirements,
            constraints=tuple(constraints or ()),
            module=module,
            keep=int(keep),
            trial=bool(trial),
            gate_seconds=float(gate_seconds),
            migration=migration or "",
            migration_dump=bool(migration_dump),
        )
        wanted, chosen = pin.wanted(settings, layout)
        if test and shutil.which("git") is None:
            # A bare machine: what is to come is known, and there is nothing yet to ask the repository with.
            ret["result"] = None
            ret["changes"] = {"release": {"old": layout.live(), "new": settings.ref}}
            ret["comment"] = f"The release {settings.ref} would be built and made live."
            return ret
        plan = looked = live.examine(wanted, layout, surroundings)
        if plan.unchanged:
            ret["comment"] = f"The release {plan.commit} is live and as it was built{_instead(chosen)}."
            if not test:
                pin.forget_over(settings, layout)
            return ret
        if test:
            ret["result"] = None
            ret["changes"] = _release_changes(plan)
            ret["comment"] = f"The release {plan.commit} would be made live."
            return ret
        course = Course()
        plan = live.apply(settings, layout, surroundings, course=course)
        _, chosen = pin.wanted(settings, layout)
    except ReleaseError as error:
        ret["result"] = False
        ret["comment"] = str(error)
        return ret
    except OSError as error:
        ret["result"] = False
        ret["comment"] = (
            f"{error.filename or layout.root}: {error.strerror}. What was live still is; look at df and dmesg, then apply again."
        )
        return ret
    if course.seconds or course.notes:
        ret["changes"] = _release_changes(looked if plan.unchanged else plan)
    ret["comment"] = " ".join([f"The release {plan.commit} is live and answers{_instead(chosen)}.", *course.notes])
    return ret


def _release_changes(plan):
    changes = {"because": list(plan.reasons)}
    if plan.switch:
        changes["release"] = {"old": plan.live, "new": plan.commit}
    if plan.drift:
        changes["repaired"] = list(plan.drift)
    return changes


def _instead(chosen):
    if chosen is None:
        return ""
    return f", as giggles.{chosen.how} has chosen ({chosen.since}, {chosen.by}) instead of the pillar's {chosen.overrides}"


def _dump():
    # Most runs have nothing to save, and the backup takes long to import.
    from gigglekit.operations import migrating

    return migrating.save()
