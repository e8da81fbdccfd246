include:
  - vault.volume
  - vault.folders
  - vault.units
