{%- from "map.jinja" import giggles with context %}
base:
  '*': {{ giggles.roles | tojson }}
