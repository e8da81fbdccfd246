include:
  - app.folders

# Both hold secrets: show_changes keeps their difference out of the state's return, and with it out of every log.
app-environment:
  file.managed:
    - name: /opt/giggles/.env
    - source: salt://app/files/opt/giggles/env.py
    - template: py
    - user: giggles
    - group: giggles
    - mode: '0600'
    - follow_symlinks: False
    - show_changes: False
    - require:
      - file: folder-/opt/giggles

# One route reads SUPABASE_ANON_KEY from the process environment; in .env the app would refuse it. Read by systemd as root.
process-environment:
  file.managed:
    - name: /opt/giggles/process.env
    - source: salt://app/files/opt/giggles/process_env.py
    - template: py
    - user: root
    - group: root
    - mode: '0600'
    - follow_symlinks: False
    - show_changes: False
    - require:
      - file: folder-/opt/giggles
