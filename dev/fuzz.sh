#!/bin/bash
# `make fuzz`: the laws of decoders, patches, selectors, expressions, certificates, frames and streams over arbitrary and
# hostile input, with new seeds and many cases until the time is over. `make test` tries each a few hundred times.
# A failure prints the smallest input, which proptest keeps beside the test, or the seed.
# Usage: fuzz.sh SECONDS     CASES=2000 cases a law and round
set -uo pipefail
cd "$(dirname "$0")/.."
end=$((SECONDS + ${1:-60})) rounds=0
export PROPTEST_CASES=${CASES:-2000}
dev/packages.sh build || exit 1
until [ $SECONDS -ge $end ] && [ $rounds -gt 0 ]; do
  # JSON, YAML, protobuf and tables; patches and apply; label and field selectors; certificates, requests and tokens; frames
  # of SPDY and WebSocket, decoded and on connections.
  for suite in "codec properties" "patch properties" "api selectors" "pki hostile" "stream hostile" "stream connections"; do
    read -r package name <<<"$suite"
    cargo test --quiet --package "$package" --test "$name" || exit 1
  done
  cargo test --quiet --package cel || exit 1
  rounds=$((rounds + 1))
done
echo "$rounds rounds, no law was broken"
