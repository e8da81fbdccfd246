include:
  - common.builders
  - common.validate
  - common.minion
  - common.pushed
  - common.without
  - common.expected
  - common.failures
