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
    - health_seconds: {{ giggles.app.start_seconds }}
    - domain: {{ (giggles.domain if "web" in giggles.roles else none) | tojson }}
    - trial: {{ giggles.app.trial | tojson }}
    - gate_seconds: {{ giggles.app.gate_seconds }}
    - migration: {{ giggles.app.migration | tojson }}
    - migration_dump: {{ giggles.app.migration_dump | tojson }}
    - backup: {{ ("backup" in giggles.roles and giggles.backup.bucket is not none) | tojson }}
    - require:
      - pkg: app-packages-installed
      - user: account-giggles-build
      - file: app-environment
      - file: process-environment
      - file: unit-giggles.socket
      - file: unit-giggles.service
      - file: web-log-private
