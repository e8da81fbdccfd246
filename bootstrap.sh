#!/usr/bin/env bash
# Turns a bare Debian 12/13 or Ubuntu 22.04/24.04 droplet into a converged Giggles server, and may be run again at any
# time. `./bootstrap.sh --help` says how; docs/DEPLOYMENT.md tells the whole story.
set -euo pipefail
# Accounts of the droplet have to read what is laid here, and our own shells keep files to whoever makes them (027).
umask 022

readonly HOME_OF_TREE=/srv/giggles-salt
readonly SALT_HOME=/opt/salt
readonly UV_HOME=/opt/giggles-tools/uv
readonly DROPLET_PILLAR=/etc/giggles/pillar/droplet.sls
# The public half of the recovery kit, which is all of it that stays on the droplet.
readonly KIT_PUBLIC=/etc/giggles/keys/kit.json
# Packages 1 GB, swap 3 GB, one release with TensorFlow 2 GB and uv's cache of it 2 GB, Salt and slack 1 GB. The volume for
# clips comes on top of it.
readonly MIN_DISK_MB=9000
readonly DEFAULT_VOLUME_MB=10240
readonly MIN_MEMORY_MB=1700
readonly MAX_CLOCK_SKEW=300
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here

usage() {
  cat <<'TEXT'
Usage: bootstrap.sh [OPTION]...            make this machine a Giggles server (as root, on the droplet)
       bootstrap.sh --trial [OPTION]...    build a throwaway droplet on this machine instead (see trial/droplet up --help)

  --domain NAME           the name people will open, e.g. giggles.example.org
  --admin-key KEY|FILE    public SSH key of the administrator, or a file with some (default: the keys root already has)
  --acme-email ADDRESS    where Let's Encrypt writes about the certificate
  --repository URL        Git repository of the app
  --ref COMMIT            the commit (or tag) of the app to run
  --environment NAME      production (default) or staging
  --backup-bucket NAME    bucket for the encrypted backup (docs/BACKUP_AND_RESTORE.md says how to make it); without one
                          there is no backup
  --backup-endpoint URL   its S3 interface, e.g. https://s3.eu-central-003.backblazeb2.com
  --backup-region NAME    its region; taken from an endpoint of Backblaze
  --backup-key-id ID      keyID of the application key for it; the key itself is a secret, see below
  --answers FILE          all of the above and the secrets as YAML, in the shape of docs/PILLAR.md
  --shred-answers         destroy the file of --answers as soon as its content has been taken over
  --skip-dns-check        go on although the domain does not point here yet (HTTPS then starts with a placeholder)
  --check                 only check, change nothing
  --bundle FILE|URL       take Salt, and the Python that it runs on, from a bundle (docs/DEPLOYMENT.md, "Without any Python"); where it
                          cannot run, Salt is installed from the lock file as without this, and that is said
  --sha256 HEX            the sum of the bundle; without the right one nothing is changed
  --no-apply              install Salt and keep the answers, but converge nothing: for a look with test=True first
  --runtime-only          install what a droplet needs that is told what to be from elsewhere (docs/FLEET.md): this repository
                          and Salt, no answers; converge nothing
  --non-interactive       never ask; what is missing is an error
  --help

Secrets are never taken from the command line, where every process could read them. They come from --answers, from
the environment (GIGGLES_SUPABASE_URL, GIGGLES_SUPABASE_KEY, GIGGLES_SUPABASE_SERVICE_ROLE_KEY, GIGGLES_DATABASE_URL,
GIGGLES_BACKUP_APPLICATION_KEY), from questions on the terminal, or are generated (SECRET_KEY, ENCRYPTION_KEY). What is known already is not asked again.
TEXT
}

# --- saying things ---------------------------------------------------------------------------------------------------

say() { printf '%s\n' "$*"; }

# One paragraph: what happened, why, what to do.
die() {
  printf '\nbootstrap: %s\n' "$*" | fold -s -w 110 >&2
  exit 1
}

problems=()
problem() { problems+=("$*"); }

# Runs a step quietly; its output is shown only when it fails.
# step TITLE WHAT-IF-IT-FAILS COMMAND...: never to be called in a condition, in which bash ignores errors, those of a subshell
# that asks for set -e too.
step() {
  local title=$1 otherwise=$2 started=$SECONDS output
  shift 2
  output=$(mktemp)
  printf '  %-46s' "$title"
  (set -e; "$@") >"$output" 2>&1 </dev/null &
  if wait $!; then
    printf 'done %4ds\n' "$((SECONDS - started))"
    rm -f "$output"
  else
    printf 'FAILED\n\n' && tail -n 40 "$output" >&2
    rm -f "$output"
    die "$otherwise"
  fi
}

# --- what was asked ----------------------------------------------------------------------------------------------------

domain=${GIGGLES_DOMAIN:-} domain_given='' admin_key=${GIGGLES_ADMIN_KEY:-} answers='' environment=${GIGGLES_ENVIRONMENT:-}
skip_dns=no shred_answers=no check_only=no apply=yes runtime_only=no interactive=yes bundle='' bundle_sha256='' fetched='' runtime_said=''
settings=()
# Looked at here, and handed on as they turn out: a key may be named by its file.
unset GIGGLES_DOMAIN GIGGLES_ADMIN_KEY GIGGLES_ENVIRONMENT
[ -t 0 ] || interactive=no

# Backblaze shows the endpoint of a bucket without it.
with_scheme() { case $1 in *://*) echo "$1" ;; *) echo "https://$1" ;; esac; }

needs_value() { [ "$#" -ge 2 ] && [ -n "$2" ] || die "$1 needs a value. See bootstrap.sh --help."; }

if [ "${1:-}" = --trial ]; then
  shift
  exec "$here/trial/droplet" up "$@"
fi
while [ "$#" -gt 0 ]; do
  case $1 in
    --domain) needs_value "$@"; domain=$2; shift ;;
    --admin-key) needs_value "$@"; admin_key=$2; shift ;;
    --acme-email) needs_value "$@"; settings+=("web.acme.email=$2"); shift ;;
    --repository) needs_value "$@"; settings+=("app.repository=$2"); shift ;;
    --ref) needs_value "$@"; settings+=("app.ref=$2"); shift ;;
    --environment) needs_value "$@"; environment=$2; shift ;;
    --backup-bucket) needs_value "$@"; settings+=("backup.bucket=$2"); shift ;;
    --backup-endpoint) needs_value "$@"; settings+=("backup.endpoint=$(with_scheme "$2")"); shift ;;
    --backup-region) needs_value "$@"; settings+=("backup.region=$2"); shift ;;
    # By its variable, since whatever lies beside a secret in the pillar is taken from no argument.
    --backup-key-id) needs_value "$@"; export GIGGLES_BACKUP_KEY_ID=$2; shift ;;
    --backup-application-key*) die "The application key is a secret, and every user of a machine can read the arguments of its processes. Give it in the variable GIGGLES_BACKUP_APPLICATION_KEY, in a file with --answers, or at the prompt. As it may have been seen now, replace it first." ;;
    --answers) needs_value "$@"; answers=$2; shift ;;
    --shred-answers) shred_answers=yes ;;
    --bundle) needs_value "$@"; bundle=$2; shift ;;
    --sha256) needs_value "$@"; bundle_sha256=${2,,}; shift ;;
    --skip-dns-check) skip_dns=yes ;;
    --check) check_only=yes ;;
    --no-apply) apply=no ;;
    --runtime-only) runtime_only=yes ;;
    --non-interactive) interactive=no ;;
    --help|-h) usage; exit 0 ;;
    *) usage >&2; die "The option '$1' is not known. The ones above are." ;;
  esac
  shift
done

# --- checks: nothing is changed here -------------------------------------------------------------------------------

# The first value of a plain `key: value` line in the files that may hold it; the whole pillar is validated properly
# as soon as there is a YAML parser, this only has to be good enough to check the network with. Finding nothing is an
# answer too: who asks, decides. With a second argument, only what stands in a section of that name counts.
look_up() {
  local key=$1 section=${2:-} file
  for file in "$answers" "$DROPLET_PILLAR" "$here/pillar/${environment:-production}.sls" "$here/pillar/giggles.sls"; do
    [ -n "$file" ] && [ -r "$file" ] || continue
    lines_of "$file" "$section" |
      sed -nE "s/^([[:space:]]*|.*[{,][[:space:]]*)\"?$key\"?:[[:space:]]*[\"']?([^\"'{[[:space:],}#]+).*/\2/p" | grep -vx null | head -n 1 && return
  done 2>/dev/null || true
}

# The lines of a file, or those of one section of it: what is indented deeper than its name, or in braces after it.
lines_of() {
  awk -v name="$2" '
    name == "" { print; next }
    /^[ \t]*(#|$)/ { next }
    { indent = match($0, /[^ ]/) }
    inside && indent > depth { print; next }
    { inside = 0 }
    match($0, "(^ *|[{,] *)\"?" name "\"?:") {
      rest = substr($0, RSTART + RLENGTH)
      if (rest ~ /^ *[{].*[}]/) { sub(/[}].*/, "", rest) } else { inside = 1; depth = indent }
      print rest
    }' "$1"
}

check_system() {
  local id='' version=''
  [ "$(id -u)" = 0 ] || problem "It must run as root, since it sets up the whole machine. Run it again as: sudo $0"
  if [ -r /etc/os-release ]; then
    # shellcheck source=/dev/null
    id=$(. /etc/os-release && echo "${ID:-}") version=$(. /etc/os-release && echo "${VERSION_ID:-}")
  fi
  case $id-$version in
    debian-12|debian-13|ubuntu-22.04|ubuntu-24.04) ;;
    *) problem "This machine runs ${id:-an unknown system} ${version:-}; Debian 12 or 13 or Ubuntu 22.04 or 24.04 is needed. Create the droplet with one of those images." ;;
  esac
  case $(uname -m) in
    x86_64|aarch64) ;;
    *) problem "The processor is a $(uname -m); only x86_64 and aarch64 are supported. Choose another droplet type." ;;
  esac
  [ -d /run/systemd/system ] || problem "systemd is not running here (a container or a chroot?), and every service of this server is a systemd unit. Use a droplet, or try ./bootstrap.sh --trial on this machine."
  command -v python3 >/dev/null || problem "python3 is missing, which every supported image brings along. Install it with: apt-get install python3"
  local free memory volume needed
  # A second run needs less: what takes the room is there already.
  free=$(df --output=avail -m / | tail -n 1 | tr -d ' ')
  volume=0
  if [ -z "$(look_up device)" ] && [ ! -e /var/lib/giggles/vault.img ]; then
    volume=$(look_up size_mb)
    # What is no number is refused with the rest of the pillar, and is nothing to reckon with.
    [[ $volume =~ ^[0-9]{1,9}$ ]] || volume=$DEFAULT_VOLUME_MB
  fi
  needed=$((MIN_DISK_MB + 10#$volume))
  if [ "$free" -lt "$needed" ] && [ ! -L /opt/giggles/current ]; then
    problem "The root disk has $free MB free and $needed MB are needed, $volume of them for the encrypted volume with clips. Remove what is not needed, use a larger disk, or choose a smaller giggles:vault:size_mb."
  elif [ "$free" -lt 500 ]; then
    problem "The root disk has only $free MB free; 500 MB are needed to converge. See 'The disk is full' in docs/TROUBLESHOOTING.md."
  fi
  memory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
  [ "$memory" -ge "$MIN_MEMORY_MB" ] || problem "The machine has $memory MB of memory and the app needs $MIN_MEMORY_MB MB (its model alone takes 700 MB). Resize the droplet to 2 GB."
}

check_package_lists() {
  # Refreshing the lists of what could be installed installs nothing; it is the one honest test of the mirror.
  local output waited=0
  until output=$(apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o APT::Update::Error-Mode=any update 2>&1 </dev/null); do
    # A machine in its first minutes updates its own lists, and apt does not wait for that lock by itself.
    if grep -q 'Could not get lock' <<<"$output" && [ "$waited" -lt 300 ]; then
      sleep 5
      waited=$((waited + 5))
      continue
    fi
    problem "The package lists cannot be fetched, so nothing can be installed. apt says: $(sed -nE 's/^[EW]: //p' <<<"$output" | head -n 1). Check the droplet's network and name server (ping, /etc/resolv.conf) and /etc/apt, then run this again."
    return 0
  done
}

check_clock_and_acme() {
  local directory bundle headers stamp skew
  directory=$(look_up directory acme)
  case $directory in https://*) ;; *) directory=https://acme-v02.api.letsencrypt.org/directory ;; esac
  bundle=$(look_up ca_bundle acme)
  if ! command -v curl >/dev/null; then
    return 0
  fi
  if ! headers=$(curl -sSI -m 20 ${bundle:+--cacert "$bundle"} "$directory" 2>&1); then
    problem "The certificate authority at $directory does not answer ($headers). Without it there is no HTTPS. Check the droplet's network, its clock (now $(date -u)) and outbound rules of a cloud firewall."
    return 0
  fi
  # A proxy on the way has a date of its own, and who tells none that can be read cannot be compared with.
  stamp=$(tr -d '\r' <<<"$headers" | sed -nE 's/^[Dd]ate: *(.*)$/\1/p' | sed -n 1p)
  stamp=$(date -d "${stamp:-none}" +%s 2>/dev/null) || return 0
  skew=$(( $(date +%s) - stamp ))
  [ "${skew#-}" -le "$MAX_CLOCK_SKEW" ] || problem "The clock is wrong by ${skew#-} seconds (it says $(date -u)); certificates and sign-ins would fail. Set it with: timedatectl set-ntp true"
}

own_addresses() {
  ip -o addr show scope global | awk '{print $4}' | cut -d/ -f1
  # A reserved address of DigitalOcean reaches the droplet without being on one of its interfaces. Most have none, and
  # then, or without an answer, its own addresses are all there is to compare with.
  if grep -qs DigitalOcean /sys/class/dmi/id/sys_vendor; then
    curl -s -m 3 http://169.254.169.254/metadata/v1/reserved_ip/ipv4/ip_address || true
    echo
  fi
}

# What the name servers say, past /etc/hosts: an image may list the machine's own name there, as 127.0.1.1.
dns_addresses() {
  { resolvectl --synthesize=no --legend=no query "$1" 2>/dev/null || getent -s dns ahosts "$1"; } |
    tr -s ' ' '\n' | grep -E '^[0-9.]+$|^[0-9a-f]*:[0-9a-f:]+$' | grep -vE '^(127\.|::1$)' | sort -u
}

check_domain() {
  local answer
  # What stands in the pillar already stays there: copied from a commit to the droplet, it would win over all later commits.
  domain_given=$domain
  [ -n "$domain" ] || domain=$(look_up domain)
  if [ -z "$domain" ] && [ "$interactive" = yes ]; then
    # The end of input is no answer, which is told right below.
    read -rp 'The domain people will open (e.g. giggles.example.org): ' domain || true
    domain_given=$domain
  fi
  [ -n "$domain" ] || { problem "No domain is known. Name it with --domain, in GIGGLES_DOMAIN, or as giggles:domain in the pillar."; return 0; }
  [[ $domain =~ ^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]*[a-z0-9])$ ]] || { problem "'$domain' is not a domain name. It should look like giggles.example.org: lower case, no https://, no path, not an address."; return 0; }
  [ "$skip_dns" = no ] || return 0
  # No answer is judged right below.
  answer=$(dns_addresses "$domain") || true
  if [ -z "$answer" ]; then
    problem "The name $domain has no address yet, so no certificate can be had. Create an A record for it that points to $(own_addresses | head -n 1) at your DNS provider and wait until it is known, or go on without HTTPS for now with --skip-dns-check."
  elif ! grep -qxF -f <(own_addresses) <<<"$answer"; then
    problem "The name $domain points to $(paste -sd ' ' <<<"$answer"), but this machine is $(own_addresses | paste -sd ' '). Change the A record at your DNS provider (and remove an AAAA record of another machine), or go on without a certificate with --skip-dns-check."
  fi
}

# The public keys in files or on standard input that the sshd of this server accepts: Ed25519, and RSA from 3072 bits. The
# keys that DigitalOcean's web console lends to root for a minute are nobody's. No key is no error here: who asks, decides.
public_key_lines() {
  local line bits
  { cat -- "$@" 2>/dev/null | sed '/-dotty_ssh/d' |
    grep -oE '(sk-ssh-ed25519@openssh\.com|ssh-ed25519|ssh-rsa) AAAA[A-Za-z0-9+/=]+( [^"'"'"',]*)?' || true; } |
    while read -r line; do
      bits=$(ssh-keygen -l -f /dev/stdin <<<"$line" 2>/dev/null | cut -d' ' -f1) || continue
      case $line in
        ssh-rsa*) [ "${bits:-0}" -lt 3072 ] || printf '%s\n' "$line" ;;
        *) [ -z "$bits" ] || printf '%s\n' "$line" ;;
      esac
    done
}

check_admin_key() {
  if [ -n "$admin_key" ] && [ -r "$admin_key" ]; then
    admin_key=$(public_key_lines "$admin_key")
    [ -n "$admin_key" ] || problem "The file given with --admin-key holds no public SSH key that this server accepts (Ed25519, or RSA from 3072 bits). Give the .pub file, as made by: ssh-keygen -t ed25519"
  elif [ -n "$admin_key" ] && [ -z "$(public_key_lines <<<"$admin_key")" ]; then
    problem "What was given with --admin-key is neither a file nor a public SSH key that this server accepts (Ed25519, or RSA from 3072 bits). Give the .pub file, as made by: ssh-keygen -t ed25519"
  elif [ -z "$admin_key" ]; then
    local file
    for file in "$answers" "$DROPLET_PILLAR" "$here/pillar/giggles.sls" "$here/pillar/${environment:-production}.sls"; do
      # The committed pillar explains itself by an example, which is nobody's key.
      [ ! -r "$file" ] || [ -z "$(sed '/^ *#/d' "$file" | public_key_lines)" ] || return 0
    done
    # DigitalOcean gives the keys chosen at creation to root: the same person is the administrator.
    [ ! -r /root/.ssh/authorized_keys ] || admin_key=$(public_key_lines /root/.ssh/authorized_keys)
    [ -n "$admin_key" ] || problem "No SSH key for the administrator is known that this server accepts (Ed25519, or RSA from 3072 bits). Passwords will be switched off, so going on would lock you out. Give one with --admin-key ~/.ssh/id_ed25519.pub (made by: ssh-keygen -t ed25519)."
  fi
}

# Before anything is changed, and again when it is unpacked. What is fetched is kept until then.
check_bundle() {
  local sum
  [ -n "$bundle$bundle_sha256" ] || return 0
  [ -n "$bundle" ] || { problem "--sha256 is the sum of a bundle, and none is named. Name it with --bundle, or leave both out."; return 0; }
  [[ $bundle_sha256 =~ ^[0-9a-f]{64}$ ]] || { problem "The sum of the bundle is missing or is not 64 hexadecimal digits. Take it from the file .sha256 beside the bundle and give it with --sha256."; return 0; }
  case $bundle in
    http://*|https://*)
      fetched=$(mktemp /var/tmp/giggles-bundle.XXXXXX)
      trap 'rm -f "$fetched"' EXIT
      if ! fetch "$bundle" "$fetched"; then
        problem "The bundle cannot be fetched from $bundle. Check the address and the droplet's network, or copy the file here and name it with --bundle."
        return 0
      fi
      ;;
    *) [ -r "$bundle" ] && [ -f "$bundle" ] || { problem "The bundle $bundle cannot be read. Check the path."; return 0; } ;;
  esac
  sum=$(sha256sum "${fetched:-$bundle}" | cut -d' ' -f1)
  [ "$sum" = "$bundle_sha256" ] || problem "The bundle $bundle is not the one that was meant: its SHA-256 is $sum, and $bundle_sha256 was asked for. Fetch it again, or take the sum from where it was built."
}

# A bare image may have no curl, and has python3, which every check before this one has asked for.
fetch() {
  if command -v curl >/dev/null; then
    curl -fsSL --retry 2 -m 900 -o "$2" "$1"
  else
    python3 -c 'import shutil, sys, urllib.request; shutil.copyfileobj(urllib.request.urlopen(sys.argv[1], timeout=60), open(sys.argv[2], "wb"))' "$1" "$2"
  fi 2>/dev/null
}

report_problems() {
  [ "${#problems[@]}" -gt 0 ] || return 0
  printf '\nbootstrap: Nothing was changed, because this machine is not ready:\n' >&2
  local text
  for text in "${problems[@]}"; do
    printf '\n%s\n' "$text" | fold -s -w 106 | sed '2s/^/- /; 3,$s/^/  /' >&2
  done
  exit 1
}

# --- steps ---------------------------------------------------------------------------------------------------------------

# needrestart would restart whatever this run was started from (cloud-init, a console) in the middle of it.
export NEEDRESTART_SUSPEND=1

apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Options::=--force-confold \
    -y --no-install-recommends install "$@"
}

install_tools() {
  if ! command -v git >/dev/null || ! command -v curl >/dev/null; then
    apt_install git curl ca-certificates
  fi
}

install_uv() {
  local lock=$HOME_OF_TREE/requirements/uv.txt
  if cmp -s "$lock" "$UV_HOME/lock.txt" && "$UV_HOME/bin/uv" --version; then return 0; fi
  # A missing ensurepip is how Debian shows that python3-venv is not there.
  python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
  rm -rf "$UV_HOME"
  python3 -m venv "$UV_HOME"
  PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$UV_HOME/bin/pip" install --quiet --disable-pip-version-check --retries 8 --require-hashes -r "$lock"
  cp "$lock" "$UV_HOME/lock.txt"
}

# The app's own environment is made with uv, and a bundle brings it.
lay_uv_of_bundle() {
  local runtime=$SALT_HOME/current
  if cmp -s "$runtime/uv.txt" "$UV_HOME/lock.txt" && "$UV_HOME/bin/uv" --version; then return 0; fi
  rm -rf "$UV_HOME"
  mkdir -p "$UV_HOME/bin"
  cp "$runtime/bin/uv" "$UV_HOME/bin/uv"
  cp "$runtime/uv.txt" "$UV_HOME/lock.txt"
}

# _utils/gigglekit/runtime builds beside what runs, tries it, and has it take its place only when it works.
# Nothing to say is an answer too, and whether it went well is told by its exit code.
runtime_says() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$runtime_said" "$1" | grep . || true; }

runtime() { PYTHONPATH=$HOME_OF_TREE/_utils PYTHONDONTWRITEBYTECODE=1 python3 -s -m gigglekit.runtime --home "$SALT_HOME" "$@"; }

ensure_runtime() {
  # It answers with exit code 1 and a paragraph, which is shown.
  runtime ensure --tree "$HOME_OF_TREE" --again "$@" > "$runtime_said" ||
    { runtime_says problem >&2; return 1; }
}

install_bundle() { ensure_runtime --bundle "${fetched:-$bundle}" --sha256 "$bundle_sha256" --only-bundle; }

install_salt() { ensure_runtime; }

link_salt() {
  if [ "$(readlink /usr/local/bin/salt-call)" != "$SALT_HOME/current/bin/salt-call" ]; then
    ln -sfn "$SALT_HOME/current/bin/salt-call" /usr/local/bin/salt-call
  fi
}

# Whether what is in force is the bundle that was asked for, or is a bundle if none was. One of another lock file is not enough.
runs_from_bundle() {
  case $(readlink "$SALT_HOME/current") in
    "bundle-${bundle_sha256:0:16}"*) grep -qs "$(sha256sum "$HOME_OF_TREE/requirements/salt.txt" | cut -d' ' -f1)" "$SALT_HOME/current/runtime.json" ;;
    *) return 1 ;;
  esac
}

install_runtime() {
  local kept="An earlier version that was there still works. Run this again when the cause is gone."
  runtime_said=$(mktemp)
  if [ -n "$bundle" ]; then
    step "salt-call (bundle)" "Salt could not be installed from the bundle; the reason is above. $kept" install_bundle
    runtime_says note | fold -s -w 106 | sed 's/^/  /'
  fi
  if runs_from_bundle; then
    step "tools (uv)" "uv could not be copied out of the bundle; the reason is above. Mostly the disk is full." lay_uv_of_bundle
  else
    step "tools (uv)" "The tools that Salt is installed with could not be installed; the reason is above. Mostly it is the network: run this again when it is back, it goes on where it stopped." install_uv
    step "salt-call" "Salt could not be installed into $SALT_HOME; the reason is above. $kept" install_salt
    runtime_says note | fold -s -w 106 | sed 's/^/  /'
  fi
  link_salt
  rm -f "$runtime_said"
}

lay_tree() {
  # A fork that was cloned somewhere else moves to the place from which the droplet converges itself.
  if [ "$here" != "$HOME_OF_TREE" ]; then
    rm -rf "$HOME_OF_TREE.new"
    cp -a "$here" "$HOME_OF_TREE.new"
    chown -R root:root "$HOME_OF_TREE.new"
    mv -T "$HOME_OF_TREE.new" "$HOME_OF_TREE"
  fi
}

configure_minion() {
  local file=etc/salt/minion.d/giggles.conf grain="giggles_environment: $environment"
  cmp -s "$HOME_OF_TREE/salt/common/files/$file" "/$file" || install -D -m 0644 "$HOME_OF_TREE/salt/common/files/$file" "/$file"
  if [ "$(cat /etc/salt/grains 2>/dev/null)" != "$grain" ]; then
    printf '%s\n' "$grain" > /etc/salt/grains.new
    mv /etc/salt/grains.new /etc/salt/grains
  fi
  [ -e /etc/salt/minion ] || : > /etc/salt/minion
}

# Salt refuses a second run beside one that the timer has begun.
wait_for_converge() {
  local end=$((SECONDS + 900))
  while [ "$SECONDS" -lt "$end" ]; do
    case $(systemctl show --property=ActiveState --value giggles-converge.service) in
      activating|deactivating) sleep 2 ;;
      *) return 0 ;;
    esac
  done
}

settings_of_droplet() { PYTHONPATH=$HOME_OF_TREE/_utils "$SALT_HOME/current/bin/python" -m gigglekit.settings.droplet --pillar "$DROPLET_PILLAR" "$@"; }

# A bucket is asked for once, when the server is set up: one without a backup is a choice.
ask_for_bucket() {
  local bucket
  if [ "$interactive" = no ] || [ -L /opt/giggles/current ] || settings_of_droplet --get backup.bucket >/dev/null; then return 0; fi
  read -rp 'Bucket for the encrypted backup (empty: none for now; clips then exist only on this droplet): ' bucket
  [ -z "$bucket" ] || printf '%s' "$bucket" | settings_of_droplet --stdin-value backup.bucket
}

ask_for_missing() {
  local key question secret value
  while IFS=$'\t' read -r key question secret <&3; do
    [ "$interactive" = yes ] || continue
    # An earlier answer may have brought this one. All of the list is read: who writes to a closed pipe fails.
    settings_of_droplet --missing | grep "^$key	" >/dev/null || continue
    if [ "$secret" = yes ]; then
      read -rsp "$question (not shown): " value && echo
    else
      read -rp "$question: " value
    fi
    [ "$key" != backup.endpoint ] || [ -z "$value" ] || value=$(with_scheme "$value")
    [ -z "$value" ] || printf '%s' "$value" | settings_of_droplet --stdin-value "$key" || return 1
  done 3< <(settings_of_droplet --missing)
}

keep_answers() {
  install -d -m 0700 /etc/giggles/pillar /etc/giggles/keys || return 1
  local arguments=()
  [ -z "$domain_given" ] || arguments+=(--set "domain=$domain_given")
  [ -z "$answers" ] || arguments+=(--answers "$answers")
  [ -z "$environment" ] || arguments+=(--set "environment=$environment")
  [ -z "$admin_key" ] || arguments+=(--set "admin.ssh_keys=$admin_key")
  local setting
  for setting in "${settings[@]}"; do arguments+=(--set "$setting"); done
  settings_of_droplet "${arguments[@]}" || return 1
  if [ "$interactive" = yes ] && [ "$(settings_of_droplet --get environment)" = staging ]; then
    echo "This is staging: give it a Supabase project, a domain and a bucket (or a key for staging/) of its own, never production's (docs/STAGING.md)." >&2
  fi
  ask_for_bucket || return 1
  ask_for_missing || return 1
  environment=$(settings_of_droplet --get environment) || return 1
  # The droplet's own file may be named as the answers, and is what they were taken over to.
  [ "$shred_answers" = no ] || [ -z "$answers" ] || [ "$answers" -ef "$DROPLET_PILLAR" ] || shred --remove -- "$answers" || return 1
}

# --- the closing table ---------------------------------------------------------------------------------------------------

row() { printf '  %-12s %-8s %s\n' "$1" "$2" "$3"; }

service_row() { if systemctl is-active --quiet "$2"; then row "$1" up "$3"; else row "$1" DOWN "${4:-journalctl -u $2 -n 50}"; fi; }

# From what lies here; the bucket is not asked.
backup_row() {
  if [ ! -e /etc/giggles/backup.json ]; then
    row backup NONE "no backup: clips exist only on this droplet. See docs/BACKUP_AND_RESTORE.md"
  elif ! systemctl is-active --quiet giggles-backup.timer; then
    row backup DOWN "salt-call state.apply backup"
  elif ! grep -qs '"rights"' /var/lib/giggles/backup/checked.json; then
    row backup REFUSED "the bucket was not usable yet: salt-call state.apply backup says why"
  elif [ ! -e "$KIT_PUBLIC" ]; then
    row backup ready "recovery kit not made yet, and nothing is backed up without it: salt-call giggles.recovery_kit"
  else
    row backup up "every day at $(settings_of_droplet --get backup.at); what is there: salt-call giggles.snapshots"
  fi
}

alerts_row() {
  if ! systemctl is-active --quiet giggles-watch.timer; then
    row alerts DOWN "salt-call state.apply monitoring"
  elif [ ! -e /etc/msmtprc ]; then
    row alerts NONE "nobody is written to: put an address and a mail server into the pillar (docs/MONITORING.md)"
  else
    row alerts up "to $(settings_of_droplet --get monitoring.mail.to); try it: salt-call giggles.alerts test=True"
  fi
}

converge_row() {
  if [ "$(settings_of_droplet --get converge.enabled)" = false ]; then
    row converge off "converge:enabled is false: salt-call state.apply is left to you"
  elif ! systemctl is-active --quiet giggles-converge.timer; then
    row converge DOWN "salt-call state.apply converge"
  elif [ "$(settings_of_droplet --get converge.pull)" = true ] && [ -n "$(git -C "$HOME_OF_TREE" status --porcelain)" ]; then
    row converge EDITED "commit and push the edits in $HOME_OF_TREE, or they are put away (git stash): git -C $HOME_OF_TREE status"
  else
    row converge up "every $(settings_of_droplet --get converge.every_minutes) minutes; what it did: salt-call giggles.history"
  fi
}

app_row() {
  service_row app giggles "$(basename "$(readlink /opt/giggles/current 2>/dev/null || echo none)")" "tail -n 50 /var/log/giggles/web.log"
}

certificate_row() {
  local certificate issuer
  certificate=/etc/nginx/tls/current/fullchain.pem
  if issuer=$(openssl x509 -in "$certificate" -noout -issuer -enddate 2>/dev/null | tr '\n' ' ' | sed 's/issuer=//; s/notAfter=/until /'); then
    case $(readlink -f "$certificate") in
      /etc/letsencrypt/*) row certificate up "$issuer" ;;
      *)
        if [ -x /opt/certbot/current/bin/certbot ]; then
          row certificate MISSING "a placeholder: point $domain here, then: salt-call state.apply web"
        else
          row certificate MISSING "a placeholder, since certbot could not be installed: salt-call state.apply web"
        fi ;;
    esac
  else
    row certificate MISSING "salt-call state.apply web"
  fi
}

clips_row() {
  if grep -qs '"mode": "plain"' /etc/giggles/vault.json; then
    row clips PLAIN "not encrypted: this kernel cannot. Erasing a user overwrites files instead"
  elif findmnt --noheadings /var/lib/giggles/uploads >/dev/null; then
    service_row clips giggles-vault-unlock "encrypted, one key per user; erase one: salt-call giggles.shred user_id=..."
  else
    row clips MISSING "salt-call state.apply vault"
  fi
}

nightly_row() {
  if [ -e /etc/cron.d/giggles-nightly ]; then row nightly up "/etc/cron.d/giggles-nightly; log in /var/log/giggles"; else row nightly MISSING "salt-call state.apply nightly"; fi
}

# A role that was left out is no line of the table.
has_role() { case $roles in *"\"$1\""*) return 0 ;; *) return 1 ;; esac; }

report() {
  local admin roles
  admin=$(settings_of_droplet --get admin.name)
  roles=$(settings_of_droplet --get roles)
  echo
  if has_role hardening; then
    service_row ssh ssh "ssh $admin@$domain (root and passwords are refused)"
    if ufw status 2>/dev/null | grep '^Status: active' >/dev/null; then row firewall up "22 (limited)$(if has_role web; then echo ', 80, 443'; fi)"; else row firewall DOWN "ufw status verbose"; fi
    service_row bans fail2ban "fail2ban-client status sshd"
  fi
  if has_role web; then service_row web nginx "https://$domain"; fi
  if has_role app; then app_row; fi
  if has_role web; then certificate_row; fi
  if has_role vault; then clips_row; fi
  if has_role nightly; then nightly_row; fi
  if has_role backup; then backup_row; fi
  if has_role monitoring; then alerts_row; fi
  if has_role converge; then converge_row; fi
  echo
  say "Next: put the generated ENCRYPTION_KEY and SECRET_KEY of $DROPLET_PILLAR into your password manager;"
  say "what is lost with this droplet otherwise is lost for good.$(if has_role web; then echo " Then open https://$domain and sign up."; fi)"
  say "Converge again at any time: sudo salt-call state.apply"
}

# --- the run ---------------------------------------------------------------------------------------------------------------

main() {
  say "giggles-salt: checking this machine"
  if [ -n "$answers" ] && [ ! -r "$answers" ]; then
    problem "The answers file $answers cannot be read. Check the path."
  fi
  if [ "$here" != "$HOME_OF_TREE" ] && [ -e "$HOME_OF_TREE" ]; then
    problem "This is $here, but the droplet already converges from $HOME_OF_TREE. Update that one (git -C $HOME_OF_TREE pull) and run $HOME_OF_TREE/bootstrap.sh."
  fi
  [ -n "$environment" ] || environment=$(look_up environment)
  check_system
  report_problems
  if [ "$runtime_only" = no ]; then
    check_admin_key
    check_domain
  fi
  check_package_lists
  [ "$runtime_only" = yes ] || check_clock_and_acme
  check_bundle
  report_problems
  [ "$check_only" = no ] || { say "Everything that can be checked beforehand is in order."; exit 0; }

  exec 9>/run/giggles-bootstrap.lock
  flock -n 9 || die "Another bootstrap is running on this machine, or the last step of one that was interrupted. Wait for it to end (minutes), then run this again."

  say "giggles-salt: preparing"
  step "repository in $HOME_OF_TREE" "The repository could not be copied to $HOME_OF_TREE; the reason is above. Nothing else was changed." lay_tree
  step "tools" "The tools that this needs could not be installed; the reason is above. Mostly it is the network: run this again when it is back, it goes on where it stopped." install_tools
  install_runtime
  if [ "$runtime_only" = yes ]; then
    say "Ready to be told what to be: docs/FLEET.md."
    exit 0
  fi
  keep_answers || die "The answers could not be taken over; the reason is above. Correct them and run this again."
  step "minion configuration" "The configuration in /etc/salt could not be written; the reason is above." configure_minion
  settings_of_droplet --check || die "Nothing was converged, because the settings above are not complete or not right. Correct them and run this again."

  if [ "$apply" = no ]; then
    say "Ready, and nothing is converged yet. See what would change: sudo salt-call state.apply test=True"
    exit 0
  fi

  wait_for_converge
  say "giggles-salt: converging (the first time takes some minutes)"
  local code=0 began
  began=$(date +%s)
  # Warnings of Salt's own modules about coming Pythons are nothing to act on.
  PYTHONWARNINGS=ignore::DeprecationWarning "$SALT_HOME/current/bin/salt-call" --local --retcode-passthrough --log-level=error --state-output=mixed state.apply </dev/null || code=$?
  # With failed states too, Salt has applied them: that of this run need not give way to the one before.
  case $code in 0|2) runtime proven >/dev/null ;; esac
  report
  if [ "$code" != 0 ]; then
    printf '\nbootstrap: %s\n' "Not everything converged (exit code $code). Each state that failed says above what happened and what to do; the rest is in place. Correct it and run: sudo salt-call state.apply" | fold -s -w 110 >&2
    # What failed is far above by now. It is told a second time, so this must not end the bootstrap with an exit code of its own.
    PYTHONPATH=$HOME_OF_TREE/_utils PYTHONDONTWRITEBYTECODE=1 python3 -s -m gigglekit.health.history --since "$began" | sed 's/^/  /' >&2 || true
  fi
  exit "$code"
}

main
