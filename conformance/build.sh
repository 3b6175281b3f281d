#!/bin/bash
# Builds, as ordinary Go tool dependencies, what knarr is compared against or tested with. Only the built programs are used.
#   clients     kubectl helm
#   suite       e2e.test ginkgo: the official Kubernetes 1.36 end-to-end suite and its runner
#   images      agnhost and the other programs inside the suite's test images
#   csi         the hostpath volume driver, the sidecars that the suite deploys with it, and what clusters have for snapshots
#   cri         crictl critest
#   reference   kube-* kubelet etcd containerd runc coredns kwok: the Go components, for side-by-side runs
# Usage: build.sh [GROUP...]     default: clients suite images; kubectl_ builds kubectl alone
# Output: $KIT_BIN (default ~/.cache/kube-kit/bin). A first run of the default takes about 15 minutes on 2 cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
command -v go >/dev/null || { echo "Go is missing: it builds these programs (https://go.dev/dl, 1.26 or newer)" >&2; exit 1; }
export KIT_BIN=${KIT_BIN:-$HOME/.cache/kube-kit/bin} GOFLAGS=-mod=mod
mkdir -p "$KIT_BIN"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cp -r "$here"/{tools,etcd-tools,runtime-tools,cri-tools,csi-tools,csi-driver} "$work"
V=v1.36.3
X="-s -w -X k8s.io/component-base/version.gitVersion=$V -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"
have() { [ -s "$KIT_BIN/$1" ] && echo "have $1"; }
k8s() { have "$1" || (cd "$work/tools" && CGO_ENABLED=0 go build -trimpath -ldflags "$X" -o "$KIT_BIN/$1" "k8s.io/kubernetes/$2" && echo "built $1"); }
inst() { have "$1" || (cd /tmp && CGO_ENABLED=${3:-0} GOFLAGS= GOBIN="$KIT_BIN" go install ${4:-} -ldflags "-s -w" "$2" && echo "built $1"); }
kubectl_() { k8s kubectl cmd/kubectl; }
clients() { kubectl_; inst helm helm.sh/helm/v3/cmd/helm@v3.22.0; }
suite() { k8s_ginkgo; have e2e.test || (cd "$work/tools" && go test -c -ldflags "$X" -o "$KIT_BIN/e2e.test" k8s.io/kubernetes/test/e2e && echo built e2e.test); }
k8s_ginkgo() { have ginkgo || (cd "$work/tools" && go build -o "$KIT_BIN/ginkgo" github.com/onsi/ginkgo/v2/ginkgo && echo built ginkgo); }
images() { k8s agnhost test/images/agnhost; k8s nonewprivs test/images/nonewprivs; k8s resource-consumer test/images/resource-consumer
  have sample-apiserver || (cd "$work/tools" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$KIT_BIN/sample-apiserver" k8s.io/sample-apiserver && echo built sample-apiserver)
  etcd_; }
etcd_() { for p in etcd:server etcdctl:etcdctl; do have "${p%:*}" || (cd "$work/etcd-tools" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$KIT_BIN/${p%:*}" "go.etcd.io/etcd/${p#*:}/v3" && echo "built ${p%:*}"); done; }
cri() { have crictl || (cd "$work/cri-tools" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$KIT_BIN/crictl" github.com/kubernetes-sigs/cri-tools/cmd/crictl && echo built crictl)
  have critest || (cd "$work/cri-tools" && CGO_ENABLED=0 go test -c -trimpath -ldflags "-s -w" -o "$KIT_BIN/critest" github.com/kubernetes-sigs/cri-tools/cmd/critest && echo built critest); }
reference() { for c in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy; do k8s "$c" "cmd/$c"; done; etcd_
  inst coredns github.com/coredns/coredns@latest; inst kwok sigs.k8s.io/kwok/cmd/kwok@v0.8.0
  inst containerd github.com/containerd/containerd/v2/cmd/containerd@latest 1 "-tags=no_btrfs,no_zfs,no_devmapper"
  inst containerd-shim-runc-v2 github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@latest; inst ctr github.com/containerd/containerd/v2/cmd/ctr@latest
  have runc || { dpkg -s libseccomp-dev >/dev/null 2>&1 || apt-get install -y -qq libseccomp-dev pkg-config; (cd "$work/runtime-tools" && CGO_ENABLED=1 go build -tags seccomp -trimpath -ldflags "-s -w" -o "$KIT_BIN/runc" github.com/opencontainers/runc && echo built runc); }; }
mod() { have "$2" || (cd "$work/$1" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w ${4:-}" -o "$KIT_BIN/$2" "$3" && echo "built $2"); } # module program package [linker options]
csi() { local c=github.com/kubernetes-csi; mod csi-driver hostpathplugin $c/csi-driver-host-path/cmd/hostpathplugin "-X main.version=v1.7.2"
  mod csi-tools csi-attacher $c/external-attacher/v4/cmd/csi-attacher; mod csi-tools csi-provisioner $c/external-provisioner/v6/cmd/csi-provisioner
  mod csi-tools csi-resizer $c/external-resizer/v2/cmd/csi-resizer; mod csi-tools csi-snapshotter $c/external-snapshotter/v8/cmd/csi-snapshotter
  mod csi-tools snapshot-controller $c/external-snapshotter/v8/cmd/snapshot-controller
  have snapshots.yaml || (cd "$work/csi-tools"; of() { go mod download "$c/external-snapshotter/$1" && go list -m -f '{{.Dir}}' "$c/external-snapshotter/$1"; }
    for part in "$(of client/v8)"/config/crd/snapshot.storage.k8s.io_*.yaml "$(of v8)"/deploy/kubernetes/snapshot-controller/{rbac,setup}-*.yaml; do
      echo ---; cat "$part"; done >"$KIT_BIN/snapshots.yaml" && echo "built snapshots.yaml")
  mod csi-tools csi-node-driver-registrar ./csi-node-driver-registrar; mod csi-tools livenessprobe ./livenessprobe; }
for g in ${*:-clients suite images}; do "$g"; done
