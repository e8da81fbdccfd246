{% from "map.jinja" import giggles with context %}
# Accounts, ssh and firewall are one transaction: noted before, proved by a real login after, put back as a whole if that fails.
include:
  - hardening.accounts
  - hardening.ssh
  - hardening.firewall

login-guarded:
  login.guarded:
    - admin: {{ giggles.admin.name }}
    - keys: {{ giggles.admin.ssh_keys | tojson }}
    - order: first
    - failhard: True

# require_any: after all of them, however they ended.
login-proven:
  login.proven:
    - admin: {{ giggles.admin.name }}
    - with_sudo: {{ not giggles.admin.sudo_password }}
    - require_any:
      - login: login-guarded
      - sls: hardening.accounts
      - sls: hardening.ssh
      - sls: hardening.firewall
