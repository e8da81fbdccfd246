include:
  - common.failures
  - nightly.job
  - nightly.schedule
