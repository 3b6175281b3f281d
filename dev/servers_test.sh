#!/bin/bash
# Several `knarr server`s on one etcd are one cluster: each sees at once what was written through another, one scheduler and
# one set of controllers work at a time, and when their server is killed another's go on with nothing lost or doubled.
# Told in cargo's words. KNARR: the program; KIT_BIN: what `make kit` built. Root is needed. FOCUS: a part of the names.
# Everything runs in a network name space of its own, with its files in one folder; both are gone at the end. Nodes are
# objects that nobody stands behind, so that pods are placed and not run.
set -uo pipefail
cd "$(dirname "$0")/.."
. dev/world.sh
KNARR=$(realpath "${KNARR:-target/debug/knarr}") KIT_BIN=${KIT_BIN:-$HOME/.cache/kube-kit/bin}
missing=
for program in etcd etcdctl kubectl; do [ -x "$KIT_BIN/$program" ] || missing="$missing $program"; done
[ -z "$missing" ] || { echo "left out, these are missing:$missing"; echo "test result: ok. 0 passed; 0 failed; 1 ignored"; exit 0; }
W=$(mktemp -d /tmp/knarr-servers.XXXXXX) ID=kns$$ TOKEN=abcdef.0123456789abcdef
declare -A IP=([a]=192.0.2.20 [b]=192.0.2.21)
inside() { nsenter --net="/run/netns/$ID" "$@"; }
k() { local side=$1; shift; inside "$KIT_BIN/kubectl" --kubeconfig "$W/$side/kubeconfig" --cache-dir "$W/$side/cache" "$@"; }
pid() { cat "$W/$1/pid"; }
start() { # side more flags...
  local side=$1; shift
  mkdir -p "$W/$side"
  launch "$ID" "$W/log-$side" "$KNARR" server --disable node,dns,proxy,local-storage --data-dir "$W/$side/data" --run-dir "$W/$side/run" \
    --node-ip "${IP[$side]}" --bind-address "${IP[$side]}" --advertise-address "${IP[$side]}" --write-kubeconfig "$W/$side/kubeconfig" --token "$TOKEN" \
    --datastore-endpoint https://127.0.0.1:2379 --datastore-cafile "$W/etcd-ca.crt" --datastore-certfile "$W/etcd-client.crt" --datastore-keyfile "$W/etcd-client.key" "$@"
  echo "$launched" >"$W/$side/pid"
}
ready() { [ "$(k "$1" get --raw /readyz)" = ok ]; }
remove() {
  local side
  for side in a b etcd; do [ ! -f "$W/$side/pid" ] || kill -9 "$(pid $side)" 2>/dev/null; done
  for side in one two; do [ ! -f "$W/parts/$side" ] || kill -9 "$(cat "$W/parts/$side")" 2>/dev/null; done
  ip netns del "$ID" 2>/dev/null; rm -rf "$W"
}
trap remove EXIT
ip netns add "$ID" && ip -n "$ID" link set lo up && ip -n "$ID" link add up0 type veth peer name up1 && ip -n "$ID" link set up0 up && ip -n "$ID" link set up1 up || exit 1
for side in a b; do ip -n "$ID" addr add "${IP[$side]}/24" dev up0 || exit 1; done
ip -n "$ID" route add default dev up0 || exit 1

# etcd asks for certificates, as it does in clusters that matter.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=etcd-ca -keyout "$W/etcd-ca.key" -out "$W/etcd-ca.crt" 2>/dev/null || exit 1
for name in server client; do
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=etcd-$name" -keyout "$W/etcd-$name.key" -out "$W/etcd-$name.csr" 2>/dev/null &&
    printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' >"$W/ext" &&
    openssl x509 -req -in "$W/etcd-$name.csr" -CA "$W/etcd-ca.crt" -CAkey "$W/etcd-ca.key" -CAcreateserial -days 2 -extfile "$W/ext" -out "$W/etcd-$name.crt" 2>/dev/null || exit 1
done
mkdir -p "$W/etcd"
launch "$ID" "$W/log-etcd" "$KIT_BIN/etcd" --data-dir "$W/etcd/data" --listen-client-urls https://127.0.0.1:2379 --advertise-client-urls https://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster default=http://127.0.0.1:2380 --log-level error \
  --cert-file "$W/etcd-server.crt" --key-file "$W/etcd-server.key" --client-cert-auth --trusted-ca-file "$W/etcd-ca.crt"
echo "$launched" >"$W/etcd/pid"
etcdctl() { inside "$KIT_BIN/etcdctl" --endpoints https://127.0.0.1:2379 --cacert "$W/etcd-ca.crt" --cert "$W/etcd-client.crt" --key "$W/etcd-client.key" "$@"; }
eventually 20 etcdctl endpoint health || exit 1

# --- What must come of it -------------------------------------------------------------------------------------------

endpoints() { [ "$(k "$1" get endpoints kubernetes -o jsonpath='{.subsets[*].addresses[*].ip}' 2>/dev/null)" = "$2" ]; }
placed() { # side count
  [ "$(k "$1" get pods -l app=web -o jsonpath='{range .items[*]}{.spec.nodeName}{"\n"}{end}' | grep -c '^node-')" = "$2" ] && [ "$(k "$1" get pods -l app=web -o name | wc -l)" = "$2" ]
}
alive() { [ "$(k "$1" get pods -l app=web -o json | jq '[.items[] | select(.metadata.deletionTimestamp == null)] | length')" = "$2" ]; }
holder() { k "$1" get lease -n kube-system "$2" -o jsonpath='{.spec.holderIdentity}'; }
held() { [ -n "$(holder "$1" "$2")" ]; }
taken() { held "$1" "$2" && [ "$(holder "$1" "$2")" != "$3" ]; }
# Which server holds a lease, by what it says itself last.
leader() { local side; for side in a b; do if grep -q "this server leads.*$1" "$W/log-$side"; then echo "$side"; return; fi; done; return 1; }

two_servers_begin_at_once_and_are_one_cluster() {
  start a; start b
  eventually 60 ready a; eventually 60 ready b
  cmp "$W/a/data/pki/server-ca.crt" "$W/b/data/pki/server-ca.crt"; cmp "$W/a/data/pki/service-account.key" "$W/b/data/pki/service-account.key"
  # Who is known to one is known to the other.
  inside "$KIT_BIN/kubectl" --kubeconfig "$W/a/kubeconfig" --server "https://${IP[b]}:6443" get namespace kube-system
  eventually 20 endpoints a "${IP[a]} ${IP[b]}"; endpoints b "${IP[a]} ${IP[b]}"
  [ "$(k a get endpointslice kubernetes -o jsonpath='{.endpoints[*].addresses[0]}')" = "${IP[a]} ${IP[b]}" ]
  # The keys in etcd can be read with the token only.
  etcdctl get /knarr/bootstrap --print-value-only | grep sealed >/dev/null
  if etcdctl get /knarr/bootstrap --print-value-only | grep 'PRIVATE KEY'; then return 1; fi
}
another_token_is_refused() {
  mkdir -p "$W/c"
  local code=0
  inside timeout 30 "$KNARR" server --disable node --data-dir "$W/c/data" --run-dir "$W/c/run" --node-ip 192.0.2.20 --bind-address 127.0.0.1 --write-kubeconfig "$W/c/kubeconfig" --token abcdef.aaaaaaaaaaaaaaaa \
    --datastore-endpoint https://127.0.0.1:2379 --datastore-cafile "$W/etcd-ca.crt" --datastore-certfile "$W/etcd-client.crt" --datastore-keyfile "$W/etcd-client.key" >"$W/c/out" 2>&1 || code=$?
  [ $code = 1 ] && grep -q 'token is not the one of the cluster' "$W/c/out" && [ ! -e "$W/c/data/pki/server-ca.key" ]
}
each_sees_at_once_what_was_written_through_the_other() {
  local number version
  for number in $(seq 20); do
    k a create configmap "one-$number" --from-literal=a=1 >/dev/null
    version=$(k b get configmap "one-$number" -o jsonpath='{.metadata.resourceVersion}')
    # A change on the version that the other has made is no conflict.
    k b patch configmap "one-$number" --type=merge -p "{\"metadata\":{\"resourceVersion\":\"$version\"},\"data\":{\"a\":\"2\"}}" >/dev/null
    [ "$(k a get configmap "one-$number" -o jsonpath='{.data.a}')" = 2 ]
    [ "$(k a get configmaps -o name | grep -c '/one-')" = "$number" ]
  done
  # A watch at one sees the other's changes, all of them and in order.
  k b get configmaps --watch-only -o name >"$W/watched" & local watch=$!
  eventually 10 k b get --raw /readyz; sleep 1
  for number in $(seq 10); do k a create configmap "two-$number" >/dev/null; done
  eventually 10 grep -q two-10 "$W/watched"
  kill $watch
  [ "$(grep -o 'two-[0-9]*' "$W/watched" | tr '\n' ' ')" = "$(seq -f 'two-%g' 10 | tr '\n' ' ')" ]
}
addresses_and_ports_are_given_out_once() {
  local number jobs=()
  for number in $(seq 12); do
    k a create service nodeport "from-a-$number" --tcp=80 >/dev/null & jobs+=($!)
    k b create service nodeport "from-b-$number" --tcp=80 >/dev/null & jobs+=($!)
    wait "${jobs[@]}"; jobs=()
  done
  local all; all=$(k a get services -l app -o jsonpath='{range .items[*]}{.spec.clusterIP} {.spec.ports[0].nodePort}{"\n"}{end}')
  [ "$(echo "$all" | wc -l)" = 24 ]
  [ "$(echo "$all" | awk '{print $1}' | sort -u | wc -l)" = 24 ] && [ "$(echo "$all" | awk '{print $2}' | sort -u | wc -l)" = 24 ]
  # A port that somebody asked for is nobody else's, whichever server is asked; it is free again with its service.
  local port; port=$(k a get service from-a-1 -o jsonpath='{.spec.ports[0].nodePort}')
  if k b create service nodeport taken --tcp=80 --node-port="$port"; then return 1; fi
  k b delete service from-a-1
  k a create service nodeport taken --tcp=80 --node-port="$port"
}
another_takes_over_from_a_leader_that_is_killed() {
  local number
  for number in 1 2; do
    k a apply -f - <<Y
apiVersion: v1
kind: Node
metadata: {name: node-$number}
Y
    k a patch node "node-$number" --subresource=status --type=merge -p '{"status":{"capacity":{"cpu":"8","memory":"16Gi","pods":"50"},"allocatable":{"cpu":"8","memory":"16Gi","pods":"50"}}}'
  done
  k a apply -f - <<Y
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      tolerations: [{operator: Exists}]
      containers: [{name: web, image: none}]
Y
  eventually 40 placed b 4
  local pods; pods=$(k b get pods -l app=web -o name | sort)
  local first other; first=$(leader kube-controller-manager)
  [ "$first" = a ] && other=b || other=a
  [ -n "$first" ]
  kill -9 "$(pid "$first")"
  local killed=$EPOCHREALTIME
  k "$other" scale deployment web --replicas=7
  # The lease lasts 15 seconds, and is looked at every 2.
  eventually 30 placed "$other" 7
  awk "BEGIN { printf \"taken over after %.1f s\\n\", $EPOCHREALTIME - $killed }"
  # Nothing is lost, nothing doubled.
  [ "$(k "$other" get pods -l app=web -o name | sort | comm -12 - <(echo "$pods") | wc -l)" = 4 ]
  [ "$(k "$other" get replicasets -o name | wc -l)" = 1 ]
  [ "$(k "$other" get configmaps -o name | grep -c '/one-\|/two-')" = 30 ]
  eventually 30 endpoints "$other" "${IP[$other]}"
  echo "$first" >"$W/killed"
}
it_comes_back_and_the_other_may_go_in_order() {
  local first other; first=$(cat "$W/killed"); [ "$first" = a ] && other=b || other=a
  : >"$W/log-$first"
  start "$first"
  eventually 60 ready "$first"; eventually 20 endpoints "$first" "${IP[a]} ${IP[b]}"
  placed "$first" 7
  local leaving gone; leaving=$(pid "$other")
  [ "$(leader kube-controller-manager)" = "$other" ]
  local before; before=$(holder "$first" kube-controller-manager)
  kill "$leaving"
  local end=$((SECONDS + 15)); while runs "$leaving"; do [ $SECONDS -lt $end ]; sleep 0.1; done
  # Who goes in order says so: nobody waits for the end of its lease to know where the servers are.
  endpoints "$first" "${IP[$first]}"
  gone=$EPOCHREALTIME
  k "$first" scale deployment web --replicas=3
  # The lease was given up, so that the other need not wait for its end.
  eventually 6 alive "$first" 3
  awk "BEGIN { printf \"taken over after %.1f s\\n\", $EPOCHREALTIME - $gone }"
  [ "$(holder "$first" kube-controller-manager)" != "$before" ]
}
components_of_their_own_give_up_their_leases() {
  local first; first=$(cat "$W/killed")
  local name dir=$W/parts; mkdir -p "$dir"
  # Their leases have other names than those of the server that is still there.
  for name in one two; do
    launch "$ID" "$W/log-part-$name" "$KNARR" kube-scheduler --kubeconfig "$W/$first/kubeconfig" --leader-elect-resource-name parts --secure-port 0
    echo "$launched" >"$dir/$name"
    [ $name = two ] || eventually 20 held "$first" parts
  done
  local before; before=$(holder "$first" parts)
  kill "$(cat "$dir/one")"
  eventually 5 taken "$first" parts "$before"
  local pid; pid=$(cat "$dir/one"); local end=$((SECONDS + 5)); while runs "$pid"; do [ $SECONDS -lt $end ]; sleep 0.1; done
  pid=$(cat "$dir/two"); kill "$pid"
  end=$((SECONDS + 5)); while runs "$pid"; do [ $SECONDS -lt $end ]; sleep 0.1; done
  # Nobody is left: the lease says so.
  [ "$(k "$first" get lease -n kube-system parts -o jsonpath='{.spec.holderIdentity}/{.spec.leaseDurationSeconds}')" = /1 ]
}

# --- Running them ---------------------------------------------------------------------------------------------------

ok=0 bad=0
for name in two_servers_begin_at_once_and_are_one_cluster another_token_is_refused each_sees_at_once_what_was_written_through_the_other addresses_and_ports_are_given_out_once \
  another_takes_over_from_a_leader_that_is_killed it_comes_back_and_the_other_may_go_in_order components_of_their_own_give_up_their_leases; do
  [[ $name == *"${FOCUS:-}"* ]] || continue
  begin=$EPOCHREALTIME
  (set -e; $name) >"$W/output" 2>&1
  if [ $? = 0 ]; then word=ok; ok=$((ok + 1)); else word=FAILED; bad=$((bad + 1)); fi
  echo "test servers::$name ... $word"
  [ $word = ok ] || sed 's/^/    /' "$W/output" | tail -n 30
  [ $word != ok ] || grep 'taken over' "$W/output" | sed 's/^/    /'
  echo "    $(awk "BEGIN { printf \"%.1f s\", $EPOCHREALTIME - $begin }")"
done
if [ $bad -gt 0 ]; then mkdir -p target/test/servers; cp "$W"/log-* target/test/servers/ 2>/dev/null; fi
echo "test result: $([ $bad = 0 ] && echo ok || echo FAILED). $ok passed; $bad failed; 0 ignored"
[ $bad = 0 ]
