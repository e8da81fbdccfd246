include:
  - common.failures
  - converge.units
