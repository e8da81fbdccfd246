#!quiet_yaml
# What only the production droplet chooses. Later files win: giggles.sls, then this one, then droplet.sls.
giggles:
  environment: production
#  converge:
#    branch: production    # it takes a commit when that branch is moved on: docs/STAGING.md
#  domain: giggles.example.com
#  aliases: [www.giggles.example.com]
