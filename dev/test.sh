#!/bin/bash
# Everything that one machine can test, with one line about the outcome at the end. Root is needed for pods and networks.
# Parts: every crate's tests, tidy, kubectl against a real server, our components beside the Go ones, and our API server's answers
# beside those of the Go one.
# Logs lie in target/test. Usage: test.sh
set -uo pipefail
cd "$(dirname "$0")/.."
out=target/test; mkdir -p "$out"
export KIT_BIN=${KIT_BIN:-$HOME/.cache/kube-kit/bin}
passed=0 failed=0 notes=()

dev/packages.sh build node test || exit 1
command -v cargo >/dev/null || { echo "there is no Rust toolchain: cargo is missing (see https://rustup.rs)"; exit 1; }
[ "$(id -u)" = 0 ] || notes+=("not root: tests of pods, networks and a real cluster were left out")

# Adds what the log of a part says, and one failure if the part failed without naming a test.
account() { # log code
  local ok bad
  ok=$(awk '/^test result:/ { n += $4 } /^test .* \.\.\. ok \(/ { n++ } END { print n + 0 }' "$1")
  bad=$(awk '/^test result:/ { n += $6 } /^test .* \.\.\. FAILED \(/ { n++ } END { print n + 0 }' "$1")
  [ "$2" = 0 ] || [ "$bad" -gt 0 ] || bad=1
  passed=$((passed + ok)) failed=$((failed + bad))
}

# Shows a part while it runs. It writes to a file and not to a pipe, so that nothing that it leaves behind keeps us waiting.
part() { # name command...
  local name=$1 code job; shift
  echo "== $name"
  : >"$out/$name.log"
  "$@" >"$out/$name.log" 2>&1 </dev/null &
  job=$!
  tail -n +1 -s 0.2 -f --pid="$job" "$out/$name.log"
  wait "$job"
  code=$?
  account "$out/$name.log" "$code"
  return "$code"
}

# One set of features for all, so that nothing is compiled twice. The store's suite runs on a real etcd where there is one.
features="--features store/etcd"
if [ -x "$KIT_BIN/etcd" ]; then export ETCD=$KIT_BIN/etcd; else notes+=("no etcd here ('make kit' builds one): the store's suite ran on the embedded store alone"); fi
# shellcheck disable=SC2086
part build cargo build --workspace $features || { echo "0 passed, 1 failed: the workspace does not build"; exit 1; }
# shellcheck disable=SC2086
part rust cargo test --workspace $features --no-fail-fast
echo "== tidy"
if cargo run --quiet --package xtask -- tidy; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
if ! cargo fmt --version >/dev/null 2>&1; then notes+=("rustfmt is missing: formatting was not checked")
elif cargo fmt --all --check >"$out/fmt.log" 2>&1; then passed=$((passed + 1))
else failed=$((failed + 1)); echo "not formatted (cargo fmt --all): $(grep -c ^Diff "$out/fmt.log") places"; fi

# Our own client commands need no Go; kubectl, the real one, does.
kubectl=
if command -v go >/dev/null; then
  echo "== kubectl"
  conformance/build.sh clients >"$out/kubectl-build.log" 2>&1
  [ -x "$KIT_BIN/kubectl" ] && kubectl=$KIT_BIN/kubectl
  [ -n "$kubectl" ] || notes+=("kubectl could not be built, see $out/kubectl-build.log: its tests were left out")
elif [ -x "$KIT_BIN/kubectl" ]; then
  kubectl=$KIT_BIN/kubectl
else
  notes+=("Go is missing: tests with the real kubectl were left out")
fi
if [ "$(id -u)" = 0 ]; then
  if [ -n "$kubectl" ] && [ ! -x "$KIT_BIN/helm" ]; then notes+=("helm is missing or could not be built: its test was left out"); fi
  part cluster env KUBECTL="$kubectl" HELM="$KIT_BIN/helm" KNARR="$PWD/target/debug/knarr" dev/cluster_test.sh
  [ -z "$kubectl" ] || part nodes env KUBECTL="$kubectl" KNARR="$PWD/target/debug/knarr" dev/nodes_test.sh
  part servers env KNARR="$PWD/target/debug/knarr" dev/servers_test.sh
  if grep -q '^left out' "$out/servers.log"; then notes+=("servers: $(grep '^left out' "$out/servers.log")"); fi
  part twins env KNARR="$PWD/target/debug/knarr" dev/twins_test.sh
  if grep -q '^left out' "$out/twins.log"; then notes+=("twins: $(grep '^left out' "$out/twins.log")"); fi
fi

part differential env KNARR="$PWD/target/debug/knarr" timeout -k 30 900 dev/differential_test.sh
if grep -q '^left out' "$out/differential.log"; then notes+=("differential: $(grep '^left out' "$out/differential.log")"); fi

for note in "${notes[@]+"${notes[@]}"}"; do echo "note: $note"; done
grep -hE '^test .* \.\.\. FAILED' "$out"/*.log 2>/dev/null
command -v go >/dev/null && go=$(go env GOVERSION) || go="no Go"
echo "$passed passed, $failed failed ($(cargo --version | cut -d' ' -f1,2), $go)"
[ "$failed" = 0 ]
