"""
The encrypted volume for clips: what it lies on, the clips that were there before it, its folders and keys, and where those lie.

Where the kernel cannot encrypt folders, ``vault.formed`` says so, and the others leave the folders as they are.

.. code-block:: yaml

    vault-formed:
      vault.formed:
        - name: /var/lib/giggles/vault.img
        - size_mb: 10240

    vault-ready:
      vault.ready: []
"""

from pathlib import Path

from gigglekit.files import tree as files_tree
from gigglekit.kernel import mounts
from gigglekit.vault import device as vault_device
from gigglekit.vault.errors import VaultError
from gigglekit.vault.places import ENCRYPTED, KINDS, LOBBY, PLAIN, VAULTS, Places


def __virtual__():
    return "vault"


def formed(name, size_mb, device=None):
    """
    The volume exists: an image file of a fixed size, or a block device that was empty before. Nothing that holds data is
    ever formatted, and nothing is shrunk; an image grows with ``size_mb``.

    name
        Path of the image file.
    size_mb
        Its size in MiB.
    device
        A block device to use instead.

    .. code-block:: yaml

        vault-formed:
          vault.formed:
            - name: /var/lib/giggles/vault.img
            - size_mb: 10240
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    places = Places()
    wanted = vault_device.Wanted(Path(name), int(size_mb), device or "")
    try:
        reason = vault_device.unsupported()
        mode, before = (PLAIN if reason else ENCRYPTED), places.mode()
        if reason and (before == ENCRYPTED or device):
            raise VaultError(
                f"Clips are to lie encrypted on this droplet, and now {reason}. Nothing was changed, and the app does not start without "
                "its volume. Boot the kernel that was there before, or install what is missing, then apply again."
            )
        todo = [] if reason else vault_device.missing(wanted, places.uploads)
        if mode != before:
            ret["changes"]["mode"] = {"old": before, "new": mode}
        if todo:
            ret["changes"]["volume"] = {"old": None, "new": "; ".join(todo)}
        weaker = (
            f"Clips lie UNENCRYPTED on this droplet, and erasing a user overwrites files instead of destroying a key, since {reason}."
            if reason
            else f"The volume on {wanted.path} is as it should be."
        )
        if not ret["changes"]:
            ret["comment"] = weaker
            return ret
        if __opts__["test"]:
            ret.update(result=None, comment="The volume would be put right." if todo else weaker)
            return ret
        if todo:
            vault_device.establish(wanted)
        places.configuration.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        places.configure(mode, reason)
    except VaultError as error:
        ret.update(result=False, changes={}, comment=str(error))
        return ret
    except OSError as error:
        ret.update(result=False, comment=f"{error.filename}: {error.strerror}. Look at df and dmesg, then apply again.")
        return ret
    ret["comment"] = weaker if reason else f"The volume on {wanted.path} was put right."
    return ret


def filled(name, device, shared=False):
    """
    Clips that lie outside the volume are moved into it, with the app at work except for the moment in which the folders
    change places; what they lay in before is overwritten.

    name
        Not used; any text.
    device
        The image file or block device of the volume.
    shared
        As for ``vault.ready``.

    .. code-block:: yaml

        vault-filled:
          vault.filled:
            - device: /var/lib/giggles/vault.img
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "No clip lies outside the volume."}
    from gigglekit.vault import migrate
    from gigglekit.vault.keyring import Keyring

    places, test = Places(), __opts__["test"]
    try:
        if not _encrypted(places, test):
            return ret
        old = migrate.find(places)
        if not old.files and not old.leftover:
            return ret
        if test:
            ret.update(
                result=None, changes={"moved": old.files}, comment="Clips would be moved into the volume and overwritten where they are."
            )
            return ret
        if old.files:
            with places.locked():
                _create(Keyring(places), shared)
            migrate.copy(places, Path(device))
            migrate.start_switch()
            ret["changes"]["moved"] = old.files
        if places.before.exists():
            ret["changes"]["overwritten"] = migrate.erase_before(places)
    except VaultError as error:
        ret.update(result=False, comment=str(error))
        return ret
    except OSError as error:
        ret.update(
            result=False,
            comment=f"Clips could not be moved into the volume ({error.strerror}); those that count stay where they are. Look at df "
            f"{places.uploads.parent} and dmesg; a volume that is too small grows with giggles:vault:size_mb. Then apply again.",
        )
        return ret
    ret["comment"] = "The clips lie in the volume now, and were overwritten where they lay before."
    return ret


def ready(name, shared=False):
    """
    The mounted volume has its folders, its keys exist and are with the kernel, and receipts can be signed.

    name
        Not used; any text.
    shared
        Whether new keys begin with a share in the bucket of the backup. If the bucket does not answer, they begin without:
        ``vault.shared`` has the last word.

    .. code-block:: yaml

        vault-ready:
          vault.ready:
            - shared: True
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "Folders and keys are as they should be."}
    places, test = Places(), __opts__["test"]
    from gigglekit.vault.keyring import Keyring
    from gigglekit.vault.receipt import Receipts

    keyring, receipts = Keyring(places), Receipts(places)
    try:
        done = []
        if test and not keyring.exists():
            ret.update(result=None, changes={"keys": "new"}, comment="Keys and folders would be made.")
            return ret
        with places.locked():
            if not test and _create(keyring, shared):
                done.append("keys made")
            if receipts.prepare(dry_run=test):
                done.append("signing key made")
        if keyring.lacks_share():
            done.append("the bucket's share of the key fetched")
            if not test:
                keyring.fetch_share(_bucket())
        if _encrypted(places, test):
            done += _ready_inside(places, keyring, test)
    except (VaultError, mounts.MountError) as error:
        ret.update(result=False, comment=str(error))
        return ret
    except OSError as error:
        ret.update(result=False, comment=f"{error.filename or places.uploads}: {error.strerror}. Look at df and dmesg, then apply again.")
        return ret
    if done:
        ret["changes"] = {"put right": done}
        ret["result"] = None if test else True
        ret["comment"] = "Folders and keys would be put right." if test else "Folders and keys were put right."
    return ret


def shared(name, shared):
    """
    The key that wraps every user's key lies in two shares, one of them in the bucket of the backup, or in one on this
    droplet if there is no bucket. The bucket is asked only when that has to change.

    name
        Not used; any text.
    shared
        Whether there is a bucket.

    .. code-block:: yaml

        vault-key-shared:
          vault.shared:
            - shared: True
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    places, test = Places(), __opts__["test"]
    from gigglekit.backup.shares import open_shares
    from gigglekit.vault.keyring import Keyring
    from gigglekit.vault.share import NoBucketError

    keyring = Keyring(places)
    try:
        found = keyring.share() if keyring.exists() else None
        shares = open_shares() if shared else None
        # With test=True, what says where the bucket is may not have been written yet.
        old = f"a share in {found.place}" if found else "the whole key on this droplet"
        new = (f"a share in {shares.place}" if shares else "a share in the bucket") if shared else "the whole key on this droplet"
        if bool(found) == bool(shared) and (not found or not shares or found.place == shares.place):
            ret["comment"] = f"The key-encryption key: {old}, as it should be."
            return ret
        ret["changes"] = {"key-encryption key": {"old": old if keyring.exists() else None, "new": new}}
        if test:
            ret.update(result=None, comment="The key-encryption key would be replaced, and every key wrapped anew.")
            return ret
        if shared and shares is None:
            raise NoBucketError
        with places.locked():
            if shared:
                keyring.enable(shares)
            else:
                keyring.disable()
    except VaultError as error:
        # It may have come as far as the new ring.
        ret.update(result=False, changes={}, comment=str(error))
        return ret
    except OSError as error:
        ret.update(
            result=False, changes={}, comment=f"{error.filename or places.keys}: {error.strerror}. Look at df and dmesg, then apply again."
        )
        return ret
    ret["comment"] = "The key-encryption key was replaced, and every key wrapped anew."
    if found:
        ret["comment"] += (
            f" Its earlier share was left in {found.place}, which is not this droplet's any more: delete keys/shares/{found.id} there, in "
            "all versions."
        )
    return ret


def _bucket():
    from gigglekit.backup.shares import open_shares
    from gigglekit.vault.share import NoBucketError

    shares = open_shares()
    if shares is None:
        raise NoBucketError
    return shares


def _create(keyring, shared):
    """Have a ring of keys, if it can be with a share in the bucket from its first moment on."""
    from gigglekit.vault.share import NoBucketError, ShareUnreachableError

    if keyring.exists():
        return False
    if shared:
        try:
            return keyring.create(_bucket())
        except (NoBucketError, ShareUnreachableError):
            # A droplet is not kept from being set up by a bucket that comes later.
            pass
    return keyring.create()


def _encrypted(places, test):
    # With test=True, what ``vault.formed`` would write down is not there yet.
    return not vault_device.unsupported() if test else places.mode() == ENCRYPTED


def _ready_inside(places, keyring, test):
    from gigglekit.vault import lobby, unlock
    from gigglekit.vault.ledger import Ledger
    from gigglekit.vault.volume import mounted

    if test and not places.uploads.joinpath(VAULTS).exists():
        return ["folders made"]
    done = []
    with places.locked(), mounted(places) as volume:
        lacking = mounts.missing(str(places.uploads), vault_device.MOUNT_OPTIONS)
        if lacking:
            done.append(f"mounted {', '.join(lacking)}")
            if not test:
                mounts.remount(str(places.uploads), vault_device.MOUNT_OPTIONS)
        if unlock.locked(volume, keyring):
            done.append("unlocked")
            if not test:
                unlock.unlock(volume, keyring, Ledger(places))
        try:
            done += volume.prepare(keyring, dry_run=test)
        except VaultError:
            # Something has content and is not encrypted: a new lobby takes it in.
            if test or not lobby.renew(volume, keyring, Ledger(places), seconds=10).complete:
                raise
            done += [*volume.prepare(keyring), "what lay unencrypted in the lobby was moved into an encrypted one"]
    return done


def private(name, user, group, limit=50):
    """
    Everything in the vaults belongs to the app and nobody else can read it, and nothing lies beside them unencrypted.

    name
        Not used; any text.
    user, group
        Owner and group, by name.
    limit
        How many paths are named in the changes; all are counted.

    .. code-block:: yaml

        vaults-private:
          vault.private:
            - user: giggles
            - group: giggles
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "All vaults are as they should be."}
    places, test = Places(user=user, group=group), __opts__["test"]
    vaults = places.uploads / VAULTS
    if not vaults.is_dir():
        return ret
    try:
        owner = places.owner()
        wanted = files_tree.Wanted(owner.uid, owner.gid, owner.folder_mode, owner.file_mode)
        around = files_tree.Wanted(0, owner.gid, owner.folder_mode, owner.file_mode)
        refused, more = [f"{path}, which is not encrypted" for path in _strangers(places)], 0
        for vault in sorted(entry for entry in vaults.iterdir() if entry.is_dir() and not entry.is_symlink()):
            kinds = [kind for kind in KINDS if (vault / kind).is_dir() and not (vault / kind).is_symlink()]
            reports = [files_tree.repair(vault / kind, wanted, limit=limit, dry_run=test) for kind in kinds]
            reports.append(files_tree.repair(vault, around, limit=limit, dry_run=test, skip=kinds))
            for report in reports:
                refused += report.refused
                for entry in report.repaired[: max(0, limit - len(ret["changes"]))]:
                    ret["changes"][entry.path] = {"old": entry.found, "new": entry.wanted}
                more += report.repaired_count
    except VaultError as error:
        ret.update(result=None if test else False, comment=str(error))
        return ret
    except OSError as error:
        ret.update(result=False, comment=f"{error.filename or vaults}: {error.strerror}. Look at dmesg, then apply again.")
        return ret
    if more:
        ret["result"] = None if test else True
        ret["comment"] = f"{more} paths {'would be' if test else 'were'} put right."
    if refused:
        ret["result"] = False
        ret["comment"] += f" {len(refused)} were left alone: {'; '.join(refused[:5])}. Find out who made them, then remove or replace them."
    return ret


def _strangers(places):
    """Return what lies in the root of the volume, where nothing is encrypted, and does not belong there."""
    from gigglekit.vault.volume import BESIDE

    known = {VAULTS, BESIDE, "lost+found", *LOBBY}
    return sorted(str(entry) for entry in places.uploads.iterdir() if entry.name not in known)
