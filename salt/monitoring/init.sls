{%- from "map.jinja" import giggles with context %}
include:
  - common.failures
  - monitoring.settings
  - monitoring.mail
  - monitoring.pings
  - monitoring.watch
{#- Until what was made at UptimeRobot is removed again, this droplet keeps the settings to do so. #}
{%- if giggles.monitoring.uptimerobot.enabled or salt["file.file_exists"]("/etc/giggles/uptimerobot.json") %}
  - monitoring.uptimerobot
{%- endif %}
