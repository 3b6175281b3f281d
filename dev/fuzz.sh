#!/bin/bash
# `make fuzz`: the laws of decoders, patches, expressions and streams over arbitrary and hostile input, with new seeds and
# many cases until the time is over. A failure prints the smallest input and is kept by proptest beside the test.
# Usage: fuzz.sh SECONDS     CASES=2000 cases a law and round
set -uo pipefail
cd "$(dirname "$0")/.."
end=$((SECONDS + ${1:-60})) rounds=0
export PROPTEST_CASES=${CASES:-2000}
dev/packages.sh build || exit 1
until [ $SECONDS -ge $end ] && [ $rounds -gt 0 ]; do
  for suite in "codec properties" "patch properties" "stream hostile"; do
    read -r package name <<<"$suite"
    cargo test --quiet --package "$package" --test "$name" || exit 1
  done
  cargo test --quiet --package cel || exit 1
  rounds=$((rounds + 1))
done
echo "$rounds rounds, no law was broken"
