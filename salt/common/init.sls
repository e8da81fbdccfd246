include:
  - common.builders
  - common.validate
  - common.minion
  - common.failures
