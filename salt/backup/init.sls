include:
  - common.failures
  - backup.settings
  - backup.packages
  - backup.units
  - backup.credentials
  - backup.bucket
