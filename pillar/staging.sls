#!quiet_yaml
# What only the staging droplet chooses; docs/STAGING.md says what it is for. Its certificate comes from Let's Encrypt's
# staging directory, which browsers do not trust and whose limits production does not share.
giggles:
  environment: staging
  web:
    acme:
      directory: https://acme-staging-v02.api.letsencrypt.org/directory
    noindex: true
#    only_from: ["203.0.113.7"]    # nobody else may open it
  backup:
    prefix: staging/    # never production's, should both share a bucket
  monitoring:
    uptimerobot: {enabled: false}    # a night without staging wakes nobody
#  domain: staging.giggles.example.com
#  app:
#    ref: main    # it may follow a branch to try things; what is promoted is a full commit in giggles.sls
