# Whether the bucket takes and gives what the backup needs, asked once a day and whenever the settings change.
include:
  - backup.settings

backup-usable:
  backup.usable:
    - require:
      - file: backup-settings
