#!/bin/bash
# `make release`: one static program without debug information, the whole installation in one file.
set -euo pipefail
cd "$(dirname "$0")/.."
dev/packages.sh build release
target=$(uname -m)-unknown-linux-gnu
# The target is named, so that build scripts and procedural macros stay dynamic.
RUSTFLAGS="-C link-arg=-fuse-ld=mold -C target-feature=+crt-static -C strip=symbols" \
  cargo build --release --locked --package knarr --target "$target"
program=target/$target/release/knarr
file=$(ldd "$program" 2>&1 || true)
case $file in *"not a dynamic executable"*|*"statically linked"*) ;; *) echo "$program is not static: $file" >&2; exit 1;; esac
echo "$program: $("$program" --version), $(($(stat -c %s "$program") >> 20)) MiB, static"
