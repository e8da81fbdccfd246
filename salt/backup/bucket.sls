# The settings of the bucket itself, looked at once a day.
include:
  - backup.credentials

backup-bucket-kept:
  backup.bucket_kept:
    - require:
      - backup: backup-usable
