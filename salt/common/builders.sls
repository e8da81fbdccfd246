# Who may run a compiler besides root. dpkg refuses to work while one of its overrides names a group that does not exist, so
# the group comes before everything that installs packages.
builders-exist:
  group.present:
    - name: giggles-build
    - system: True
    - order: first
