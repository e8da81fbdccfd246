include:
  - common.validate
  - common.minion
