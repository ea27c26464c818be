#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# suite-root.sh BOX SUITE PACKAGE...
# Makes $DAVIT_CACHE/BOX/rootfs from a Debian suite's packages and all that they
# depend on. The packages are only unpacked. A root that was made from the same
# packages by the same script is kept.
. "$(dirname "$0")/lib.sh"
[ $# -ge 3 ] || die "usage: $0 BOX SUITE PACKAGE..."
box=$1 suite=$2
shift 2
B="$DAVIT_CACHE/$box" R="$DAVIT_CACHE/$box/rootfs"
want="$suite $* $(cat "$HERE/suite-root.sh" "$HERE/lib.sh" | cksum)"
[ "$(cat "$B/.done" 2>/dev/null)" != "$want" ] || exit 0
t0=$(now)
"$HERE/box.sh" down "$box"
apt_state "$suite"
apt-get -qq -y --download-only --no-install-recommends install "$@"
# The archive folder is shared by the boxes of a suite: take only this box's packages.
mapfile -t names < <(apt-get -s -y --no-install-recommends install "$@" |
	awk '/^Inst /{v=$3; sub(/^\(/,"",v); gsub(/:/,"%3a",v); print $2"_"v"_"}')
mkdir -p "$B"
rm -rf --one-file-system "$B/.done" "$R"
mkdir "$R"
usr_merged "$R"
ln -s ../run "$R/var/run"
for n in "${names[@]}"; do
	for d in "$DAVIT_CACHE/apt-$suite-"*/var/cache/apt/archives/"$n"*.deb; do extract "$d" "$R"; done
done
# What the maintainer scripts would have made, as far as engines need it.
[ -s "$R/etc/passwd" ] || printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n' >"$R/etc/passwd"
[ -s "$R/etc/group" ] || printf 'root:x:0:\ndocker:x:999:\nnogroup:x:65534:\n' >"$R/etc/group"
printf 'root:100000:65536\n' | tee "$R/etc/subuid" >"$R/etc/subgid"
printf '127.0.0.1 localhost\n' >"$R/etc/hosts"
: >"$R/etc/resolv.conf"
printf 'passwd: files\ngroup: files\nhosts: files\n' >"$R/etc/nsswitch.conf"
for a in $("$R/usr/bin/busybox" --list); do
	[ -e "$R/usr/bin/$a" ] || [ -e "$R/usr/sbin/$a" ] || ln -s busybox "$R/usr/bin/$a"
done
for x in iptables ip6tables; do
	if [ -e "$R/usr/sbin/$x-nft" ]; then ln -sf "$x-nft" "$R/usr/sbin/$x"; fi
done
for x in tini-static tini; do
	if [ -e "$R/usr/bin/$x" ]; then
		ln -sf "$x" "$R/usr/bin/docker-init"
		ln -sf "$x" "$R/usr/bin/catatonit"
		break
	fi
done
mkdir -p "$R/etc/containers"
[ -s "$R/etc/containers/policy.json" ] || echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$R/etc/containers/policy.json"
ldconfig -r "$R" 2>/dev/null || true
rm -f "$DAVIT_CACHE/apt-$suite-"*/var/cache/apt/archives/*.deb
echo "$want" >"$B/.done"
log "$box: root of $suite: ${#names[@]} packages, $(du -sm "$R" | cut -f1) MiB, $(since "$t0") s"
