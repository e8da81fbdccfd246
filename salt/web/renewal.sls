# Renewal: twice a day certbot asks the authority whether it is time (ARI); nginx is reloaded only after a renewal.
{%- from "map.jinja" import giggles with context %}
include:
  - common.validate
  - web.certificate

{% for stage in ["pre", "post", "deploy"] %}
renewal-{{ stage }}-hooks-exact:
  file.directory:
    - name: /etc/letsencrypt/renewal-hooks/{{ stage }}
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: True
    - clean: True
{%- if stage == "deploy" %}
    - require:
      - file: renewal-reloads-nginx
{%- endif %}
{% endfor %}

renewal-reloads-nginx:
  file.managed:
    - name: /etc/letsencrypt/renewal-hooks/deploy/reload-nginx
    - source: salt://web/files/etc/letsencrypt/renewal-hooks/deploy/reload-nginx
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: True

{% for unit in ["giggles-certbot.service", "giggles-certbot.timer"] %}
{{ unit }}-installed:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://web/files/etc/systemd/system/{{ unit }}
    - template: jinja
    - context:
        ca_bundle: {{ giggles.web.acme.ca_bundle | tojson }}
    - user: root
    - group: root
    - mode: '0644'
    - follow_symlinks: False
    - check_cmd: /usr/local/lib/giggles/verify-unit {{ unit }}
    - require:
      - file: unit-verifier-installed
{% endfor %}

renewal-units-unaltered:
  units.unaltered:
    - units: [giggles-certbot.service, giggles-certbot.timer]

renewal-units-reloaded:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: giggles-certbot.service-installed
      - file: giggles-certbot.timer-installed

renewal-timer-running:
  units.running:
    - name: giggles-certbot.timer
    - require:
      - file: renewal-reloads-nginx
      - cmd: renewal-units-reloaded
    - watch:
      - file: giggles-certbot.timer-installed
