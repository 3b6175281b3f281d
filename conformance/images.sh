#!/bin/bash
# Makes the suite's test images from Debian packages and the programs that build.sh built: one docker-archive tar per image
# in $KIT_IMAGES (default ~/.cache/kube-kit/images). With "push REGISTRY" (say 127.0.0.1:5000) it pushes them there with skopeo
# under their own repository names, so that a mirror entry registry.k8s.io -> REGISTRY serves them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
KIT_BIN=${KIT_BIN:-$HOME/.cache/kube-kit/bin} OUT=${KIT_IMAGES:-$HOME/.cache/kube-kit/images}
W=$OUT/work; mkdir -p "$W" "$OUT"
if [ "${1:-}" = push ]; then
  for f in "$OUT"/*.tar; do for n in $(tar -xOf "$f" manifest.json | python3 -c 'import json,sys; print(" ".join(json.load(sys.stdin)[0]["RepoTags"]))'); do
    skopeo copy -q --dest-tls-verify=false "docker-archive:$f:$n" "docker://$2/${n#*/}" && echo "pushed $2/${n#*/}"; done; done; exit
fi
"$here/../dev/packages.sh" images build
cd "$W"
[ -d deb/usr/sbin ] || { debootstrap --variant=minbase --include=curl,ca-certificates,bind9-dnsutils,netcat-openbsd,iproute2,iperf,procps,nginx-light,perl bookworm deb >debootstrap.log
  rm -rf deb/var/cache/apt/* deb/var/lib/apt/lists/* deb/usr/share/{doc,man,locale}; sed -i 's/^#* *daemon .*//' deb/etc/nginx/nginx.conf; }
rm -rf l-* blobs; mkdir -p l-agnhost/tmp l-bb/{bin,tmp,etc,root,home,usr,var} l-pause l-kitten l-nautilus l-sample l-etcd/usr/local/bin l-nnp l-rc l-html/usr/share/nginx/html l-mark
chmod 1777 l-agnhost/tmp l-bb/tmp
cp "$KIT_BIN/agnhost" l-agnhost/agnhost; ln -s agnhost l-agnhost/agnhost-2
openssl req -x509 -newkey rsa:2048 -nodes -keyout l-agnhost/localhost.key -out l-agnhost/localhost.crt -days 3650 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 2>/dev/null
cp l-agnhost/localhost.crt l-html/usr/share/nginx/html/; touch l-mark/old
# The suite's busybox: Debian stable's is older, and its shell drops variables like data-1, which the suite prints.
bb=busybox-1.37.0
[ -x $bb/busybox ] || {
  mirror=$(apt-get indextargets --format '$(SITE)' | grep -v security | head -n 1)
  curl -fsS -o $bb.tar.bz2 "$mirror/pool/main/b/busybox/${bb/-/_}.orig.tar.bz2"
  echo "3311dff32e746499f4df0d5df04d7eb396382d7e108bb9250e7b519b837043a4  $bb.tar.bz2" | sha256sum --check --quiet
  tar xjf $bb.tar.bz2
  # Without `tc`, which the headers of newer kernels no longer build.
  (cd $bb; make defconfig; sed -i 's/^# CONFIG_STATIC is not set/CONFIG_STATIC=y/; s/^CONFIG_TC=y/# CONFIG_TC is not set/' .config
   make oldconfig </dev/null; make -j2 busybox) >$bb.log 2>&1
}
cp $bb/busybox l-bb/bin/busybox; for c in $($bb/busybox --list); do [ "$c" = busybox ] || ln -sf busybox "l-bb/bin/$c"; done
 ln -sf ../bin l-bb/usr/bin
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >l-bb/etc/passwd; printf 'root:x:0:\nnobody:x:65534:\n' >l-bb/etc/group
printf '#include <signal.h>\n#include <unistd.h>\n#include <sys/wait.h>\nstatic void q(int s){_exit(0);}static void r(int s){while(waitpid(-1,0,WNOHANG)>0);}int main(){signal(SIGINT,q);signal(SIGTERM,q);signal(SIGCHLD,r);for(;;)pause();}\n' >pause.c; gcc -static -Os -s pause.c -o l-pause/pause
for n in kitten nautilus; do mkdir -p l-$n/etc; echo "{\"image\":\"$n.jpg\"}" >l-$n/data.json; printf 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.21\n' >l-$n/etc/os-release; done
cp "$KIT_BIN/sample-apiserver" l-sample/kube-sample-apiserver; cp "$KIT_BIN"/{etcd,etcdctl} l-etcd/usr/local/bin/; cp "$KIT_BIN/nonewprivs" l-nnp/nnp; chmod u+s l-nnp/nnp; cp "$KIT_BIN/resource-consumer" l-rc/consumer
R=registry.k8s.io/e2e-test-images; mk() { python3 "$here/mkimage.py" "$@"; }
mk $R/agnhost:2.63.0,$R/agnhost:2.55,$R/agnhost:2.53 deb,l-agnhost "$OUT/agnhost.tar" --entrypoint '["/agnhost"]' --cmd '["pause"]'
mk $R/glibc-dns-testing:2.0.0 deb,l-agnhost "$OUT/glibc-dns-testing.tar" --entrypoint '["/agnhost"]' --cmd '["pause"]'
mk $R/busybox:1.37.0-1,$R/busybox:1.36.1-1 l-bb "$OUT/busybox.tar" --cmd '["sh"]'
mk $R/nginx:1.27-0 deb,l-html "$OUT/nginx.tar" --cmd '["nginx","-g","daemon off;"]'
mk $R/nginx:1.15-4 deb,l-html,l-mark "$OUT/nginx-old.tar" --cmd '["nginx","-g","daemon off;"]'
mk $R/perl:5.26 deb,l-mark "$OUT/perl.tar" --cmd '["perl","-de0"]'
mk registry.k8s.io/pause:3.10.2,registry.k8s.io/pause:3.10.1,registry.k8s.io/pause:3.10 l-pause "$OUT/pause.tar" --entrypoint '["/pause"]' --user 65535:65535
mk $R/kitten:1.8 l-bb,l-kitten "$OUT/kitten.tar" --cmd '["httpd","-f","-p","80","-h","/"]'
mk $R/nautilus:1.8 l-bb,l-nautilus "$OUT/nautilus.tar" --cmd '["httpd","-f","-p","80","-h","/"]'
mk $R/sample-apiserver:1.29.2 deb,l-sample "$OUT/sample-apiserver.tar" --entrypoint '["/kube-sample-apiserver"]'
mk registry.k8s.io/etcd:3.6.8-0 l-bb,l-etcd "$OUT/etcd.tar"
mk $R/nonewprivs:1.4 l-bb,l-nnp "$OUT/nonewprivs.tar" --entrypoint '["/nnp"]'
mk $R/nonroot:1.5 l-bb,l-agnhost "$OUT/nonroot.tar" --entrypoint '["/agnhost"]' --cmd '["pause"]' --user 1234
mk $R/resource-consumer:1.14 deb,l-rc "$OUT/resource-consumer.tar" --entrypoint '["/consumer"]'
if [ -x "$KIT_BIN/coredns" ]; then mkdir -p l-coredns; cp "$KIT_BIN/coredns" l-coredns/; mk local/coredns:1 l-coredns "$OUT/coredns.tar" --entrypoint '["/coredns"]'; fi # for the reference cluster only
