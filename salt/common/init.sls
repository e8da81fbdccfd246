include:
  - common.builders
  - common.validate
  - common.minion
