include:
  - common.failures
  - web.nginx
{%- from "map.jinja" import giggles with context %}
{%- if giggles.domain %}
  - web.certbot
  - web.certificate
  - web.renewal
{%- endif %}
