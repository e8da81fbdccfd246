{%- from "map.jinja" import giggles with context %}
base:
  '*': {{ (["common"] + giggles.roles) | tojson }}
