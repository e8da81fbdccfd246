# Whether the app's database insists on a second factor, asked once a day and whenever the setting changes.
{%- from "map.jinja" import giggles with context %}
include:
  - app.folders

second-factor-enforced:
  supabase.second_factor:
    - enforced: {{ giggles.app.second_factor | tojson }}
    - require:
      - file: folder-/var/lib/giggles
