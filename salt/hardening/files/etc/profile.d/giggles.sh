# Managed by Salt (salt/hardening/baseline.sls). For login shells.
umask 027
ulimit -c 0
# A prompt that nobody answers for half an hour is left.
export TMOUT=1800
