{% from "map.jinja" import giggles with context %}
{% from "hardening/second_factor.jinja" import demanded with context %}
# Accounts, ssh and firewall are one transaction: noted before, proved by a real login after, put back as a whole if that fails.
include:
  - hardening.accounts
  - hardening.ssh
  - hardening.firewall

login-guarded:
  login.guarded:
    - admin: {{ giggles.admin.name }}
    - keys: {{ giggles.admin.ssh_keys | tojson }}
    - second_factor: {{ giggles.hardening.ssh_second_factor }}
    - admin_password: {{ giggles.admin.sudo_password }}
    - order: first
    - failhard: True

# require_any: after the last state of each leaf, however it ended. Named one by one, since to Salt an included sls is a
# part of the one that includes it, and this one is included by all three.
login-proven:
  login.proven:
    - admin: {{ giggles.admin.name }}
    - with_sudo: {{ not giggles.admin.sudo_password }}
    - second_factor: {{ demanded }}
    - require_any:
      - login: login-guarded
      - login: nobody-else-has-power
      - units: ssh-runs
      - units: firewall-starts
