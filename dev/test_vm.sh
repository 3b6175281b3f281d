#!/bin/bash
# `make test-vm`: a stock Debian kernel with cgroup v2 only, in a virtual machine in software. First `knarr server` on a machine
# that has nothing else: a pod with limits, and one that is killed for memory. Then the tests of the runtime and of the node, as
# they run outside, on a machine that sees this one's files and writes to a disk of its own. Takes half an hour and needs no
# /dev/kvm. Logs: target/vm/{server,nodes}.log     PARTS='server nodes'  FILTER: of the tests, those with this in their name
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
dev/packages.sh build node vm
knarr=${KNARR:-}
if [ -z "$knarr" ]; then QUICK=1 dev/release.sh; knarr=target/$(uname -m)-unknown-linux-gnu/dist/knarr; fi
out=target/vm root=target/vm/root; rm -rf "$root"; mkdir -p "$out" "$root"/{bin,etc,proc,sys,dev,tmp,run,var/lib,var/log,lib/modules}

# The kernel of the distribution, unpacked and not installed.
if ! ls "$out"/kernel/boot/vmlinuz-* >/dev/null 2>&1; then
  package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
  (cd "$out" && apt-get download -qq "$package" 2>/dev/null && dpkg-deb -x linux-image-*.deb kernel)
fi
kernel=$(ls "$out"/kernel/boot/vmlinuz-*)
version=${kernel##*/vmlinuz-}
# Modules that a node needs, with what they need.
wanted="crc32c_generic 9p 9pnet_virtio virtio_pci virtio_blk ext4 loop overlay veth vxlan bridge dummy nf_tables nft_chain_nat nft_ct nft_nat nft_masq nft_redir nft_numgen nft_hash nft_fib_inet
  nft_reject_inet nft_objref nft_limit nft_log nf_conntrack nf_conntrack_netlink nf_nat"
moddir=$out/kernel/lib/modules/$version
[ -s "$moddir/modules.dep" ] || depmod -b "$out/kernel" "$version"
for module in $wanted; do
  line=$(grep -E "/${module//_/[-_]}\.ko[^:]*:" "$moddir/modules.dep" || true)
  for file in ${line//:/ }; do install -D "$moddir/$file" "$root/lib/modules/$version/$file"; done
done
cp "$moddir"/modules.{order,builtin} "$root/lib/modules/$version/" 2>/dev/null || true
depmod -b "$root" "$version"

cp /bin/busybox "$root/bin/busybox"
mkdir -p "$out/image/bin"; cp /bin/busybox "$out/image/bin/busybox"; ln -sf busybox "$out/image/bin/dd"
(cd "$out" && rm -rf blobs && python3 ../../conformance/mkimage.py local/busybox:1 image busybox.tar >/dev/null)
cp "$out/busybox.tar" "$root/etc/busybox.tar"
for name in sh mount mkdir ip modprobe sleep cat grep poweroff ln echo date head tail seq mountpoint; do ln -s busybox "$root/bin/$name"; done
install "$knarr" "$root/bin/knarr"
if ! file=$(ldd "$knarr" 2>&1) || [[ $file == *"=>"* ]]; then
  # A program that is not static brings its libraries.
  ldd "$knarr" | grep -o '/[^ ]*' | while read -r library; do install -D "$library" "$root$library"; done
fi
cat >"$root/etc/pods.yaml" <<'Y'
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  containers:
  - {name: demo, image: "knarr.io/demo:1", resources: {limits: {cpu: 100m, memory: 32Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - name: demo
    image: local/busybox:1
    # The buffer is larger than the limit, and is filled.
    command: [dd, if=/dev/zero, of=/dev/null, bs=64M, count=1]
    resources: {limits: {memory: 16Mi}}
Y
cat >"$root/init" <<'I'
#!/bin/sh
export PATH=/bin HOME=/
if [ ! -e /switched ]; then
  # The kernel's first root cannot be pivoted away from; a machine never runs on it.
  mkdir /new; mount -t tmpfs -o size=1500m none /new
  for part in /*; do [ "$part" = /new ] || cp -a "$part" /new/; done
  touch /new/switched
  exec switch_root /new /init
fi
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev; mkdir -p /dev/pts /dev/shm; mount -t devpts none /dev/pts
mount -t tmpfs none /run; mount -t tmpfs none /tmp; mount -t tmpfs none /var/lib; mount -t cgroup2 none /sys/fs/cgroup
for module in $(cat /etc/modules); do modprobe $module || echo "no module $module"; done
ulimit -Hn 65536; ip link set lo up; ip link add up0 type dummy; ip addr add 192.0.2.10/24 dev up0; ip link set up0 up; ip route add default dev up0
echo "nameserver 192.0.2.1" >/etc/resolv.conf
knarr check
knarr server --node-name vm >/var/log/knarr.log 2>&1 &
verdict() { echo "test vm::$1 ... $2"; }
if knarr status --wait --timeout 300; then verdict node_is_ready ok; else verdict node_is_ready FAILED; tail -n 30 /var/log/knarr.log; fi
knarr image import --demo /etc/busybox.tar
knarr apply -f /etc/pods.yaml
if knarr wait --for=condition=Ready --timeout=120s pod/limited; then verdict a_limited_pod_runs ok; else verdict a_limited_pod_runs FAILED; knarr describe pod limited; fi
if [ -n "$(cat $(find_max memory.max 33554432) 2>/dev/null)" ]; then :; fi
limits=$(for file in $(find /sys/fs/cgroup -name memory.max); do [ "$(cat $file)" != 33554432 ] || echo $file; done | head -n 1)
if [ -n "$limits" ] && grep -q '^10000 100000' "$(echo "$limits" | sed 's/memory.max/cpu.max/')"; then verdict limits_are_in_the_kernel ok; else verdict limits_are_in_the_kernel FAILED; fi
knarr wait --for=jsonpath={.status.phase}=Failed --timeout=120s pod/greedy
reason=$(knarr get pod greedy -o json | grep '"reason": "OOMKilled"')
if [ -n "$reason" ]; then verdict a_greedy_pod_is_killed ok; else verdict a_greedy_pod_is_killed FAILED; knarr describe pod greedy; fi
echo "the machine is done"
poweroff -f
I
sed -i '/find_max/d' "$root/init"
for name in sed find cp touch switch_root; do ln -s busybox "$root/bin/$name"; done
echo "$wanted" | tr -s ' \n' '\n' >"$root/etc/modules"
chmod +x "$root/init"
cat >"$root/nodes" <<'I'
#!/bin/sh
# The root of the machine outside, with a disk of its own above it.
mount -t proc none /proc; mount -t devtmpfs none /dev
for module in $(cat /etc/modules); do modprobe $module || echo "no module $module"; done
mkdir -p /host /disk /whole
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 host /host && mount -t ext4 /dev/vda /disk || poweroff -f
mkdir -p /disk/above /disk/work
mount -t overlay -o lowerdir=/host,upperdir=/disk/above,workdir=/disk/work none /whole || poweroff -f
mkdir -p /whole/lib/modules /disk/tmp; chmod 1777 /disk/tmp; cp -a /lib/modules/. /whole/lib/modules/; cp /tests /whole/knarr-tests
umount /proc
mount --move /dev /whole/dev; mount --move /disk /whole/mnt
exec switch_root /whole /bin/bash /knarr-tests
I
cat >"$root/tests" <<'I'
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc none /proc; mount -t sysfs none /sys; mkdir -p /dev/pts /dev/shm; mount -t devpts none /dev/pts; mount -t tmpfs none /dev/shm
mount -t tmpfs none /run; mount -t tmpfs none /var/lib/kubelet 2>/dev/null; export TMPDIR=/mnt/tmp; mount -t cgroup2 none /sys/fs/cgroup; mount --make-rshared /
ln -sf /proc/self/fd /dev/fd; ulimit -Hn 65536; ip link set lo up
cat /proc/version
. /vm-tests
for number in "${!programs[@]}"; do
  cd "${folders[number]}" || break
  "${programs[number]}" ${FILTER:-} 2>&1 || echo "PROGRAM FAILED: ${programs[number]##*/}"
done
echo "the machine is done"
sync; echo o >/proc/sysrq-trigger
sleep 60
I
sed -i 's|cp /tests /whole/knarr-tests|cp /tests /whole/knarr-tests; cp /vm-tests /whole/|' "$root/nodes"
chmod +x "$root/nodes"

# Software emulation runs everywhere; a /dev/kvm may be there and not work. An idle machine without RDRAND has no random numbers.
acceleration=${ACCELERATION:-tcg} ok=0 bad=0
boot() { # part seconds arguments of qemu...
  local part=$1 longest=$2 log=$out/$1.log passed failed; shift 2
  echo "starting Linux $version with cgroup v2 only ($acceleration): $part"
  (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$out/initramfs.gz"
  timeout "$longest" qemu-system-x86_64 -accel $acceleration -cpu max -smp 2 -nographic -no-reboot -kernel "$kernel" -initrd "$out/initramfs.gz" "$@" </dev/null >"$log" 2>&1 || true
  passed=$(grep -acE '^test .*\.\.\. ok' "$log" || true) failed=$(grep -acE '^test .*FAILED|^PROGRAM FAILED' "$log" || true)
  grep -aE '^test .*(ok|FAILED)' "$log" || true
  grep -aq 'the machine is done' "$log" || { failed=$((failed + 1)); tail -n 20 "$log"; }
  ok=$((ok + passed)) bad=$((bad + failed))
}
kernel_says="console=ttyS0 quiet panic=-1 cgroup_no_v1=all"
for part in ${PARTS:-server nodes}; do
  case $part in
    server) boot server 1500 -m 2048 -append "$kernel_says" ;;
    nodes)
      {
        cargo test --no-run --package runtime --test pods --package kubelet --test node --message-format=json |
          jq -r 'select(.executable != null) | "programs+=(" + (.executable | @sh) + ") folders+=(" + (.manifest_path | rtrimstr("/Cargo.toml") | @sh) + ")"'
        printf 'FILTER=%q\n' "${FILTER:-}"
      } >"$root/vm-tests"
      rm -f "$out/disk"; truncate -s 8G "$out/disk"; mkfs.ext4 -q "$out/disk"
      # The machine's own programs are not needed any more.
      rm -f "$root/bin/knarr" "$root/etc/busybox.tar"
      boot nodes 3600 -m 4096 -append "$kernel_says rdinit=/nodes" -drive file="$out/disk",format=raw,if=virtio,cache=unsafe \
        -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap
      rm -f "$out/disk" ;;
    *) echo "there is no part $part" >&2; exit 1 ;;
  esac
done
echo "$ok passed, $bad failed on Linux $version with cgroup v2"
[ "$bad" = 0 ] && [ "$ok" -gt 0 ]
