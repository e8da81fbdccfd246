# certbot in a virtual environment of its own: the distribution's is too old to renew by the authority's word (ARI).
{%- from "map.jinja" import giggles with context %}

distribution-certbot-removed:
  pkg.removed:
    - pkgs: [certbot, python3-certbot, python3-certbot-nginx]

certbot-lock:
  file.managed:
    - name: /opt/certbot/certbot.txt
    - source: salt://web/files/opt/certbot/certbot.txt
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True

certbot-installed:
  certbot.installed:
    - name: /opt/certbot
    - lock: /opt/certbot/certbot.txt
    - version: '{{ giggles.os.python }}'
    - require:
      - file: certbot-lock
