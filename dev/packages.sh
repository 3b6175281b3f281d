#!/bin/bash
# Installs the Debian packages that a task needs and the machine lacks. Does nothing, and needs neither root nor network,
# where all are there.
# Usage: packages.sh GROUP...     groups: build node test images release bench vm
set -euo pipefail
# program:package pairs; a package counts as there when its program is.
build="mold:mold cc:gcc ld:binutils"
node="ip:iproute2"
test="skopeo:skopeo docker-registry:docker-registry nft:nftables ip:iproute2 busybox:busybox-static openssl:openssl curl:curl
      python3:python3 jq:jq mount:mount chroot:coreutils nsenter:util-linux ps:procps"
images="debootstrap:debootstrap make:make bzip2:bzip2 curl:curl skopeo:skopeo openssl:openssl python3:python3"
release="cc:gcc"
bench="ip:iproute2 jq:jq python3:python3 iptables:iptables nft:nftables conntrack:conntrack ipset:ipset"
vm="depmod:kmod mkfs.ext4:e2fsprogs jq:jq qemu-system-x86_64:qemu-system-x86 cpio:cpio busybox:busybox-static"
PATH=$PATH:/usr/sbin:/sbin
missing=()
for group in "$@"; do
  for pair in ${!group:?there is no group $group}; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
done
# Static linking needs the archive of the C library, which has no program of its own.
[ -e /usr/lib/x86_64-linux-gnu/libc.a ] || [ "$(uname -m)" != x86_64 ] || missing+=(libc6-dev)
if [[ " $* " == *" bench "* ]] && [ ! -d /usr/lib/cni ]; then missing+=(containernetworking-plugins); fi
# Busybox must be static, since tests copy it alone into root file systems.
if [[ " $* " == *" test "* ]] && command -v busybox >/dev/null && ! dpkg -s busybox-static >/dev/null 2>&1; then missing+=(busybox-static); fi
[ ${#missing[@]} -eq 0 ] && exit
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "missing: ${missing[*]} (Debian's package names); install them, or run this as root on Debian" >&2
  exit 1
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq </dev/null
apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
