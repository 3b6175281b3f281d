#!/bin/bash
# `make cri`: crictl and critest, the tools and the test suite of CRI, against `knarr runtime`. Needs root and `make kit`.
# The suite's images are made from those of the kit. One spec is left out: it wants a published image by its digest.
# Usage: cri_test.sh [ARGUMENT OF CRITEST...]     for example: dev/cri_test.sh --ginkgo.focus MaskedPaths
set -euo pipefail
cd "$(dirname "$0")/.."
. dev/world.sh
[ "$(id -u)" = 0 ] || { echo "pods need root" >&2; exit 1; }
if [ -z "${APART:-}" ]; then exec env APART=1 unshare --mount --net --propagation private "$0" "$@"; fi
dev/packages.sh build node test
export KIT_BIN=${KIT_BIN:-$HOME/.cache/kube-kit/bin} KIT_IMAGES=${KIT_IMAGES:-$HOME/.cache/kube-kit/images}
[ -x "$KIT_BIN/critest" ] || conformance/build.sh cri
parts=$KIT_IMAGES/work
[ -d "$parts/l-bb" ] || { echo "the parts of the test images are missing: run 'make kit' first" >&2; exit 1; }
if [ -z "${KNARR:-}" ]; then cargo build --package knarr; KNARR=$PWD/target/debug/knarr; fi
mkimage=$PWD/conformance/mkimage.py
dir=$(mktemp -d /tmp/knarr-cri.XXXXXX) group=knarr-cri-$$ registry='' runtime=''
end() {
  trap '' INT TERM
  # Waited for, so that the shell has nothing to say about their end.
  for program in $runtime $registry; do finish "$program"; wait "$program" || true; done
  # What a broken spec left behind.
  clear_groups "$group"
  rm -rf --one-file-system "$dir" || true
}
trap end EXIT
ip link set lo up; ip link add up0 type veth peer name cable0; ip link set cable0 up
ip addr add 192.0.2.20/24 dev up0; ip link set up0 up; ip route add default dev up0

printf 'version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:5000"}\n' "$dir/registry" >"$dir/registry.yaml"
docker-registry serve "$dir/registry.yaml" >"$dir/registry.log" 2>&1 & registry=$!
eventually 10 curl -fsS http://127.0.0.1:5000/v2/
mkdir "$dir/images"; cd "$dir/images"
image() { # repository:tag layers [user]
  python3 "$mkimage" "example.com/$1" "$2" image.tar --cmd "${command:-null}" --user "${3:-}" >/dev/null
  skopeo copy -q --dest-tls-verify=false "docker-archive:image.tar:example.com/$1" "docker://127.0.0.1:5000/$1"
}
suite=e2e-test-images own=k8s-staging-cri-tools
# Masking one program of a busybox of links would mask them all.
mkdir -p page/usr/share/nginx/html apart/bin users/etc hostnet/etc/nginx/sites-enabled grep/usr/bin
cp "$parts/l-bb/bin/busybox" apart/bin/ls
echo page >page/usr/share/nginx/html/index.html
# The suite expects no word on the error output of a grep that finds a match in /proc/1/cmdline.
cp "$parts/l-bb/bin/busybox" grep/usr/bin/grep
printf '%s\n' 'root:x:0:0::/:/bin/sh' 'www-data:x:33:33::/:/bin/sh' 'default-user:x:1000:1000::/:/bin/sh' >users/etc/passwd
printf '%s\n' 'root:x:0:' 'www-data:x:33:' 'default-user:x:1000:' 'group-defined-in-image:x:50000:default-user' >users/etc/group
echo 'server { listen 12003; root /usr/share/nginx/html; }' >hostnet/etc/nginx/sites-enabled/default
image $suite/busybox:1.29-2 "$parts/l-bb,apart"
command='["/nnp"]'
image $suite/nonewprivs:1.3 "$parts/l-bb,$parts/l-nnp"
# Apache says how it was called, and that is what the suite looks for in its log.
command='["sh", "-c", "echo Command line: httpd -D FOREGROUND; exec httpd -f -p 80 -h /usr/share/nginx/html"]'
image $suite/httpd:2.4.39-4 "$parts/l-bb,$parts/l-html,page"
command='["nginx", "-g", "daemon off;"]'
image $suite/nginx:1.14-2 "$parts/deb,$parts/l-html,grep"
image $own/hostnet-nginx-amd64:latest "$parts/deb,$parts/l-html,hostnet"
command='["sh", "-c", "sleep 1000"]'
for number in 1 2 3; do
  mkdir -p "l$number"; echo "$number" >"l$number/number"
  image "$own/test-image-$number:latest" "$parts/l-bb,l$number"
  image "$own/test-image-tags:$number" "$parts/l-bb"
done
for name in test-image-latest:latest test-image-tag:test test-image-tag:all; do image "$own/$name" "$parts/l-bb"; done
image "$own/test-image-user-uid:latest" "$parts/l-bb,users" 1002
image "$own/test-image-user-uid-group:latest" "$parts/l-bb,users" 1003:1003
image "$own/test-image-user-username:latest" "$parts/l-bb,users" www-data
image "$own/test-image-user-username-group:latest" "$parts/l-bb,users" www-data:www-data
image "$own/test-image-predefined-group:latest" "$parts/l-bb,users" 1000
cd "$OLDPWD"

printf 'mirrors:\n  registry.k8s.io: {endpoint: ["http://127.0.0.1:5000"]}\n  gcr.io: {endpoint: ["http://127.0.0.1:5000"]}\n' >"$dir/registries.yaml"
"$KNARR" runtime --listen="unix://$dir/cri.sock" --data-dir="$dir/data" --run-dir="$dir/run" --cgroup-root="$group" --pod-cidr=10.90.0.0/24 \
  --private-registry="$dir/registries.yaml" >"$dir/runtime.log" 2>&1 & runtime=$!
eventually 10 [ -S "$dir/cri.sock" ]
failed=0
verdict() { if [ "$2" = 0 ]; then echo "test cri::$1 ... ok"; else echo "test cri::$1 ... FAILED"; failed=$((failed + 1)); fi; }

crictl() { "$KIT_BIN/crictl" --runtime-endpoint "unix://$dir/cri.sock" --image-endpoint "unix://$dir/cri.sock" "$@"; }
# What an administrator does with crictl when something is stuck.
walk() {
  local pod container busybox=registry.k8s.io/$suite/busybox:1.29-2
  crictl version | grep -q 'RuntimeName:  knarr' && crictl info >/dev/null && crictl pull $busybox && crictl images | grep -q $suite/busybox || return 1
  echo '{"metadata": {"name": "walk", "namespace": "default", "uid": "1"}, "log_directory": "'"$dir"'/logs", "linux": {}}' >"$dir/pod.json"
  echo '{"metadata": {"name": "main"}, "image": {"image": "'$busybox'"}, "command": ["sh", "-c", "echo said; exec sleep 1000"], "log_path": "main.log", "linux": {}}' >"$dir/container.json"
  pod=$(crictl runp "$dir/pod.json") && container=$(crictl create "$pod" "$dir/container.json" "$dir/pod.json") && crictl start "$container" || return 1
  crictl pods --name walk -q | grep -q "$pod" && crictl ps -q | grep -q "$container" && crictl inspect "$container" | jq -e '.status.state == "CONTAINER_RUNNING"' >/dev/null || return 1
  [ "$(crictl exec "$container" echo word)" = word ] && [ "$(crictl exec --sync "$container" echo word)" = word ] && crictl logs "$container" | grep -q said || return 1
  crictl stats "$container" >/dev/null && crictl statsp >/dev/null && crictl stop -t 1 "$container" && crictl rm "$container" && crictl stopp "$pod" && crictl rmp "$pod" && [ -z "$(crictl pods -q)" ]
}
code=0; [ $# != 0 ] || { walk >"$dir/walk.log" 2>&1 || code=$?; [ $code = 0 ] || cat "$dir/walk.log"; verdict crictl $code; }
code=0; "$KIT_BIN/critest" --runtime-endpoint "unix://$dir/cri.sock" --image-endpoint "unix://$dir/cri.sock" --ginkgo.no-color \
  --ginkgo.skip 'public image with digest' "$@" >"$dir/critest.log" 2>&1 || code=$?
grep -E '^  \[FAIL\]|^Ran |Passed \|' "$dir/critest.log" || tail -n 20 "$dir/critest.log"
verdict critest $code
mkdir -p target && cp "$dir/critest.log" target/critest.log
[ "$failed" = 0 ]
