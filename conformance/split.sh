# The nodes of nodes.sh with every part of the cluster as a process of its own, as its upstream user: on n1 the API server,
# the controllers, the scheduler and the DNS, on each node the kubelet and the proxy. Read by nodes.sh; SPLIT=1 chooses it.
#
# Whoever uses the cluster is conformance:admin, who is bound to cluster-admin, and not of system:masters: after the
# set-up nobody comes as one of these, which `nodes.sh masters` counts in the audit log. (Of that group is also
# system:apiserver, as which an API server calls itself, here as upstream; those calls are not counted.)

# Keys, certificates and kubeconfigs of all parts.
split_keys() { # number of nodes
  local K=$DIR/keys
  REF_DIR=$K REF_PORT=$PORT REF_SERVER=$(address n1) REF_SANS=",DNS:kubernetes.default.svc.cluster.local,IP:$(address n1),IP:${SERVICES%.*}.1" REF_NODES=$(seq -s' ' -f 'n%g' "$1") \
    "$here/../bench/reference.sh" certs
  split_user "$K" admins /O=conformance:admins/CN=conformance:admin
  split_user "$K" kubelets /CN=kube-apiserver-kubelet-client
  split_user "$K" dns /CN=system:coredns
  printf '.:53 {\n bind %s\n ready %s:8181\n kubernetes cluster.local in-addr.arpa ip6.arpa {\n  kubeconfig %s\n  pods insecure\n }\n forward . %s\n}\n' \
    "$(address n1)" "$(address n1)" "$K/dns.kubeconfig" "$DIR/resolv.conf" >"$DIR/Corefile"
  cp "$K/admins.kubeconfig" "$DIR/kubeconfig"
  chmod 600 "$DIR/kubeconfig"
  cat >"$DIR/audit.yaml" <<Y
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
Y
}

split_user() { # keys name subject
  (
    cd "$1/pki"
    openssl req -newkey rsa:2048 -nodes -keyout "$2.key" -out "$2.csr" -subj "$3" 2>/dev/null
    openssl x509 -req -in "$2.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -out "$2.crt" -days 365 -extfile <(echo extendedKeyUsage=clientAuth) 2>/dev/null
    cat >"$1/$2.kubeconfig" <<Y
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://$(address n1):$PORT", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: u, user: {client-certificate-data: $(base64 -w0 "$2.crt"), client-key-data: $(base64 -w0 "$2.key")}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
Y
  )
}

split_node() {
  local node=$1 dir K=$DIR/keys; dir=$(node_dir "$node")
  if [ "$node" = n1 ]; then
    # shellcheck disable=SC2086
    start_part n1 kube-apiserver kube-apiserver --data-dir="$dir/data" --secure-port=$PORT --bind-address=0.0.0.0 --advertise-address="$(address n1)" \
      --tls-cert-file="$K/pki/apiserver.crt" --tls-private-key-file="$K/pki/apiserver.key" --client-ca-file="$K/pki/ca.crt" \
      --service-account-key-file="$K/pki/sa.pub" --service-account-signing-key-file="$K/pki/sa.key" --service-account-issuer=https://kubernetes.default.svc.cluster.local \
      --service-cluster-ip-range="$SERVICES" --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --enable-bootstrap-token-auth=true --allow-privileged=true \
      --kubelet-client-certificate="$K/pki/kubelets.crt" --kubelet-client-key="$K/pki/kubelets.key" --requestheader-client-ca-file="$K/pki/ca.crt" \
      --requestheader-allowed-names=front-proxy-client --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
      --requestheader-extra-headers-prefix=X-Remote-Extra- --proxy-client-cert-file="$K/pki/front.crt" --proxy-client-key-file="$K/pki/front.key" \
      --audit-policy-file="$DIR/audit.yaml" --audit-log-path="$DIR/audit.log" --audit-log-maxsize=100000 ${SERVER_FLAGS:-}
    split_grants
    start_part n1 kube-controller-manager kube-controller-manager --kubeconfig="$K/kcm.kubeconfig" --authentication-kubeconfig="$K/kcm.kubeconfig" --authorization-kubeconfig="$K/kcm.kubeconfig" \
      --bind-address=127.0.0.1 --client-ca-file="$K/pki/ca.crt" --cluster-signing-cert-file="$K/pki/ca.crt" --cluster-signing-key-file="$K/pki/ca.key" --root-ca-file="$K/pki/ca.crt" \
      --service-account-private-key-file="$K/pki/sa.key" --use-service-account-credentials=true --controllers='*,bootstrapsigner,tokencleaner' \
      --allocate-node-cidrs=true --cluster-cidr="$PODS" --service-cluster-ip-range="$SERVICES" --leader-elect=true
    start_part n1 kube-scheduler kube-scheduler --kubeconfig="$K/sched.kubeconfig" --authentication-kubeconfig="$K/sched.kubeconfig" --authorization-kubeconfig="$K/sched.kubeconfig" \
      --bind-address=127.0.0.1 --leader-elect=true
    start_part n1 coredns coredns -conf "$DIR/Corefile"
  fi
  cat >"$dir/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $K/pki/ca.crt}}
authorization: {mode: Webhook}
cgroupRoot: /$NAME-$node
clusterDNS: [${SERVICES%.*}.10]
clusterDomain: cluster.local
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
resolvConf: $DIR/resolv.conf
Y
  start_part "$node" kubelet kubelet --config="$dir/kubelet.yaml" --kubeconfig="$K/kubelet-$node.kubeconfig" --hostname-override="$node" --node-ip="$(address "$node")" \
    --data-dir="$dir/data" --run-dir="$dir/knarr" --registries="$DIR/registries.yaml" --cluster-ranges="$PODS,$SERVICES"
  start_part "$node" kube-proxy kube-proxy --kubeconfig="$K/proxy.kubeconfig" --hostname-override="$node" --cluster-cidr="$PODS" --proxy-mode=nftables --state-dir="$dir/proxy" \
    --healthz-bind-address=127.0.0.1:10256 --metrics-bind-address=127.0.0.1:10249
}

# What an administrator grants once: the only thing that is done as one of system:masters.
split_grants() {
  local admin=("$DIR/knarr" apply --kubeconfig "$DIR/keys/admin.kubeconfig" -f -)
  for _ in $(seq 600); do "$DIR/knarr" get namespaces --kubeconfig "$DIR/keys/admin.kubeconfig" >/dev/null 2>&1 && break; sleep 0.05; done
  grant() { # name role kind subject
    printf 'apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: "%s"}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "%s"}\nsubjects: [{apiGroup: rbac.authorization.k8s.io, kind: %s, name: "%s"}]\n---\n' "$@"
  }
  {
    grant conformance:admins cluster-admin Group conformance:admins
    grant kubelet-clients system:kubelet-api-admin User kube-apiserver-kubelet-client
    grant nodes-see-nodes nodes-see-nodes Group system:nodes
    printf 'apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: nodes-see-nodes}\nrules: [{apiGroups: [""], resources: [nodes], verbs: [get, list, watch]}]\n---\n'
    grant system:coredns system:coredns User system:coredns
    cat <<Y
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: system:coredns}
rules:
- {apiGroups: [""], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec: {clusterIP: ${SERVICES%.*}.10, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints: [{addresses: ["$(address n1)"], conditions: {ready: true}}]
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
Y
  } | "${admin[@]}" >/dev/null
  wc -l <"$DIR/audit.log" >"$DIR/audit.begin"
}

split_ready() {
  local node
  for node in $(nodes); do
    for _ in $(seq "$1"); do "$DIR/knarr" wait --kubeconfig "$DIR/kubeconfig" --for condition=Ready --timeout 1s "node/$node" >/dev/null 2>&1 && continue 2; sleep 0.2; done
    tail -n 20 "$(node_dir "$node")/log.txt" >&2
    fail "$node is not ready"
  done
}

# Calls by system:masters since the set-up, counted by user, verb and resource; none is what we want.
split_masters() {
  tail -n "+$(($(cat "$DIR/audit.begin") + 1))" "$DIR/audit.log" | python3 -c '
import collections, json, sys
calls, seen = collections.Counter(), 0
for line in sys.stdin:
    event = json.loads(line); seen += 1
    if "system:masters" in event["user"].get("groups", []) and event["user"]["username"] != "system:apiserver":
        calls[event["user"]["username"], event["verb"], event.get("objectRef", {}).get("resource", event["requestURI"])] += 1
for call, count in calls.most_common(): print(count, *call)
print(f"{seen} calls, {sum(calls.values())} by system:masters")
sys.exit(bool(calls) or not seen)'
}
