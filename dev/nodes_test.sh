#!/bin/bash
# Several nodes, each in network, mount and UTS name spaces of its own: they join by the token that the server wrote, their
# pods reach each other, they are drained within disruption budgets, and their loss is noticed. Told in cargo's words.
# KNARR: the program; KUBECTL: kubectl 1.36; FOCUS: a part of the names of the tests to run.
set -uo pipefail
cd "$(dirname "$0")/.."
. dev/world.sh
KNARR=$(realpath "${KNARR:-target/debug/knarr}") KUBECTL=${KUBECTL:-kubectl}
image=knarr.io/demo:1
export KNARR CLUSTER_NAME=${CLUSTER_NAME:-knn} CLUSTER_NET=${CLUSTER_NET:-10.89.0} CLUSTER_PODS=${CLUSTER_PODS:-10.54.0.0/16}
export CLUSTER_SERVICES=${CLUSTER_SERVICES:-10.55.0.0/16}
CLUSTER_DIR=${CLUSTER_DIR:-$(mktemp -d /tmp/knarr-nodes.XXXXXX)/cluster}
export CLUSTER_DIR KUBECONFIG=$CLUSTER_DIR/kubeconfig

nodes() { conformance/nodes.sh "$@"; }
k() { "$KUBECTL" "$@"; }
same() { [ "$1" = "$2" ] || { echo "expected: $2"; echo "     got: $1"; return 1; }; }
like() { [[ $1 == *"$2"* ]] || { echo "expected it to hold: $2"; echo "got: $1"; return 1; }; }
fetch() { curl -sS --max-time 30 "$@"; }
get() { local pod=$1; shift; k exec "$pod" -- wget "$@"; } # pod url
field() { k get "$1" "$2" -o "jsonpath=$3"; }
ready() { same "$(field node "$1" '{.status.conditions[?(@.type=="Ready")].status}')" "$2"; }
on_node() { k get pods -l "$1" --field-selector "spec.nodeName=$2" -o name | wc -l; }

# --- Tests, in this order ---------------------------------------------------------------------------------------------

agents_join_by_the_servers_token() {
  same "$(k get nodes -o name | sort | tr '\n' ' ')" "node/n1 node/n2 "
  ready n1 True; ready n2 True
  same "$(stat -c %a "$CLUSTER_DIR/n1/data/token")" 600
  same "$(stat -c %a "$CLUSTER_DIR/n2/data/agent/client.pem")" 600
  like "$(k get csr)" "Approved,Issued"
}

a_wrong_pin_or_secret_is_refused() {
  local token; token=$(cat "$CLUSTER_DIR/n1/data/token")
  like "$(stranger "K10$(printf '0%.0s' $(seq 64))::${token#*::}")" "the token pins 0000"
  like "$(stranger "${token%?????}aaaaa")" "the server refuses the token"
  like "$(stranger "K10beef")" "not a token"
  same "$(find /sys/fs/cgroup -maxdepth 2 -name "$CLUSTER_NAME-stranger")" ""
  rm -rf "$CLUSTER_DIR/other"
}

stranger() { # token
  nodes in n2 timeout 20 "$KNARR" agent --server "https://$CLUSTER_NET.2:6443" --token "$1" --node-name stranger \
    --data-dir "$CLUSTER_DIR/other" --run-dir "$CLUSTER_DIR/other/run" --cgroup-root "$CLUSTER_NAME-stranger" 2>&1 || true
}

pods_on_both_nodes_reach_each_other() {
  local node
  for node in n1 n2; do
    k run "on-$node" --image=$image --labels=app=pair --overrides='{"spec":{"nodeName":"'$node'","terminationGracePeriodSeconds":1}}'
  done
  k create service nodeport pair --tcp=80:80
  k wait --for=condition=Ready pod/on-n1 pod/on-n2 --timeout=120s
  local one two service port
  one=$(field pod on-n1 '{.status.podIP}') two=$(field pod on-n2 '{.status.podIP}')
  service=$(field service pair '{.spec.clusterIP}') port=$(field service pair '{.spec.ports[0].nodePort}')
  for node in n1 n2; do
    like "$(get on-$node "http://$one/")" "version 1"
    like "$(get on-$node "http://$two/")" "version 1"
    eventually 90 get on-$node "http://$service/"
    eventually 90 get on-$node http://pair.default.svc.cluster.local/
    eventually 90 get on-$node http://pair/
    like "$(k exec on-$node -- nslookup kubernetes.default.svc.cluster.local)" "${CLUSTER_SERVICES%.*.*}"
    eventually 90 fetch "http://$CLUSTER_NET.$((${node#n} + 1)):$port/"
  done
  like "$(fetch "http://$one/")" "version 1"
  like "$(fetch "http://$two/")" "version 1"
}

logs_and_commands_reach_the_agent() {
  like "$(k logs on-n2)" "version 1"
  same "$(k exec on-n2 -- hostname)" on-n2
  same "$(echo from here | k exec -i on-n2 -- cat)" "from here"
  like "$(k get --raw /api/v1/nodes/n2/proxy/healthz)" ok
  nodes in n2 ss -tln | grep -q ':10250'
}

a_pod_of_an_agent_follows_many_objects() {
  {
    for number in $(seq 80); do printf -- '---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: part-%d, labels: {set: parts}}\ndata: {"%d": "%d"}\n' "$number" "$number" "$number"; done
    printf -- '---\napiVersion: v1\nkind: Pod\nmetadata: {name: many}\nspec:\n  nodeName: n2\n  terminationGracePeriodSeconds: 1\n  containers: [{name: main, image: "%s", volumeMounts: [{name: parts, mountPath: /parts}]}]\n  volumes:\n  - name: parts\n    projected:\n      sources:\n' "$image"
    for number in $(seq 80); do echo "      - configMap: {name: part-$number}"; done
  } | k apply -f - >/dev/null
  k wait --for=condition=Ready pod/many --timeout=120s
  same "$(k exec many -- ls /parts | grep -c "^[0-9]")" 80
  k patch configmap part-80 -p '{"data":{"80":"changed"}}'
  eventually 90 changed
  k delete pod many --timeout=120s
  k delete configmap -l set=parts
}
changed() { same "$(k exec many -- cat /parts/80)" changed; }

containers_outlive_an_agent() {
  local before; before=$(field pod on-n2 '{.status.containerStatuses[0].containerID}')
  nodes kill n2
  like "$(fetch "http://$(field pod on-n2 '{.status.podIP}')/")" "version 1"
  nodes start n2
  nodes ready 60
  eventually 90 k exec on-n2 -- hostname
  same "$(field pod on-n2 '{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}')" "$before 0"
  k delete pod on-n1 on-n2 --timeout=120s
}

an_agent_rides_out_a_restart_of_the_server() {
  local before; before=$(cat "$CLUSTER_DIR/n2/knarr.pid")
  nodes kill n1
  nodes start n1
  nodes ready 60
  k run after --image=$image --overrides='{"spec":{"nodeName":"n2","terminationGracePeriodSeconds":1}}'
  k wait --for=condition=Ready pod/after --timeout=120s
  same "$(cat "$CLUSTER_DIR/n2/knarr.pid")" "$before"
  k delete pod after --timeout=120s
}

draining_obeys_a_budget() {
  k create deployment calm --image=$image --replicas=3
  k patch deployment calm -p '{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":1,"topologySpreadConstraints":[{"maxSkew":1,"topologyKey":"kubernetes.io/hostname","whenUnsatisfiable":"ScheduleAnyway","labelSelector":{"matchLabels":{"app":"calm"}}}],"tolerations":[{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":5},{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":5}]}}}}'
  k rollout status deployment/calm --timeout=120s
  k create poddisruptionbudget calm --selector=app=calm --min-available=3
  eventually 90 same_budget 0
  [ "$(on_node app=calm n2)" -gt 0 ]
  # With no disruption allowed the drain does not get on.
  if k drain n2 --ignore-daemonsets --force --delete-emptydir-data --timeout=5s >"$CLUSTER_DIR/drain" 2>&1; then cat "$CLUSTER_DIR/drain"; return 1; fi
  like "$(cat "$CLUSTER_DIR/drain")" "Cannot evict pod as it would violate the pod's disruption budget"
  [ "$(on_node app=calm n2)" -gt 0 ]
  k patch poddisruptionbudget calm -p '{"spec":{"minAvailable":2}}'
  k drain n2 --ignore-daemonsets --force --delete-emptydir-data --timeout=120s
  eventually 90 same_count 0 n2
  k rollout status deployment/calm --timeout=120s
  k uncordon n2
}
same_budget() { same "$(field poddisruptionbudget calm '{.status.disruptionsAllowed}')" "$1"; }
same_count() { same "$(on_node app=calm "$2")" "$1"; }

a_lost_node_is_noticed_and_its_pods_are_replaced() {
  k rollout restart deployment/calm
  k rollout status deployment/calm --timeout=120s
  [ "$(on_node app=calm n2)" -gt 0 ]
  nodes kill n2
  eventually 90 ready n2 Unknown
  like "$(field node n2 '{.spec.taints[*].key}')" node.kubernetes.io/unreachable
  eventually 90 three_elsewhere
  nodes start n2
  nodes ready 60
  eventually 90 ready n2 True
  eventually 90 same_count 0 n2
}
three_elsewhere() { same "$(k get pods -l app=calm --field-selector spec.nodeName=n1,status.phase=Running -o name | wc -l)" 3; }

# --- Running them ---------------------------------------------------------------------------------------------------

all="agents_join_by_the_servers_token a_wrong_pin_or_secret_is_refused pods_on_both_nodes_reach_each_other logs_and_commands_reach_the_agent
  a_pod_of_an_agent_follows_many_objects containers_outlive_an_agent an_agent_rides_out_a_restart_of_the_server draining_obeys_a_budget a_lost_node_is_noticed_and_its_pods_are_replaced"
ok=0 bad=0
run() { # name
  local begin=$EPOCHREALTIME output word
  output=$( (set -e; "$1") 2>&1)
  if [ $? = 0 ]; then word=ok; ok=$((ok + 1)); else word=FAILED; bad=$((bad + 1)); fi
  echo "test nodes::$1 ... $word"
  [ $word = ok ] || sed 's/^/    /' <<<"$output" | tail -n 40
  echo "    $(awk "BEGIN { printf \"%.1f s\", $EPOCHREALTIME - $begin }")"
}

finish() {
  if [ $bad -gt 0 ]; then mkdir -p target/test; for node in n1 n2; do cp "$CLUSTER_DIR/$node/log.txt" "target/test/nodes-$node.knarr.log" 2>/dev/null; done; fi
  [ -n "${KEEP:-}" ] || { nodes down; rmdir "$(dirname "$CLUSTER_DIR")" 2>/dev/null; }
}
trap finish EXIT
if [ -d "$CLUSTER_DIR" ] || nodes up 2; then
  for node in n1 n2; do nodes in "$node" "$KNARR" image --run-dir "$CLUSTER_DIR/$node/knarr" import --demo >/dev/null || bad=1; done
  for name in $all; do [[ $name == *"${FOCUS:-}"* ]] && run "$name"; done
else
  bad=1; echo "test nodes::the_cluster_comes_up ... FAILED"
fi
echo "test result: $([ $bad = 0 ] && echo ok || echo FAILED). $ok passed; $bad failed; 0 ignored"
[ $bad = 0 ]
