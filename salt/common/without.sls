# A droplet that no longer has a role no longer does its work: no second nightly job, no site of yesterday, no watch that nobody keeps.
# What lies there (clips, keys, certificates, records) stays; so does hardening, which nobody takes back.
{%- from "map.jinja" import giggles with context %}
{%- set units = {
  "nightly": ["giggles-nightly.service"],
  "web": ["giggles-certbot.timer", "giggles-certbot.service"],
  "backup": ["giggles-backup.timer", "giggles-backup.service", "giggles-drill.timer", "giggles-drill.service"],
  "monitoring": ["giggles-watch.path", "giggles-watch.timer", "giggles-watch.service"],
  "converge": ["giggles-converge.timer"],
} %}
{%- set gone = units | reject("in", giggles.roles) | list %}
{%- for role in gone %}

{{ role }}-units-gone:
  units.absent:
    - units: {{ units[role] | tojson }}
{%- endfor %}
{%- if "nightly" in gone %}

nightly-not-scheduled:
  file.absent:
    - name: /etc/cron.d/giggles-nightly
    - require_in:
      - units: nightly-units-gone
{%- endif %}
{#- Where it was never installed, Salt would announce for ever that it would be stopped. #}
{%- if "web" in gone and salt["file.file_exists"]("/usr/sbin/nginx") %}

nginx-does-not-run:
  service.dead:
    - name: nginx
    - enable: False
{%- endif %}
