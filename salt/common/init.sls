include:
  - common.builders
  - common.validate
  - common.minion
  - common.expected
  - common.failures
