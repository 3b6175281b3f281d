#!/bin/bash
# Our components in the places of the Go ones, and the other way round: a Deployment with a Service becomes ready and
# answers at its service address, whichever program each part of the cluster is. Told in cargo's words.
# KNARR: the program; KIT_BIN, KIT_IMAGES: what `make kit` and `make images` built. Root is needed. FOCUS: a part of the names.
# Everything runs in a network name space of its own, with its files in one folder; both are gone at the end.
set -uo pipefail
cd "$(dirname "$0")/.."
. dev/world.sh
KNARR=$(realpath "${KNARR:-target/debug/knarr}") KIT_BIN=${KIT_BIN:-$HOME/.cache/kube-kit/bin} KIT_IMAGES=${KIT_IMAGES:-$HOME/.cache/kube-kit/images}
missing=
for program in etcd etcdctl kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl containerd runc ctr; do [ -x "$KIT_BIN/$program" ] || missing="$missing $program"; done
for image in pause busybox; do [ -f "$KIT_IMAGES/$image.tar" ] || missing="$missing $image.tar"; done
[ -x /usr/lib/cni/bridge ] || missing="$missing containernetworking-plugins"
[ -z "$missing" ] || { echo "left out, these are missing:$missing"; echo "test result: ok. 0 passed; 0 failed; 1 ignored"; exit 0; }
image=$(tar xOf "$KIT_IMAGES/busybox.tar" manifest.json | jq -r '.[0].RepoTags[0]')
export PATH=$KIT_BIN:$PATH
W=$(mktemp -d /tmp/knarr-twins.XXXXXX) ID=knt$$
export REF_SANS=,IP:192.0.2.20,IP:192.0.2.21
export REF_DIR=$W/ref REF_PORT=6443 REF_BIN=$KIT_BIN REF_CGROUP=$ID-go KIT_IMAGES
mkdir -p "$W/log"; P=$REF_DIR/pki
inside() { nsenter --net="/run/netns/$ID" "$@"; }
k() { inside kubectl --kubeconfig "$REF_DIR/admin.kubeconfig" "$@"; }
start() { # name command...
  local name=$1; shift
  launch "$ID" "$W/log/$name" "$@"
  echo "$launched" >"$W/$name.pid"
}
stop() { # name...
  local name pid
  for name; do
    pid=$(cat "$W/$name.pid" 2>/dev/null) || continue
    finish "$pid"
    rm -f "$W/$name.pid"
  done
}
remove() {
  local file
  inside bench/reference.sh down >/dev/null 2>&1
  for file in "$W"/*.pid; do [ ! -f "$file" ] || stop "$(basename "$file" .pid)"; done
  clear_groups "$ID"
  clear_mounts "$W"
  ip netns del "$ID" 2>/dev/null; rm -rf "$W"
}
trap remove EXIT
ip netns add "$ID" && ip -n "$ID" link set lo up && ip -n "$ID" link add up0 type veth peer name up1 && ip -n "$ID" link set up0 up && ip -n "$ID" link set up1 up &&
  ip -n "$ID" addr add 192.0.2.20/24 dev up0 && ip -n "$ID" route add default dev up0 || exit 1
inside bench/reference.sh certs >/dev/null || exit 1

# --- The parts, of either make --------------------------------------------------------------------------------------

node=$(hostname)
# An API server that another takes the place of is away for longer than the usual deadline; nobody here would start the losers again.
leases='--leader-elect=true --leader-elect-lease-duration=60s --leader-elect-renew-deadline=50s'
etcd() {
  start etcd "$KIT_BIN/etcd" --data-dir "$W/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster default=http://127.0.0.1:2380 --log-level warn
  eventually 90 inside curl -sf http://127.0.0.1:2379/health
}
# The flags that kubeadm passes.
apiserver() { # program... -- store flags...
  local program=()
  while [ "$1" != -- ]; do program+=("$1"); shift; done; shift
  start "${API_NAME:-apiserver}" "${program[@]}" "$@" --secure-port=6443 --bind-address="${API_BIND:-0.0.0.0}" --advertise-address="${API_ADDRESS:-192.0.2.20}" --tls-cert-file="$P/apiserver.crt" --tls-private-key-file="$P/apiserver.key" --client-ca-file="$P/ca.crt" \
    --service-account-key-file="$P/sa.pub" --service-account-signing-key-file="$P/sa.key" --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction --enable-bootstrap-token-auth=true --allow-privileged=true --kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname --kubelet-client-certificate="$P/kubeletclient.crt" --kubelet-client-key="$P/kubeletclient.key" \
    --requestheader-client-ca-file="$P/ca.crt" --requestheader-allowed-names=front-proxy-client --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --proxy-client-cert-file="$P/front.crt" --proxy-client-key-file="$P/front.key"
  eventually 90 k get --raw /readyz && eventually 90 k get namespace kube-system
}
# shellcheck disable=SC2086
controllers() { # program...
  local config=${CONTROLLERS_CONFIG:-$REF_DIR/kcm.kubeconfig}
  start controllers "$@" --kubeconfig="$config" --authentication-kubeconfig="$config" --authorization-kubeconfig="$config" --bind-address=127.0.0.1 --client-ca-file="$P/ca.crt" $leases \
    --requestheader-client-ca-file="$P/ca.crt" --cluster-name=kubernetes --cluster-signing-cert-file="$P/ca.crt" --cluster-signing-key-file="$P/ca.key" --root-ca-file="$P/ca.crt" --service-account-private-key-file="$P/sa.key" \
    --use-service-account-credentials=true --controllers='*,bootstrapsigner,tokencleaner' --allocate-node-cidrs=true --cluster-cidr=10.244.0.0/16 --service-cluster-ip-range=10.96.0.0/16
}
# shellcheck disable=SC2086
scheduler() { # program...
  start scheduler "$@" --kubeconfig="$REF_DIR/sched.kubeconfig" --authentication-kubeconfig="$REF_DIR/sched.kubeconfig" --authorization-kubeconfig="$REF_DIR/sched.kubeconfig" --bind-address=127.0.0.1 $leases
}
own_node() {
  echo 'nameserver 192.0.2.1' >"$W/resolv.conf"
  cat >"$W/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true, cacheTTL: 0s}, x509: {clientCAFile: $P/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: systemd
cgroupRoot: /$ID
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
evictionHard: {memory.available: 100Mi, nodefs.available: 1%}
imageGCHighThresholdPercent: 100
podLogsDir: $W/pods
resolvConf: $W/resolv.conf
rotateCertificates: true
syncFrequency: 0s
Y
  cat >"$W/proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 0.0.0.0
clientConnection: {kubeconfig: $REF_DIR/proxy.kubeconfig, qps: 0}
clusterCIDR: 10.244.0.0/16
hostnameOverride: $node
mode: nftables
Y
  start kubelet "$KNARR" kubelet --config="$W/kubelet.yaml" --kubeconfig="$REF_DIR/kubelet.kubeconfig" --hostname-override="$node" --node-ip=192.0.2.20 --root-dir="$W/kubelet" --data-dir="$W/data" --run-dir="$W/run" --cluster-ranges=10.244.0.0/16,10.96.0.0/16
  start proxy "$KNARR" kube-proxy --config="$W/proxy.yaml" --state-dir="$W/proxy"
  eventually 90 inside "$KNARR" image --run-dir "$W/run" import "$KIT_IMAGES/busybox.tar"
}
go_node() {
  NO_IMAGES=1 inside bench/reference.sh up-node
  REF_IMAGES="pause.tar busybox.tar" inside bench/reference.sh images
}
# The Go kubelet on our runtime: one process that serves CRI, in the mount name space of the kubelet.
our_runtime="$KNARR runtime --listen=unix://$W/cri.sock --data-dir=$W/cri --run-dir=$W/crirun --cgroup-root=$ID --cluster-ranges=10.244.0.0/16,10.96.0.0/16"
go_kubelet_on_our_runtime() {
  REF_RUNTIME=$our_runtime REF_ENDPOINT=$W/cri.sock NO_IMAGES=1 inside bench/reference.sh up-node
  eventually 90 inside "$KNARR" image --run-dir "$W/crirun" import "$KIT_IMAGES/busybox.tar"
}
our_kubelet_on_containerd() {
  REF_KUBELET="$KNARR kubelet --data-dir=$W/kdata --run-dir=$W/krun" NO_IMAGES=1 inside bench/reference.sh up-node
  REF_IMAGES="pause.tar busybox.tar" inside bench/reference.sh images
}
control_plane() {
  stop runtime scheduler controllers proxy kubelet apiserver etcd; inside bench/reference.sh down >/dev/null 2>&1 || true
  clear_groups "$ID"; inside nft flush ruleset; rm -rf "$W/apiserver"
  inside bench/reference.sh certs >/dev/null
  apiserver "$KNARR" kube-apiserver -- --data-dir="$W/apiserver"
  controllers "$KNARR" kube-controller-manager; scheduler "$KNARR" kube-scheduler
}

# --- What must come of it -------------------------------------------------------------------------------------------

web_becomes_ready() { # name
  k create namespace "$1" && eventually 90 k -n "$1" get serviceaccount default
  k -n "$1" apply -f - <<Y
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: "$image"
        imagePullPolicy: Never
        command: [sh, -c, 'echo hello >/tmp/index.html; exec httpd -f -p 8080 -h /tmp']
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
Y
  k -n "$1" wait --for=condition=Available --timeout=120s deployment/web
  eventually 90 web_answers "$1"
  k -n "$1" logs deployment/web
  [ "$(k -n "$1" exec deployment/web -- cat /tmp/index.html)" = hello ]
}
web_answers() { [ "$(inside curl -s --max-time 2 "http://$(k -n "$1" get service web -o jsonpath='{.spec.clusterIP}')/")" = hello ]; }
held_by() { k -n kube-system get lease "$1" -o jsonpath='{.spec.holderIdentity}'; }

# Two API servers of ours on one etcd, each with its own address.
several_api_servers_are_one_cluster() {
  local number version watch
  ip -n "$ID" addr add 192.0.2.21/24 dev up0
  etcd
  API_BIND=127.0.0.1 apiserver "$KNARR" kube-apiserver -- --etcd-servers=http://127.0.0.1:2379
  API_NAME=second API_BIND=192.0.2.21 API_ADDRESS=192.0.2.21 apiserver "$KNARR" kube-apiserver -- --etcd-servers=http://127.0.0.1:2379
  eventually 90 k2 get --raw /readyz
  eventually 30 servers k '192.0.2.20 192.0.2.21'; eventually 30 servers k2 '192.0.2.20 192.0.2.21'
  [ "$(inside etcdctl get --prefix --keys-only /registry/masterleases/ | grep -c .)" = 2 ]
  # What one writes the other reads in the next call, and changes on its version; a watch tells all of it in order.
  k create namespace shared; k2 -n shared get configmaps --watch -o name >"$W/watched" & watch=$!
  for number in $(seq 10); do
    k -n shared create configmap "one-$number" --from-literal=a=1
    version=$(k2 -n shared get configmap "one-$number" -o jsonpath='{.metadata.resourceVersion}')
    k2 -n shared patch configmap "one-$number" --type=merge -p "{\"metadata\":{\"resourceVersion\":\"$version\"},\"data\":{\"a\":\"2\"}}"
    [ "$(k -n shared get configmap "one-$number" -o jsonpath='{.data.a}')" = 2 ]
  done
  eventually 20 watched_all; kill "$watch"
  # Who is known and what is allowed is the same at both.
  [ "$(k2 auth whoami -o jsonpath='{.status.userInfo.username}')" = admin ]
  # One that ends is no endpoint any more, at once or when its lease is over.
  stop apiserver
  eventually 40 servers k2 192.0.2.21
  [ "$(k2 -n shared get configmaps -o name | grep -c /one-)" = 10 ]
  stop second etcd; rm -rf "$W/etcd"; ip -n "$ID" addr del 192.0.2.21/24 dev up0
}
k2() { inside kubectl --kubeconfig "$REF_DIR/admin.kubeconfig" --server https://192.0.2.21:6443 "$@"; }
servers() { [ "$("$1" get endpoints kubernetes -o jsonpath='{.subsets[*].addresses[*].ip}' 2>/dev/null)" = "$2" ] && [ "$("$1" get endpointslice kubernetes -o jsonpath='{.endpoints[*].addresses[0]}')" = "$2" ]; }
# Each map was made and changed.
watched_all() { [ "$(grep -o 'one-[0-9]*' "$W/watched" | uniq -c | tr -s ' \n' ' ')" = " $(seq -f '2 one-%g' 10 | tr '\n' ' ')" ]; }

ours_work_on_the_go_api_server() {
  etcd; apiserver "$KIT_BIN/kube-apiserver" -- --etcd-servers=http://127.0.0.1:2379
  controllers "$KNARR" kube-controller-manager; scheduler "$KNARR" kube-scheduler; own_node
  web_becomes_ready ours
  [ -n "$(held_by kube-scheduler)" ] && [ -n "$(held_by kube-controller-manager)" ]
  inside curl -skf https://127.0.0.1:10259/healthz; inside curl -skf https://127.0.0.1:10257/livez; inside curl -sf http://127.0.0.1:10248/healthz
  [ "$(inside curl -sk -o /dev/null -w '%{http_code}' https://127.0.0.1:10257/metrics)" = 401 ]
  inside curl -skf --cert "$P/admin.crt" --key "$P/admin.key" https://127.0.0.1:10257/metrics | grep '^workqueue_adds_total' >/dev/null
  inside curl -skf --cert "$P/admin.crt" --key "$P/admin.key" https://127.0.0.1:10257/metrics/slis |
    grep '^kubernetes_healthcheck{name="leaderElection",type="livez"} 1' >/dev/null
}
# Each reads what the other wrote, and writes what the other reads.
api_servers_take_over_each_others_etcd() {
  stop apiserver
  apiserver "$KNARR" kube-apiserver -- --etcd-servers=http://127.0.0.1:2379
  [ "$(k -n ours get deployment web -o jsonpath='{.spec.replicas}')" = 2 ]
  k -n ours scale deployment web --replicas=3
  eventually 90 in_replicas 3
  k -n ours create configmap written-here --from-literal=a=b
  [ "$(inside etcdctl get --print-value-only /registry/configmaps/ours/written-here | tr -d '\0' | head -c 3)" = k8s ]
  stop apiserver
  apiserver "$KIT_BIN/kube-apiserver" -- --etcd-servers=http://127.0.0.1:2379
  [ "$(k -n ours get configmap written-here -o jsonpath='{.data.a}')" = b ]
  k -n ours scale deployment web --replicas=1
  eventually 90 in_replicas 1
  web_answers ours
}
in_replicas() { [ "$(k -n ours get deployment web -o jsonpath='{.status.readyReplicas}')" = "$1" ] && [ "$(k -n ours get pods -l app=web -o name | wc -l)" = "$1" ]; }
go_components_work_on_our_api_server() {
  stop scheduler controllers proxy kubelet apiserver etcd; clear_groups "$ID"
  inside nft flush ruleset
  apiserver "$KNARR" kube-apiserver -- --data-dir="$W/apiserver"
  controllers "$KIT_BIN/kube-controller-manager"; scheduler "$KIT_BIN/kube-scheduler"; go_node
  web_becomes_ready theirs
}
# A pod with everything that a kubelet asks of its runtime.
a_pod_has_it_all() { # name
  k create namespace "$1" && eventually 90 k -n "$1" get serviceaccount default
  k -n "$1" create configmap words --from-literal=greeting=hello
  k -n "$1" apply -f - <<Y
apiVersion: v1
kind: Pod
metadata: {name: all}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: first, image: "$image", imagePullPolicy: Never, command: [sh, -c, 'cp /words/greeting /shared/index.html'], volumeMounts: [{name: words, mountPath: /words}, {name: shared, mountPath: /shared}]}
  containers:
  - name: main
    image: "$image"
    imagePullPolicy: Never
    env: [{name: GREETING, valueFrom: {configMapKeyRef: {name: words, key: greeting}}}]
    command: [sh, -c]
    args: ['echo "\$(GREETING) from \$HOSTNAME"; rm -f /shared/ill; touch /shared/up; httpd -p 8080 -h /shared; trap "exit 3" TERM; while true; do sleep 1 & wait; done']
    securityContext: {runAsUser: 1000, runAsGroup: 1000, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
    resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 500m, memory: 64Mi}}
    startupProbe: {exec: {command: [test, -f, /shared/up]}, periodSeconds: 1}
    readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
    livenessProbe: {exec: {command: [test, "!", -f, /shared/ill]}, periodSeconds: 1, failureThreshold: 1}
    volumeMounts: [{name: words, mountPath: /words, readOnly: true}, {name: shared, mountPath: /shared}, {name: memory, mountPath: /memory}, {name: shared, mountPath: /part, subPath: part/deep}]
  volumes:
  - {name: words, configMap: {name: words}}
  - {name: shared, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
Y
  k -n "$1" wait --for=condition=Ready --timeout=120s pod/all
  [ "$(k -n "$1" logs all)" = "hello from all" ]
  [ "$(k -n "$1" exec all -- cat /words/greeting)" = hello ]
  [ "$(k -n "$1" exec all -- id -u)" = 1000 ]
  [ "$(echo through | k -n "$1" exec -i all -- cat)" = through ]
  k -n "$1" exec all -- sh -c 'exit 7' && return 1; [ $? = 7 ]
  k -n "$1" exec all -- sh -c 'grep " /memory tmpfs " /proc/mounts; test -s /var/run/secrets/kubernetes.io/serviceaccount/token; echo kept >/part/kept'
  [ "$(inside curl -s --max-time 2 "http://$(k -n "$1" get pod all -o jsonpath='{.status.podIP}'):8080/")" = hello ]
  inside timeout 20 kubectl --kubeconfig "$REF_DIR/admin.kubeconfig" -n "$1" port-forward pod/all 18080:8080 >/dev/null 2>&1 &
  eventually 90 inside curl -sf --max-time 2 http://127.0.0.1:18080/
  # What is ill is started again, and what it said before stays to be read.
  k -n "$1" exec all -- touch /shared/ill
  eventually 90 restarts "$1" 1
  [ "$(k -n "$1" logs --previous all)" = "hello from all" ]
  [ "$(k -n "$1" get pod all -o jsonpath='{.status.containerStatuses[0].lastState.terminated.exitCode}')" = 3 ]
  k -n "$1" wait --for=condition=Ready --timeout=120s pod/all
  [ "$(k -n "$1" exec all -- cat /shared/part/deep/kept)" = kept ]
}
restarts() { [ "$(k -n "$1" get pod all -o jsonpath='{.status.containerStatuses[0].restartCount}')" = "$2" ]; }
a_pod_goes() { # name
  k -n "$1" delete pod all --timeout=120s
  k -n "$1" get pod all && return 1 || true
}
the_go_kubelet_works_on_our_runtime() {
  control_plane; go_kubelet_on_our_runtime
  eventually 90 k wait --for=condition=Ready --timeout=1s "node/$node"
  [ "$(k get node "$node" -o jsonpath='{.status.nodeInfo.containerRuntimeVersion}' | cut -d: -f1)" = knarr ]
  a_pod_has_it_all foreign
  # Containers do not notice that the process which serves them dies, and the next one finds them.
  kill -9 "$(cat "$REF_DIR/run/containerd.pid")"
  # shellcheck disable=SC2086
  nsenter --target "$(cat "$REF_DIR/run/kubelet.pid")" --mount --net setsid $our_runtime >>"$W/log/runtime" 2>&1 </dev/null &
  echo $! >"$W/runtime.pid"
  eventually 90 [ -S "$W/cri.sock" ]
  eventually 90 k -n foreign exec all -- cat /part/kept
  restarts foreign 1
  a_pod_goes foreign
  # The kubelet collects what is over once a minute.
  eventually 90 nothing_is_left
}
# No keeper but those made ahead, no link of a pod, no record.
nothing_is_left() { [ -z "$(ls -A "$W/cri/cri/pods")" ] && [ -z "$(ls -A "$W/cri/cri/containers")" ] && ! inside ip -o link | grep -q link-netnsid; }
our_kubelet_works_on_containerd() {
  control_plane; our_kubelet_on_containerd
  eventually 90 k wait --for=condition=Ready --timeout=1s "node/$node"
  [ "$(k get node "$node" -o jsonpath='{.status.nodeInfo.containerRuntimeVersion}' | cut -d: -f1)" = containerd ]
  a_pod_has_it_all native
  # A kubelet that is started again finds its pods.
  kill -9 "$(cat "$REF_DIR/run/kubelet.pid")"
  nsenter --target "$(cat "$REF_DIR/run/containerd.pid")" --mount --net setsid "$KNARR" kubelet --data-dir="$W/kdata" --run-dir="$W/krun" \
    --config="$REF_DIR/kubelet.yaml" --kubeconfig="$REF_DIR/kubelet.kubeconfig" --root-dir="$REF_DIR/kubelet" --hostname-override="$node" --node-ip=192.0.2.20 >>"$W/log/kubelet" 2>&1 </dev/null &
  echo $! >"$W/kubelet.pid"
  eventually 90 k -n native exec all -- cat /part/kept
  restarts native 1
  a_pod_goes native
  [ -z "$(inside ctr -a "$REF_DIR/ctd/containerd.sock" -n k8s.io containers list -q)" ]
}
# Nobody schedules, so that pods are made and go at once. Everything that the API server says reaches the controllers 2 s late.
controllers_that_hear_late_make_no_pod_too_many() {
  local watch
  stop scheduler controllers proxy kubelet apiserver etcd; inside bench/reference.sh down >/dev/null 2>&1 || true
  rm -rf "$W/apiserver"; inside bench/reference.sh certs >/dev/null
  apiserver "$KNARR" kube-apiserver -- --data-dir="$W/apiserver"
  start relay python3 dev/late.py 6444 6443 2
  sed 's/:6443/:6444/' "$REF_DIR/kcm.kubeconfig" >"$W/late.kubeconfig"
  CONTROLLERS_CONFIG=$W/late.kubeconfig controllers "$KNARR" kube-controller-manager
  k create namespace late && eventually 120 k -n late get serviceaccount default
  k -n late get pods --watch --output-watch-events --no-headers >"$W/told" & watch=$!
  k -n late apply -f - <<Y
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {replicas: 5, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: sums}
spec: {completions: 6, parallelism: 3, template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec: {replicas: 3, podManagementPolicy: Parallel, serviceName: db, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: i}]}}}
Y
  eventually 60 late_pods 5 3 3
  # While the controllers still hear of the last change: more, one gone, fewer.
  k -n late scale deployment web --replicas=9
  k -n late delete pod db-1 "$(k -n late get pods -l app=web -o name | head -n 1 | cut -d/ -f2)"
  eventually 60 late_pods 9 3 3
  k -n late scale deployment web --replicas=4
  eventually 60 late_pods 4 3 3
  # Long enough for what was decided on late news to show.
  k -n late create configmap end; k -n late annotate deployment web later=1; eventually 60 observed; sleep 6
  late_pods 4 3 3
  kill "$watch"
  # 5 and 4 more, and 1 for the one that was deleted; never more than 9 at a time.
  awk '$2 ~ /^web-/ { if ($1 == "ADDED") { made++; now++ } if ($1 == "DELETED") now--; if (now > most) most = now } END { print "web:", made, most; exit !(made == 10 && most == 9) }' "$W/told"
  awk '$2 ~ /^sums-/ && $1 == "ADDED" { made++ } END { print "sums:", made; exit made != 3 }' "$W/told"
  awk '$2 ~ /^db-/ && $1 == "ADDED" { made++ } END { print "db:", made; exit made != 4 }' "$W/told"
  stop relay controllers apiserver
}
late_pods() { [ "$(k -n late get pods -o name | sed 's/.*\///; s/-.*//' | sort | uniq -c | awk '{ print $2 $1 }' | tr '\n' ' ')" = "db$2 sums$3 web$1 " ]; }
observed() { [ "$(k -n late get deployment web -o jsonpath='{.status.observedGeneration}')" = "$(k -n late get deployment web -o jsonpath='{.metadata.generation}')" ]; }
# Whoever renews certificates writes files, the certificate and its key one after the other.
certificates_are_followed() {
  local before
  stop scheduler controllers proxy kubelet apiserver etcd; inside bench/reference.sh down >/dev/null 2>&1 || true
  rm -rf "$W/apiserver"; inside bench/reference.sh certs >/dev/null
  apiserver "$KNARR" kube-apiserver -- --data-dir="$W/apiserver"
  before=$(shown_serial)
  openssl req -newkey rsa:2048 -nodes -keyout "$W/new.key" -out "$W/new.csr" -subj /CN=kube-apiserver 2>/dev/null
  echo subjectAltName=DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1,IP:192.0.2.20,IP:192.0.2.21 >"$W/ext"
  openssl x509 -req -in "$W/new.csr" -CA "$P/ca.crt" -CAkey "$P/ca.key" -CAcreateserial -out "$W/new.crt" -days 365 -extfile "$W/ext" 2>/dev/null
  cat "$W/new.crt" >"$P/apiserver.crt"; eventually 10 usable apiserver.crt 0
  [ "$(shown_serial)" = "$before" ]
  cat "$W/new.key" >"$P/apiserver.key"; eventually 10 usable apiserver.crt 1
  [ "$(shown_serial)" != "$before" ]
  # Another authority vouches for clients, for a while.
  openssl req -x509 -newkey rsa:2048 -nodes -keyout "$W/other-ca.key" -out "$W/other-ca.crt" -days 365 -subj /CN=other 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -keyout "$W/other.key" -out "$W/other.csr" -subj /CN=somebody 2>/dev/null
  openssl x509 -req -in "$W/other.csr" -CA "$W/other-ca.crt" -CAkey "$W/other-ca.key" -CAcreateserial -out "$W/other.crt" -days 365 -extfile <(echo extendedKeyUsage=clientAuth) 2>/dev/null
  answers_somebody 401
  cp "$P/ca.crt" "$W/ca.crt"
  cat "$W/other-ca.crt" >>"$P/ca.crt"; eventually 10 answers_somebody 200
  eventually 10 told_of_authorities 2
  # Callers follow theirs as well: that of a scheduler is vouched for by the authority that goes, and then by the one that stays.
  caller_certificate "$W/other-ca"; caller_config
  start caller "$KNARR" kube-scheduler --kubeconfig="$W/caller.kubeconfig" --secure-port=0 --leader-elect=true --leader-elect-lease-duration=60s --leader-elect-renew-deadline=50s --leader-elect-retry-period=1s
  before=; eventually 60 lease_is_renewed
  caller_certificate "$P/ca"
  cat "$W/ca.crt" >"$P/ca.crt"; eventually 10 answers_somebody 401
  eventually 10 told_of_authorities 1
  stop apiserver; apiserver "$KNARR" kube-apiserver -- --data-dir="$W/apiserver"
  before=$(renewal); eventually 40 lease_is_renewed; stop caller
  echo nonsense >"$P/ca.crt"; eventually 10 usable ca.crt 0; k get namespaces
  cat "$W/ca.crt" >"$P/ca.crt"; eventually 10 usable ca.crt 1
  stop apiserver
}
renewal() { k -n kube-system get lease kube-scheduler -o jsonpath='{.spec.renewTime}'; }
lease_is_renewed() { local now; now=$(renewal) && [ -n "$now" ] && [ "$now" != "$before" ]; }
# A scheduler's certificate, from an authority's files.
caller_certificate() { # authority
  openssl req -newkey rsa:2048 -nodes -keyout "$W/caller.key.new" -out "$W/caller.csr" -subj /CN=system:kube-scheduler 2>/dev/null
  openssl x509 -req -in "$W/caller.csr" -CA "$1.crt" -CAkey "$1.key" -CAcreateserial -out "$W/caller.crt.new" -days 365 -extfile <(echo extendedKeyUsage=clientAuth) 2>/dev/null
  mv "$W/caller.key.new" "$W/caller.key"; mv "$W/caller.crt.new" "$W/caller.crt"
}
caller_config() {
  kubectl config view --raw --kubeconfig "$REF_DIR/sched.kubeconfig" -o json |
    jq --arg cert "$W/caller.crt" --arg key "$W/caller.key" '.users[].user = {"client-certificate": $cert, "client-key": $key}' >"$W/caller.kubeconfig"
}
shown_serial() { inside openssl s_client -connect 127.0.0.1:6443 </dev/null 2>/dev/null | openssl x509 -noout -serial; }
usable() { k get --raw /metrics | grep -F "knarr_config_file_usable" | grep -F "/$1\"} $2"; }
answers_somebody() {
  local code
  code=$(inside curl -sSk -o /dev/null -w '%{http_code}' --cert "$W/other.crt" --key "$W/other.key" https://127.0.0.1:6443/api)
  echo "somebody: $code"; [ "$code" = "$1" ]
}
told_of_authorities() { [ "$(k -n kube-system get configmap extension-apiserver-authentication -o jsonpath='{.data.client-ca-file}' | grep -c BEGIN)" = "$1" ]; }
lines_are_refused_in_the_real_ones_words() {
  local part
  for part in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet; do
    [ "$("$KNARR" $part --nothing=1 2>&1)" = "Error: unknown flag: --nothing" ] || { "$KNARR" $part --nothing=1; return 1; }
    "$KNARR" $part --help | grep -- '--kubeconfig\|--etcd-servers'
    "$KNARR" $part --version | grep -q '^Kubernetes v1'
  done
}

# --- Running them ---------------------------------------------------------------------------------------------------

ok=0 bad=0
for name in lines_are_refused_in_the_real_ones_words several_api_servers_are_one_cluster ours_work_on_the_go_api_server api_servers_take_over_each_others_etcd go_components_work_on_our_api_server controllers_that_hear_late_make_no_pod_too_many certificates_are_followed \
  the_go_kubelet_works_on_our_runtime our_kubelet_works_on_containerd; do
  [[ $name == *"${FOCUS:-}"* ]] || continue
  begin=$EPOCHREALTIME
  (set -e; $name) >"$W/output" 2>&1
  if [ $? = 0 ]; then word=ok; ok=$((ok + 1)); else word=FAILED; bad=$((bad + 1)); fi
  echo "test twins::$name ... $word"
  [ $word = ok ] || sed 's/^/    /' "$W/output" | tail -n 30
  echo "    $(awk "BEGIN { printf \"%.1f s\", $EPOCHREALTIME - $begin }")"
done
if [ $bad -gt 0 ]; then mkdir -p target/test/twins; cp "$W"/log/* "$REF_DIR"/log/* target/test/twins/ 2>/dev/null; fi
echo "test result: $([ $bad = 0 ] && echo ok || echo FAILED). $ok passed; $bad failed; 0 ignored"
[ $bad = 0 ]
