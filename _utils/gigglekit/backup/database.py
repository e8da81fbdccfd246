"""The database part of the backup, from one place: dumped, loaded, erased users left out, compared with the clips."""

from __future__ import annotations

from gigglekit.backup.agreement import CrossCheck, cross_check
from gigglekit.backup.dumping import dump
from gigglekit.backup.loading import Restored, restore
from gigglekit.backup.postgresql import DatabaseError
from gigglekit.backup.replay import replay
from gigglekit.backup.scratch import scratch
from gigglekit.backup.snapshot import Dump

__all__ = ["CrossCheck", "DatabaseError", "Dump", "Restored", "cross_check", "dump", "replay", "restore", "scratch"]
