include:
  - common.builders
  - common.validate
  - common.minion
  - common.pushed
  - common.expected
  - common.failures
