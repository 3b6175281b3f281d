#!/bin/bash
# Makes the images of the suite's CSI manifests from the programs of `build.sh csi`, under the names and tags that the suite asks
# for, in $KIT_IMAGES/csi. What is inside is what can be had: README.md says which versions.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
KIT_BIN=${KIT_BIN:-$HOME/.cache/kube-kit/bin} IMAGES=${KIT_IMAGES:-$HOME/.cache/kube-kit/images} R=registry.k8s.io/sig-storage
OUT=$IMAGES/csi
[ -d "$IMAGES/work/deb" ] || { echo "run images.sh first: the driver's image is made on its Debian" >&2; exit 1; }
mkdir -p "$OUT/work"; cd "$OUT/work"; rm -rf l-* blobs; ln -sfn "$IMAGES/work/deb" deb
mkdir l-driver; cp "$KIT_BIN/hostpathplugin" l-driver/
# The manifests are those of a later driver: options that this one lacks are dropped, with what they would switch on.
cat >l-driver/hostpathplugin-known <<'E'
#!/bin/sh
for option; do
  shift
  case $option in --enable-controller-modify-volume* | --accepted-mutable-parameter-names*) ;; *) set -- "$@" "$option" ;; esac
done
exec /hostpathplugin "$@"
E
chmod 755 l-driver/hostpathplugin-known
python3 "$here/mkimage.py" $R/hostpathplugin:v1.17.1 deb/,l-driver "$OUT/hostpathplugin.tar" --entrypoint '["/hostpathplugin-known"]'
for image in csi-attacher:v4.11.0 csi-provisioner:v6.1.1 csi-resizer:v2.1.0 csi-node-driver-registrar:v2.16.0 livenessprobe:v2.18.0 csi-snapshotter:v8.5.0 snapshot-controller:v8.5.0; do
  program=${image%:*}; mkdir "l-$program"; cp "$KIT_BIN/$program" "l-$program/"
  python3 "$here/mkimage.py" "$R/$image" "l-$program" "$OUT/$program.tar" --entrypoint "[\"/$program\"]"
done
rm -r "$OUT/work"
