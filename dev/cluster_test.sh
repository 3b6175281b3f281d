#!/bin/bash
# A real server, real containers and the real kubectl, as a user would: one test a function, told in cargo's words.
# KNARR: the program; KUBECTL: kubectl 1.36, HELM: helm, may be empty; FOCUS: a part of the names of the tests to run.
set -uo pipefail
cd "$(dirname "$0")/.."
. dev/world.sh
KNARR=$(realpath "${KNARR:-target/debug/knarr}") KUBECTL=${KUBECTL:-} HELM=${HELM:-}
image=knarr.io/demo

k() { on a "$KUBECTL" "$@"; }
n() { on a "$KNARR" "$@"; }
same() { [ "$1" = "$2" ] || { echo "expected: $2"; echo "     got: $1"; return 1; }; }
like() { [[ $1 == *"$2"* ]] || { echo "expected it to hold: $2"; echo "got: $1"; return 1; }; }
fetch() { on a curl -sS --max-time 30 "$@"; }

# --- With no client but our own -------------------------------------------------------------------------------------

own_status_waits_by_name() {
  like "$(world_status)" ready
  same "$(world_status -o json | jq .ready)" true
}

own_images_are_imported_and_listed() {
  like "$(n image --run-dir "$WORLD/a/run" list)" "$image:1"
}

own_verbs_carry_a_newcomer() {
  cat >"$WORLD/own.yaml" <<Y
apiVersion: v1
kind: Namespace
metadata: {name: own}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello, namespace: own}
spec:
  replicas: 2
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec: {containers: [{name: demo, image: "$image:1"}]}
Y
  n apply -f "$WORLD/own.yaml"
  n wait --for=condition=Available --timeout=120s -n own deployment/hello
  like "$(n get -n own deployments)" 2/2
  same "$(n get -n own pods -l app=hello -o json | jq '.items | length')" 2
  local pod; pod=$(n get -n own pods -o json | jq -r '.items[0].metadata.name')
  like "$(n logs -n own "$pod")" "version 1"
  like "$(n exec -n own "$pod" -- cat /etc/hostname)" "$pod"
  like "$(n describe -n own pod "$pod")" "$image:1"
  n delete namespace own
  eventually 90 gone n get namespace own
}
gone() { ! "$@"; }

# The node's own numbers show at the server too, since both are one process here; every line is the text format.
own_metrics_name_what_dashboards_ask_for() {
  n apply -f - <<<'{apiVersion: v1, kind: Pod, metadata: {name: counted}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: demo, image: "'$image':1", livenessProbe: {tcpSocket: {port: 80}, periodSeconds: 1}}]}}'
  n wait --for=condition=Ready --timeout=120s pod/counted
  local server=https://127.0.0.1:6443/metrics node=https://192.0.2.10:10250/metrics
  eventually 90 counts "$node/probes" 1 1000 prober_probe_total 'container="demo"' 'pod="counted"' 'probe_type="Liveness"' 'result="successful"'
  local page
  for page in "$server" "$node"; do
    scrape "$page" >"$WORLD/page"
    same "$(grep -vE '^# (HELP|TYPE) [a-z0-9_]+ |^[a-z][a-z0-9_]*([{]([a-z_]+="([^"\\]|\\.)*",?)*[}])? [0-9]+([.][0-9]+)?$' "$WORLD/page")" ""
    same "$(grep '^# TYPE' "$WORLD/page" | cut -d' ' -f3 | sort | uniq -d)" ""
    counts "$page" 1 500 kubelet_running_pods
    counts "$page" 1 500 kubelet_running_containers 'container_state="running"'
    counts "$page" 1 500 kubelet_pod_start_duration_seconds_count
    counts "$page" 0.001 600 kubelet_pod_start_duration_seconds_sum
    counts "$page" 1 1000000 kubelet_pod_worker_duration_seconds_count 'operation_type="sync"'
    local phase; for phase in image volumes sandbox network create start; do counts "$page" 1 500 knarr_pod_start_phase_seconds_count "phase=\"$phase\""; done
    counts "$page" 0.01 100000 process_cpu_seconds_total
    counts "$page" 5000000 4000000000 process_resident_memory_bytes
    counts "$page" 5000000 99999999999999 process_virtual_memory_bytes
    counts "$page" 5 10000 process_open_fds
    counts "$page" 100 99999999999999999999 process_max_fds
    counts "$page" "$(($(date +%s) - 3600))" "$(($(date +%s) + 2))" process_start_time_seconds
    counts "$page" 5000000 4000000000 knarr_memory_pss_bytes 'part="server"'
    counts "$page" 100000 500000000 knarr_memory_pss_bytes 'part="keepers"'
    counts "$page" 10000 50000000 knarr_memory_pss_bytes 'part="dns"'
  done
  counts "$server" 1 1000000 apiserver_request_total 'resource="pods"' 'code="201"'
  counts "$server" 1 1000000 knarr_store_commit_duration_seconds_count
  counts "$server" 0.000001 600 knarr_store_sync_duration_seconds_sum
  counts "$server" 1 1000000 knarr_store_batch_size_count
  counts "$server" 1 100000 knarr_store_watchers
  counts "$server" 0 1000000 knarr_store_history_floor
  counts "$server" 1 99999999999 knarr_store_history_bytes
  same "$(scrape "$server" | grep -c '^workqueue_depth{')" "$(scrape "$server" | grep -c '^workqueue_work_duration_seconds_count{')"
  counts "$server" 1 1000000 workqueue_adds_total 'name="serviceaccount'
  counts "$server" 0 1000000 workqueue_retries_total 'name="serviceaccount'
  counts "$server" 1 1000000 scheduler_schedule_attempts_total 'result="scheduled"' 'profile="default-scheduler"'
  counts "$server" 1 1000000 scheduler_scheduling_attempt_duration_seconds_count 'result="scheduled"'
  counts "$server" 0 0 scheduler_pending_pods 'queue="active"'
  n delete pod counted
}
scrape() { fetch --fail -k --cert "$(find "$WORLD/a/data/pki" -name admin.crt)" --key "$(find "$WORLD/a/data/pki" -name admin.key)" "$@"; }
# The first number of a name with these labels lies between two bounds.
counts() { # url least most name label...
  local url=$1 least=$2 most=$3 name=$4 found label; shift 4
  found=$(scrape "$url" | grep -E "^$name[{ ]")
  for label in "$@"; do found=$(grep -F "$label" <<<"$found"); done
  awk -v least="$least" -v most="$most" 'NR == 1 { good = $NF >= least && $NF <= most } END { exit !good }' <<<"$found" || { echo "$url: $name $* is not between $least and $most: $found"; return 1; }
}

own_log_levels_change_while_it_runs() {
  same "$(n log-level --run-dir "$WORLD/a/run")" info
  same "$(n log-level --run-dir "$WORLD/a/run" info,kubelet=debug)" info,kubelet=debug
  same "$(n log-level --run-dir "$WORLD/a/run")" info,kubelet=debug
  like "$(n log-level --run-dir "$WORLD/a/run" verbose 2>&1 || true)" 'log level "verbose"'
  same "$(n log-level --run-dir "$WORLD/a/run" info)" info
}

own_verbs_follow_and_use_terminals() {
  n apply -f - <<<'{apiVersion: v1, kind: Pod, metadata: {name: alone}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: demo, image: "'$image':1"}]}}'
  n wait --for=condition=Ready --timeout=120s pod/alone
  behind "$KNARR" get pods -w >"$WORLD/watched" 2>&1 & local watching=$!
  behind "$KNARR" logs -f alone >"$WORLD/followed" 2>&1 & local following=$!
  eventually 90 grep -q '^alone' "$WORLD/watched"
  eventually 90 grep -q 'version 1' "$WORLD/followed"
  converse "$KNARR" exec -it alone -- sh
  n delete pod alone
  eventually 90 grep -q Terminating "$WORLD/watched"
  wait $following
  kill $watching
}

# Becomes a command on side a, so that the number of the job is that of the command's process.
behind() { exec nsenter --net="/run/netns/${WORLD_ID}a" "$@"; }

# Types into a command that runs on a terminal of its own until what was typed is carried out, and ends it by ^D. A key
# that comes before the other side listens may get lost, so that it is typed again.
converse() { # command...
  rm -f "$WORLD/keys"; mkfifo "$WORLD/keys"
  script -qec "nsenter --net=/run/netns/${WORLD_ID}a $*" /dev/null <"$WORLD/keys" >"$WORLD/screen" 2>&1 &
  local talk=$!
  exec 7>"$WORLD/keys"
  eventually 90 typed
  printf '\004' >&7
  exec 7>&-
  wait $talk || { cat "$WORLD/screen"; return 1; }
}
typed() { printf 'echo one two\r' >&7; tr -d '\r' <"$WORLD/screen" | grep -qx 'one two'; }

# --- With kubectl ---------------------------------------------------------------------------------------------------

kubectl_deploys_and_exposes() {
  k create deployment web --image=$image:1 --replicas=3 --port=80
  k rollout status deployment/web --timeout=120s
  k expose deployment web --port=80 --type=NodePort
  eventually 90 fetch "http://$(k get service web -o jsonpath='{.spec.clusterIP}')/"
  eventually 90 fetch "http://192.0.2.10:$(k get service web -o jsonpath='{.spec.ports[0].nodePort}')/"
  local pod; pod=$(k get pods -l app=web -o jsonpath='{.items[0].metadata.name}')
  eventually 90 k exec "$pod" -- wget http://web.default.svc.cluster.local/
  like "$(k get deployment web)" "3/3     3            3"
}

kubectl_scales_and_rolls_without_a_failed_request() {
  k scale deployment web --replicas=4
  k rollout status deployment/web --timeout=120s
  k patch deployment web -p '{"spec":{"template":{"spec":{"containers":[{"name":"demo","readinessProbe":{"httpGet":{"port":80},"periodSeconds":1},"lifecycle":{"preStop":{"sleep":{"seconds":2}}}}]}}}}'
  k rollout status deployment/web --timeout=120s
  local address; address=$(k get service web -o jsonpath='{.spec.clusterIP}')
  : >"$WORLD/failures"; touch "$WORLD/go-on"
  (while [ -e "$WORLD/go-on" ]; do fetch -o /dev/null --fail "http://$address/" 2>>"$WORLD/failures"; sleep 0.02; done) &
  local loop=$!
  k set image deployment/web demo=$image:2
  k rollout status deployment/web --timeout=120s
  rm "$WORLD/go-on"; wait "$loop"
  same "$(cat "$WORLD/failures")" ""
  eventually 90 serves_version "$address" 2
  k rollout undo deployment/web
  k rollout status deployment/web --timeout=120s
  eventually 90 serves_version "$address" 1
}

# Endpoints of pods that are leaving go a moment after the rollout is over.
serves_version() { # address version
  fetch "http://$1/" | grep -q "version $2"
}

kubectl_looks_into_pods() {
  k run tool --image=$image:1
  k wait --for=condition=Ready pod/tool --timeout=120s
  like "$(k logs tool)" "version 1"
  same "$(k exec tool -- hostname)" tool
  same "$(echo from here | k exec -i tool -- cat)" "from here"
  like "$(k describe pod tool)" "Successfully assigned default/tool to node-a"
  nsenter --net="/run/netns/${WORLD_ID}a" "$KUBECTL" port-forward pod/tool 18080:80 >"$WORLD/forward" 2>&1 &
  local forward=$!
  eventually 90 fetch http://127.0.0.1:18080/
  kill $forward; wait $forward 2>/dev/null || true
  k delete pod tool --grace-period=1 --timeout=120s
}

kubectl_talks_to_containers() {
  k apply -f - <<Y
apiVersion: v1
kind: Pod
metadata: {name: desk}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: demo, image: "$image:1", volumeMounts: [{name: tar, mountPath: /bin/tar}, {name: files, mountPath: /files}]}]
  volumes: [{name: tar, hostPath: {path: "$(command -v busybox)", type: File}}, {name: files, emptyDir: {}}]
Y
  k wait --for=condition=Ready pod/desk --timeout=120s
  behind "$KUBECTL" get pods -w >"$WORLD/watched" 2>&1 & local watching=$!
  behind "$KUBECTL" logs -f desk >"$WORLD/followed" 2>&1 & local following=$!
  converse "$KUBECTL" exec -it desk -- sh
  local code=0; k exec desk -- sh -c 'cat /no/such/file' || code=$?
  same $code 1
  head -c 3000000 /dev/urandom >"$WORLD/sent"
  k cp "$WORLD/sent" desk:/files/sent
  k cp desk:/files/sent "$WORLD/back"
  cmp "$WORLD/sent" "$WORLD/back"
  eventually 90 grep -q 'version 1' "$WORLD/followed"
  k run talk --image=$image:1 --stdin --attach=false --restart=Never --command -- cat
  k wait --for=condition=Ready pod/talk --timeout=120s
  like "$(echo some words | k attach -i talk 2>/dev/null)" "some words"
  k wait --for='jsonpath={.status.phase}=Succeeded' pod/talk --timeout=120s
  same "$(k logs talk)" "some words"
  eventually 90 grep -qE '^talk +0/1 +Completed' "$WORLD/watched"
  k delete pod desk talk --timeout=120s
  wait $following
  kill $watching
}

kubectl_applies_twenty_objects_on_the_server() {
  local number
  for number in 1 2 3 4; do
    printf -- '---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: part%d, labels: {set: twenty}}\ndata: {number: "%d"}\n' $number $number
    printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {name: part%d, labels: {set: twenty}}\ndata: {number: MQ==}\n' $number
    printf -- '---\napiVersion: v1\nkind: Service\nmetadata: {name: part%d, labels: {set: twenty}}\nspec: {selector: {app: part%d}, ports: [{port: 80}]}\n' $number $number
    printf -- '---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: part%d, labels: {set: twenty}}\n' $number
    printf -- '---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: part%d, labels: {set: twenty}}\nspec: {selector: {matchLabels: {app: part%d}}, template: {metadata: {labels: {app: part%d}}, spec: {terminationGracePeriodSeconds: 1, serviceAccountName: part%d, containers: [{name: demo, image: "%s:1"}]}}}\n' $number $number $number $number $image
  done >"$WORLD/twenty.yaml"
  same "$(k apply --server-side -f "$WORLD/twenty.yaml" | grep -c ' serverside-applied$')" 20
  k wait --for=condition=Available deployment -l set=twenty --timeout=120s
  local kinds=configmaps,secrets,services,serviceaccounts versions
  versions=$(k get $kinds -l set=twenty -o jsonpath='{.items[*].metadata.resourceVersion}')
  same "$(k apply --server-side -f "$WORLD/twenty.yaml" | wc -l)" 20
  same "$(k get $kinds -l set=twenty -o jsonpath='{.items[*].metadata.resourceVersion}')" "$versions"
  like "$(sed 's/number: "1"/number: "9"/' "$WORLD/twenty.yaml" | k apply --server-side --field-manager=other -f - 2>&1 || true)" 'conflict with "kubectl": .data.number'
  k delete -f "$WORLD/twenty.yaml" --timeout=120s
  same "$(k get $kinds,deployments -l set=twenty -o name)" ""
}

helm_carries_a_chart() {
  [ -x "$HELM" ] || { echo "helm is missing"; return; }
  (cd "$WORLD" && HOME=$WORLD on a "$HELM" create chart)
  h install chart "$WORLD/chart" --set "image.repository=$image,image.tag=1" --wait --timeout 120s
  like "$(h list)" deployed
  like "$(fetch "http://$(k get service chart -o jsonpath='{.spec.clusterIP}')/")" "version 1"
  h upgrade chart "$WORLD/chart" --set "image.repository=$image,image.tag=2,replicaCount=2" --wait --timeout 120s
  same "$(k get deployment chart -o jsonpath='{.status.readyReplicas} {.spec.template.spec.containers[0].image}')" "2 $image:2"
  h rollback chart 1 --wait --timeout 120s
  same "$(k get deployment chart -o jsonpath='{.status.readyReplicas} {.spec.template.spec.containers[0].image}')" "1 $image:1"
  same "$(h history chart -o json | jq 'map(.status) == ["superseded", "superseded", "deployed"]')" true
  h uninstall chart --wait --timeout 120s
  eventually 90 nothing_of_the_chart
}
nothing_of_the_chart() { same "$(k get all,secrets,serviceaccounts -l app.kubernetes.io/instance=chart -o name)" ""; }
h() { HOME=$WORLD on a "$HELM" "$@"; }

kubectl_applies_on_both_sides() {
  cat >"$WORLD/objects.yaml" <<Y
apiVersion: v1
kind: ConfigMap
metadata: {name: facts}
data: {one: "1"}
---
apiVersion: v1
kind: Secret
metadata: {name: words}
stringData: {word: quiet}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: $image:1
        command: [cat, /etc/facts/one, /etc/words/word]
        volumeMounts: [{name: facts, mountPath: /etc/facts}, {name: words, mountPath: /etc/words}]
      volumes:
      - {name: facts, configMap: {name: facts}}
      - {name: words, secret: {secretName: words}}
Y
  k apply -f "$WORLD/objects.yaml"
  like "$(k apply -f "$WORLD/objects.yaml")" "configmap/facts unchanged"
  k wait --for=condition=Complete job/once --timeout=120s
  same "$(k logs job/once | tr -d '\n')" 1quiet
  sed 's/one: "1"/one: "2"/' "$WORLD/objects.yaml" | k apply --server-side --force-conflicts -f -
  same "$(k get configmap facts -o jsonpath='{.data.one}')" 2
  k delete -f "$WORLD/objects.yaml" --timeout=120s
}

kubectl_explains_and_asks() {
  like "$(k explain pod.spec --recursive)" "terminationGracePeriodSeconds"
  like "$(k auth can-i --list)" "*.*"
  like "$(k api-resources)" "deployments"
  same "$(k auth can-i delete pods --as=somebody --as-group=system:authenticated || true)" no
  like "$(k get --raw /readyz)" ok
  like "$(k create -f - 2>&1 <<<'{"apiVersion":"v1","kind":"Pod","metadata":{"name":"Bad"},"spec":{"containers":[]}}')" "is invalid"
}

# --- Faults ---------------------------------------------------------------------------------------------------------

containers_outlive_a_killed_server() {
  k get deployment web >/dev/null || return 1
  k create configmap before --from-literal=key=value
  local before; before=$(started)
  [ -n "$before" ] || { echo "no container was found"; return 1; }
  world_stop a KILL
  same "$(containers | wc -l)" "$(wc -l <<<"$before")"
  world_server
  world_status --wait --timeout 120
  same "$(k get configmap before -o jsonpath='{.data.key}')" value
  k rollout status deployment/web --timeout=120s
  same "$(started)" "$before"
  same "$(k get pods -l app=web -o jsonpath='{.items[*].status.containerStatuses[*].restartCount}' | tr -d '0 ')" ""
}
# Process ids of the demo's web servers of side a, and when they started.
containers() { grep -lzx -e serve -e /bin/serve /proc/[0-9]*/cmdline 2>/dev/null | grep -f <(find /sys/fs/cgroup -path "*/${WORLD_ID}a*" -name cgroup.procs -exec cat {} + | sort -u | sed 's|.*|^/proc/&/|'); }
started() { containers | while read -r file; do awk '{ sub(/.*\) /, ""); print FILENAME, $20 }' "${file%cmdline}stat"; done | sort; }

# As a service supervisor does, it starts again at once.
a_kill_in_the_middle_of_everything_loses_nothing() {
  local load; load=$(dirname "$KNARR")/examples/steady
  [ -x "$load" ] || { cargo build -q -p knarr --example steady && load=target/debug/examples/steady; }
  rolled calm 2 1 | n apply -f -
  n wait --for=condition=Available --timeout=120s deployment/calm
  local before holder; before=$(started) holder=$(holders)
  [ "$(wc -l <<<"$before")" -ge 2 ] || { echo "$before"; return 1; }
  rolled restless 6 1 | n apply -f -
  n wait --for=condition=Available --timeout=120s deployment/restless
  same "$(wc -l <<<"$holder")" 1
  touch "$WORLD/steady"
  on a "$load" "$KUBECONFIG" 10.43.0.10:53 "$WORLD/steady" >"$WORLD/steady.out" 2>&1 &
  load=$!
  local kills progress
  rolled restless 6 2 | n apply -f -
  for kills in 1 3 5; do
    eventually 300 updated $kills
    world_stop a KILL
    world_server
    world_status --wait --timeout 120
  done
  for progress in '{.status.updatedReplicas}=6' '{.status.availableReplicas}=6' '{.status.replicas}=6'; do n wait --for="jsonpath=$progress" --timeout=120s deployment/restless; done
  rm "$WORLD/steady"
  wait $load || { cat "$WORLD/steady.out"; return 1; }
  sed 's/^/figures: /' "$WORLD/steady.out"
  same "$(holders)" "$holder"
  # Whoever was there and is not rolled is there still: same processes, begun at the same time.
  eventually 90 pods_are 6 app=restless
  same "$(comm -23 <(echo "$before") <(started))" ""
  same "$(n get pods -o json | jq '[.items[].status.containerStatuses[].restartCount] | add')" 0
  n delete deployment calm restless
}
rolled() { # name replicas version
  cat <<Y
apiVersion: apps/v1
kind: Deployment
metadata: {name: $1}
spec:
  replicas: $2
  minReadySeconds: 1
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  selector: {matchLabels: {app: $1}}
  template:
    metadata: {labels: {app: $1}}
    spec:
      terminationGracePeriodSeconds: 2
      containers: [{name: demo, image: "$image:$3", readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}}]
Y
}
updated() { [ "$(n get deployment restless -o json | jq '.status.updatedReplicas // 0')" -ge "$1" ]; }
pods_are() { same "$(n get pods -l "$2" -o name | wc -l)" "$1"; } # count selector

# Processes that hold sockets for side a.
holders() { find /sys/fs/cgroup -path "*/${WORLD_ID}a/sockets/cgroup.procs" -exec cat {} + | sort -u; }

a_holder_that_dies_is_replaced() {
  local holder; holder=$(holders)
  kill -9 "$holder"
  eventually 90 another_holder "$holder"
  world_stop a KILL
  world_server
  world_status --wait --timeout 120
  same "$(holders | wc -l)" 1
  grep 'DNS sockets' "$WORLD/a/log/knarr" | tail -n 1 | grep 'held=2 opened=0'
}
another_holder() { local now; now=$(holders); [ -n "$now" ] && [ "$now" != "$1" ]; }

# --- A second node --------------------------------------------------------------------------------------------------

static_pods_outlive_a_killed_server() {
  mkdir -p "$WORLD/a/manifests"
  cat >"$WORLD/a/manifests/own.yaml" <<Y
apiVersion: v1
kind: Pod
metadata: {name: own}
spec: {containers: [{name: demo, image: "$image:1"}]}
Y
  eventually 90 ready_static
  local before; before=$(started)
  world_stop a KILL
  world_server
  world_status --wait --timeout 120
  eventually 90 ready_static
  same "$(started)" "$before"
  same "$(k get pod own-node-a -o jsonpath='{.status.containerStatuses[0].restartCount}')" 0
  rm "$WORLD/a/manifests/own.yaml"
  eventually 90 gone k get pod own-node-a
}
ready_static() { [ "$(k get pod own-node-a -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}')" = True ]; }

# A kubelet on its own is let in by a bootstrap token, and asks for both of its certificates.
a_kubelet_joins_by_a_bootstrap_kubeconfig() {
  local token dir=$WORLD/b; token=$(n token create | sed -n 's/.*--token \([^ ]*\).*/\1/p')
  mkdir -p "$dir/files"
  cat >"$dir/files/bootstrap" <<Y
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://192.0.2.10:6443", certificate-authority-data: "$(fetch -k https://127.0.0.1:6443/cacerts | base64 -w0)"}}]
users: [{name: u, user: {token: "${token##*::}"}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
Y
  cat >"$dir/files/config" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, x509: {clientCAFile: $WORLD/a/data/pki/client-ca.crt}}
serverTLSBootstrap: true
rotateCertificates: true
cgroupRoot: /${WORLD_ID}b
clusterDNS: [10.43.0.10]
clusterDomain: cluster.local
evictionHard: {memory.available: 100Mi, nodefs.available: 1%}
imageGCHighThresholdPercent: 100
podLogsDir: $dir/log/pods
resolvConf: $dir/resolv.conf
Y
  lone_kubelet --bootstrap-kubeconfig="$dir/files/bootstrap"
  eventually 90 k get node node-b
  k wait --for=condition=Ready node/node-b --timeout=120s
  same "$(stat -c %a "$dir/files/kubeconfig" "$dir/files/pki/client.pem" | tr '\n' ' ')" "600 600 "
  eventually 30 names_in 192.0.2.11:10250 192.0.2.11
  like "$(on a openssl s_client -connect 192.0.2.11:10250 </dev/null 2>/dev/null | openssl x509 -noout -issuer)" knarr-server-ca
  on b "$KNARR" image --run-dir "$dir/run" import --demo
  k run lone --image=$image:1 --overrides='{"spec":{"nodeName":"node-b","terminationGracePeriodSeconds":1}}'
  k wait --for=condition=Ready pod/lone --timeout=120s
  like "$(k logs lone)" "version 1"
  # The next start needs nothing of it.
  rm "$dir/files/bootstrap"
  local before; before=$(k get csr -o name | wc -l)
  world_stop b TERM
  lone_kubelet
  eventually 90 k exec lone -- hostname
  same "$(k get csr -o name | wc -l)" "$before"
  same "$(k get pod lone -o jsonpath='{.status.containerStatuses[0].restartCount}')" 0
  k delete pod lone --timeout=60s
  world_stop b TERM
  k delete node node-b
  rm -r "$dir/files"
}
lone_kubelet() { # flags...
  local dir=$WORLD/b
  nsenter --net="/run/netns/${WORLD_ID}b" setsid "$KNARR" kubelet --config="$dir/files/config" --kubeconfig="$dir/files/kubeconfig" --hostname-override=node-b \
    --root-dir="$dir/kubelet" --cert-dir="$dir/files/pki" --data-dir="$dir/data" --run-dir="$dir/run" --cluster-ranges=10.42.0.0/16,10.43.0.0/16 "$@" >>"$dir/log/knarr" 2>&1 </dev/null &
  echo $! >"$dir/pid"
}

a_second_node_joins_and_its_pods_are_reached() {
  local token; token=$(n token create | sed -n 's/.*--token \([^ ]*\).*/\1/p')
  [ -n "$token" ] || { echo "no token was printed"; return 1; }
  world_agent "$token"
  eventually 90 k get node node-b
  k wait --for=condition=Ready node/node-b --timeout=120s
  on b "$KNARR" image --run-dir "$WORLD/b/run" import --demo
  k run far --image=$image:2 --overrides='{"spec":{"nodeName":"node-b"}}' --port=80 --expose
  k wait --for=condition=Ready pod/far --timeout=120s
  local near; near=$(k get pods -l app=web -o jsonpath='{.items[?(@.spec.nodeName=="node-a")].metadata.name}' | cut -d' ' -f1)
  like "$(k exec "$near" -- wget "http://$(k get pod far -o jsonpath='{.status.podIP}')/")" "version 2"
  eventually 90 k exec "$near" -- wget http://far.default.svc.cluster.local/
  like "$(k logs far)" "version 2"
}

# What both sides are known by follows their addresses, and what went over the old ones goes on.
an_agents_address_changes() {
  local begin=$EPOCHREALTIME
  on b ip addr flush dev up0; on b ip addr add 192.0.2.21/24 dev up0; on b ip route replace default dev up0
  eventually 10 same_text 192.0.2.21 k get node node-b -o 'jsonpath={.status.addresses[?(@.type=="InternalIP")].address}'
  eventually 10 names_in 192.0.2.21:10250 192.0.2.21
  eventually 10 k logs far
  # Watches of the agent: a pod is seen and runs, and the way between the pods of both sides is back.
  k run moved --image=$image:1 --overrides='{"spec":{"nodeName":"node-b","terminationGracePeriodSeconds":1}}'
  k wait --for=condition=Ready pod/moved --timeout=60s
  local near; near=$(k get pods -l app=web -o jsonpath='{.items[?(@.spec.nodeName=="node-a")].metadata.name}' | cut -d' ' -f1)
  eventually 10 k exec "$near" -- wget "http://$(k get pod far -o jsonpath='{.status.podIP}')/"
  echo "figures: everything went on $(awk "BEGIN { printf \"%.1f s\", $EPOCHREALTIME - $begin }") after the agent's address changed"
  k delete pod moved --timeout=60s
}
a_servers_address_changes() {
  on a ip addr flush dev up0; on a ip addr add 192.0.2.20/24 dev up0; on a ip route replace default dev up0
  eventually 10 same_text 192.0.2.20 k get endpoints kubernetes -o 'jsonpath={.subsets[*].addresses[*].ip}'
  eventually 10 same_text 192.0.2.20 k get endpointslice kubernetes -o 'jsonpath={.endpoints[*].addresses[*]}'
  eventually 10 names_in 192.0.2.20:6443 192.0.2.20
  eventually 10 names_in 192.0.2.20:10250 192.0.2.20
  local near; near=$(k get pods -l app=web -o jsonpath='{.items[?(@.spec.nodeName=="node-a")].metadata.name}' | cut -d' ' -f1)
  eventually 10 k logs "$near"
  # The Service leads there too.
  like "$(fetch -k "https://$(k get service kubernetes -o jsonpath='{.spec.clusterIP}')/version")" gitVersion
  # The agent knows the server by its old address only.
  on a ip addr add 192.0.2.10/24 dev up0
  k wait --for=condition=Ready node/node-b --timeout=120s
  on a ip addr flush dev up0; on a ip addr add 192.0.2.10/24 dev up0; on a ip route replace default dev up0
  eventually 10 same_text 192.0.2.10 k get endpoints kubernetes -o 'jsonpath={.subsets[*].addresses[*].ip}'
  eventually 10 names_in 192.0.2.10:6443 192.0.2.10
  on b ip addr flush dev up0; on b ip addr add 192.0.2.11/24 dev up0; on b ip route replace default dev up0
  eventually 10 names_in 192.0.2.11:10250 192.0.2.11
  eventually 20 k logs far
}
same_text() { local wanted=$1; shift; same "$("$@")" "$wanted"; }
names_in() { # address name
  local names; names=$(on a openssl s_client -connect "$1" </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName) && [[ $names == *"$2"* ]]
}

# --- The end --------------------------------------------------------------------------------------------------------

# Settings that the kernel changes by itself.
volatile='^fs\.\|^kernel\.\|^vm\.\|^net\.netfilter\.nf_conntrack_count\|^net\.ipv4\.tcp_\(mem\|fastopen_key\)\|^user\.\|^sunrpc\.'
uninstall_leaves_nothing() {
  world_stop a TERM; world_stop b TERM
  local side holder; holder=$(holders)
  [ -n "$holder" ] || { echo "nobody holds the sockets"; return 1; }
  for side in a b; do
    [ -d "$WORLD/$side/data" ] || continue
    on $side "$KNARR" uninstall --data --write-kubeconfig "$WORLD/$side/none" --data-dir "$WORLD/$side/data" --run-dir "$WORLD/$side/run" --cgroup-root "$WORLD_ID$side"
    same "$(on $side nft list tables)" ""
    same "$(on $side ip -o link | grep -vcE ': (lo|up0)[@:]')" 0
    same "$(on $side ip -o addr show dev lo | grep -vcE ' 127\.0\.0\.1/8| ::1/128')" 0
    same "$(grep -c "$WORLD/$side/" /proc/self/mountinfo)" 0
    same "$(find /sys/fs/cgroup -maxdepth 2 -name "$WORLD_ID$side" | wc -l)" 0
    same "$(on $side sysctl -a 2>/dev/null | grep -v "$volatile" | diff "$WORLD/$side.sysctls" -)" ""
    same "$(on $side ss -Hlntu | wc -l)" 0
    same "$(pgrep -f "$WORLD/$side/" | wc -l)" 0
    same "$(find "$WORLD/$side" -mindepth 1 -maxdepth 1 ! -name log ! -name resolv.conf ! -name manifests | wc -l)" 0
  done
}

# --- Running them ---------------------------------------------------------------------------------------------------

all="own_status_waits_by_name own_images_are_imported_and_listed own_metrics_name_what_dashboards_ask_for own_log_levels_change_while_it_runs own_verbs_carry_a_newcomer own_verbs_follow_and_use_terminals"
[ -n "$KUBECTL" ] && all="$all kubectl_deploys_and_exposes kubectl_scales_and_rolls_without_a_failed_request kubectl_looks_into_pods
  kubectl_talks_to_containers kubectl_applies_twenty_objects_on_the_server helm_carries_a_chart kubectl_applies_on_both_sides kubectl_explains_and_asks containers_outlive_a_killed_server static_pods_outlive_a_killed_server a_kubelet_joins_by_a_bootstrap_kubeconfig a_second_node_joins_and_its_pods_are_reached an_agents_address_changes a_servers_address_changes"
all="$all a_kill_in_the_middle_of_everything_loses_nothing a_holder_that_dies_is_replaced uninstall_leaves_nothing"

world_make "$(mktemp -d /tmp/knarr-cluster.XXXXXX)" || exit 1
trap world_remove EXIT
for side in a b; do on $side sysctl -a 2>/dev/null | grep -v "$volatile" >"$WORLD/$side.sysctls"; done
ok=0 bad=0
run() { # name
  local begin=$EPOCHREALTIME output
  output=$( (set -e; "$1") 2>&1)
  if [ $? = 0 ]; then word=ok; ok=$((ok + 1)); else word=FAILED; bad=$((bad + 1)); fi
  echo "test cluster::$1 ... $word"
  if [ $word = ok ]; then sed -n 's/^figures: /    /p' <<<"$output"; else sed 's/^/    /' <<<"$output" | tail -n 40; fi
  echo "    $(awk "BEGIN { printf \"%.1f s\", $EPOCHREALTIME - $begin }")"
}
world_server
if world_status --wait --timeout 120 && on a "$KNARR" image --run-dir "$WORLD/a/run" import --demo; then
  for name in $all; do [[ $name == *"${FOCUS:-}"* ]] && run "$name"; done
else
  bad=1; echo "test cluster::the_server_becomes_ready ... FAILED"
fi
if [ $bad -gt 0 ]; then mkdir -p target/test; for side in a b; do cp "$WORLD/$side/log/knarr" "target/test/cluster-$side.knarr.log" 2>/dev/null; done; fi
echo "test result: $([ $bad = 0 ] && echo ok || echo FAILED). $ok passed; $bad failed; 0 ignored"
[ $bad = 0 ]
