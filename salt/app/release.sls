{%- from "map.jinja" import giggles with context %}
include:
  - app.packages
  - app.account
  - app.environment
  - app.units
  - app.logs

release-live:
  giggles.release:
    - repository: {{ giggles.app.repository | tojson }}
    - ref: {{ giggles.app.ref | tojson }}
    - subdirectory: {{ giggles.app.subdirectory | tojson }}
    - python: {{ giggles.app.python | tojson }}
    - requirements: {{ giggles.app.requirements | tojson }}
    - constraints: {{ giggles.app.constraints | tojson }}
    - module: {{ giggles.app.module | tojson }}
    - keep: {{ giggles.app.keep_releases }}
    - require:
      - pkg: app-packages-installed
      - user: account-giggles-build
      - file: app-environment
      - file: process-environment
      - file: unit-giggles.socket
      - file: unit-giggles.service
      - file: web-log-private
