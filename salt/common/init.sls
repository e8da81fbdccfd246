include:
  - common.validate
