include:
  - common.failures
  - vault.volume
  - vault.folders
  - vault.units
