#!/bin/bash
# `make release`: one static program without debug information, the whole installation in one file.
# It is built twice. The first program counts what it does under the loads of `make bench`; by these counts the compiler lays
# out the second. QUICK=1 leaves the counting out, as do machines where nodes cannot run (it needs root) or where rustup
# cannot fetch the tool that reads the counts; the program is then slower and larger by a fifth, and otherwise the same.
set -euo pipefail
cd "$(dirname "$0")/.."
dev/packages.sh build release
target=$(uname -m)-unknown-linux-gnu
# The target is named, so that build scripts and procedural macros stay dynamic. Addresses that the program corrects when it
# starts, at whatever place, are kept packed: a megabyte less.
build() { # flags of the compiler, arguments of cargo...
  local flags=$1; shift
  RUSTFLAGS="-C link-arg=-fuse-ld=mold -C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs $flags" cargo build --locked --package knarr --target "$target" "$@"
}
counts=$PWD/target/counts merged=$PWD/target/counts/knarr.profdata
reader=$(rustc --print sysroot)/lib/rustlib/$target/bin/llvm-profdata
counted=
if [ -z "${QUICK:-}" ] && [ "$(id -u)" = 0 ] && { [ -x "$reader" ] || rustup component add llvm-tools; }; then
  rm -rf "$counts"; mkdir -p "$counts/raw"
  build "-C profile-generate=$counts/raw" --release --package load --target-dir "$counts/build"
  programs=$counts/build/$target/release
  # Programs that wait for one that counts wait longer, but their loads are the same.
  KNARR=$programs/knarr LOAD=$programs/load OUT=$counts/bench SIDES=knarr ROUNDS=1 IDLE=2 NODES=500 SCHEDULE=1500 REPEL=300 CREATES=3000 OBJECTS=3000 \
    bench/run.sh create create1 get patch apply list fanout pod pods podlist schedule repel
  "$reader" merge -o "$merged" "$counts/raw"
  rm -rf "$counts/build" "$counts/raw"
  counted="-C profile-use=$merged"
fi
build "-C strip=symbols $counted" --profile dist
program=target/$target/dist/knarr
file=$(ldd "$program" 2>&1 || true)
case $file in *"not a dynamic executable"*|*"statically linked"*) ;; *) echo "$program is not static: $file" >&2; exit 1;; esac
echo "$program: $("$program" --version), $(($(stat -c %s "$program") >> 20)) MiB, static"
