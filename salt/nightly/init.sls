include:
  - nightly.job
  - nightly.schedule
