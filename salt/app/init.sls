include:
  - common.failures
  - app.packages
  - app.account
  - app.folders
  - app.environment
  - app.logs
  - app.units
  - app.release
  - app.running
