#!/bin/bash
# `make down`: stops what `make up` started and leaves the machine as it was found.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "make down needs root, as make up did" >&2; exit 1; }
knarr=
for program in /run/knarr/knarr target/release/knarr target/debug/knarr; do
  if [ -x "$program" ]; then knarr=$(mktemp /tmp/knarr.XXXXXX); install -m 755 "$program" "$knarr"; break; fi
done
[ -n "$knarr" ] || { echo "nothing was started from here"; exit 0; }
trap 'rm -f "$knarr"' EXIT
"$knarr" uninstall --data --force
# make up made these; what the server found there already it leaves.
rm -rf /var/log/knarr /run/knarr
rmdir --ignore-fail-on-non-empty /etc/knarr 2>/dev/null || true
