{% from "map.jinja" import giggles with context %}
include:
  - hardening.guard

firewall-installed:
  pkg.installed:
    - pkgs: [ufw, iptables]

firewall-exact:
  ufw.exactly:
    - rules:
      - {action: limit, port: 22, proto: tcp, comment: ssh}
{%- if "web" in giggles.roles %}
      - {action: allow, port: 80, proto: tcp, comment: http}
      - {action: allow, port: 443, proto: tcp, comment: https}
{%- endif %}
    - require:
      - pkg: firewall-installed

# Restarted, it would let everything through for a moment.
firewall-unit-unaltered:
  units.unaltered:
    - units: [ufw.service]
    - restart: False

# The unit that loads the rules when the machine starts.
firewall-starts:
  units.running:
    - name: ufw.service
    - require:
      - ufw: firewall-exact
