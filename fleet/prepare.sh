#!/bin/sh
# Gives a droplet this project's tree at one commit, and Salt. Made by fleet/pack, which puts the tree behind the last line; started by
# salt-ssh on the droplet, as root or as somebody who may become it without a password.
set -eu
commit=@COMMIT@
if [ "$(id -u)" != 0 ]; then
  exec sudo -n /bin/sh "$0" "$@"
fi
tree=/srv/giggles-salt
say() { printf '%s\n' "prepare: $*" >&2; }

# One run of states at a time, and none on a tree that changes.
waited=0
while systemctl show --property=ActiveState --value giggles-converge.service 2>/dev/null | grep -q activating; do
  [ "$waited" -lt 600 ] || { say "This droplet has been converging by itself for ten minutes, so its tree was left alone. See journalctl -u giggles-converge, then run this again."; exit 75; }
  sleep 2
  waited=$((waited + 2))
done

if [ "$(git -C "$tree" rev-parse HEAD 2>/dev/null)" != "$commit" ] || [ -n "$(git -C "$tree" status --porcelain 2>/dev/null)" ]; then
  rm -rf "$tree.new"
  mkdir -m 0755 "$tree.new"
  if ! tail -n +@LINES@ "$0" | tar --extract --gzip --no-same-owner --directory "$tree.new"; then
    rm -rf "$tree.new"
    say "The tree could not be unpacked, and the one that was here is still in place. Look whether the disk is full (df /srv), then run this again."
    exit 1
  fi
  if [ -e "$tree" ]; then
    # Edits on the droplet are in no commit; they are not thrown away, but they are not applied either.
    if [ -n "$(git -C "$tree" status --porcelain 2>/dev/null)" ]; then
      rm -rf "$tree.before"
      cp -a "$tree" "$tree.before"
      say "The tree on this droplet had edits that are in no commit. They are in $tree.before (git -C $tree.before status), and not applied."
    fi
    mv "$tree" "$tree.old"
  fi
  mv "$tree.new" "$tree"
  rm -rf "$tree.old"
fi
wanted=$(cat "$tree/requirements/salt.txt" "$tree/requirements/uv.txt" "$tree/bootstrap.sh" | sha256sum)
if [ "$(cat /opt/salt/prepared 2>/dev/null)" != "$wanted" ] || ! /opt/salt/current/bin/salt-call --version >/dev/null 2>&1; then
  "$tree/bootstrap.sh" --runtime-only --non-interactive >&2
  printf '%s\n' "$wanted" > /opt/salt/prepared
fi
exit 0
