include:
  - common.failures
  - monitoring.settings
  - monitoring.mail
  - monitoring.pings
  - monitoring.watch
