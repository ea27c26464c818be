#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# pack.sh [programs|images|runtimes|docker]...   (all of them without arguments)
# On a machine with Debian's packages at hand (amd64, root, gcc, Go): puts into
# build/gpu all that run.sh needs on a GPU host without network and without any
# engine: davit, the checks, runc and crun with their libraries, small root file
# systems; and docker into build/gpu-docker. Together they stay below 60 MiB.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
out=$top/build/gpu
export DAVIT_CACHE=${DAVIT_CACHE:-$top/build/engines}
[ $# -gt 0 ] || set -- programs images runtimes docker
# shellcheck source=../e2e/engines/lib.sh
. "$top/test/e2e/engines/lib.sh"
cd "$top"
W=$(mktemp -d)
trap 'rm -rf --one-file-system "$W"' EXIT
mkdir -p "$out" "$out-docker"

cc="gcc -std=gnu11 -O2 -Wall -Wextra -Werror -fno-stack-protector -U_FORTIFY_SOURCE -fcf-protection=none -Wl,--build-id=none,--hash-style=both -s"
stub() { $cc -shared -fPIC -nostdlib "-Wl,-soname,${1##*/}" -o "$1" "$here/cuda/libcuda-stub.c"; }

pack() { # pack FILE DIR: solid, so that what is in several images is stored once
	tar -C "$W" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - "$2" |
		xz -T1 --lzma2=preset="${PACK_PRESET:-9e}",dict=64MiB >"$1.part"
	mv "$1.part" "$1"
	log "$1: $(($(stat -c %s "$1") / 1024)) KiB"
}

programs() {
	local d=$W/programs
	mkdir -p "$d/bin" "$d/tools"
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(git describe --tags --always --dirty 2>/dev/null || echo dev)" -o "$d/bin/" ./cmd/davit ./cmd/davit-runtime
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$d/tools/gpucheck" ./test/gpu
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$d/bin/floor" ./test/gpu/floor
	# The check programs link against a libcuda made here; that it is a stub
	# shows only where one lies in an image.
	stub "$W/libcuda.so.1"
	stub "$W/libcuda.so"
	$cc -nostartfiles -no-pie -o "$d/tools/cudacheck" "$here/cuda/cudacheck.c" "$W/libcuda.so.1"
	$cc -nostartfiles -no-pie -o "$d/tools/cudadev" "$here/cuda/cudacheck.c" "$W/libcuda.so"
	cp "$here/train.py" "$d/tools/"
	pack "$out/programs.tar.xz" programs
}

trim() { # trim ROOT: take away what no check uses
	local r=${1:?} f
	rm -rf "$r"/usr/lib/*/{gconv,perl*,ossl-modules,engines-*} "$r"/usr/lib64/gconv "$r"/usr/lib/{locale,dpkg} "${r:?}"/usr/share "$r"/var/lib/dpkg
	rm -f "$r"/usr/bin/{perl*,dpkg*,localedef,update-alternatives} "$r"/usr/lib/*/lib{crypto,ssl}.so.*
	[ -x "$r/usr/bin/bash" ] || return 0
	for f in "$r"/usr/bin/* "$r"/usr/sbin/*; do
		case ${f##*/} in
		bash | dash | sh | ls | cat | true | env | sed | grep | id | stat | sha256sum | ldconfig | ldd | getent) ;;
		*) rm -f "$f" ;;
		esac
	done
}

images() {
	local all=(busybox alpine distroless debian cuda-base fedora oldglibc newglibc) n d l
	programs_davit=$W/davit
	CGO_ENABLED=0 go build -o "$programs_davit" ./cmd/davit
	DAVIT="$programs_davit" "$top/test/e2e/images.sh" "${all[@]}"
	for n in "${all[@]}"; do
		mkdir -p "$W/images/$n"
		tar -xOf "$DAVIT_CACHE/share/images/$n.tar" layer.tar | tar -x -C "$W/images/$n"
		trim "$W/images/$n"
	done
	cp "$W/images/busybox/bin/busybox" "$out/busybox"
	# The stale image: Debian with driver libraries left in two folders and in the cache.
	cp -a "$W/images/debian" "$W/images/stale"
	stub "$W/libcuda.so.1"
	for d in usr/local/lib usr/lib/x86_64-linux-gnu; do
		l=$W/images/stale/$d
		mkdir -p "$l"
		cp "$W/libcuda.so.1" "$l/libcuda.so.418.226.00"
		ln -s libcuda.so.418.226.00 "$l/libcuda.so.1"
		ln -s libcuda.so.1 "$l/libcuda.so"
	done
	ldconfig -r "$W/images/stale"
	pack "$out/images.tar.xz" images
}

libraries() { # libraries ROOT DIR PROGRAM...: what they need beside the C library
	local r=$1 to=$2 p l
	shift 2
	mkdir -p "$to"
	for p; do
		readelf -l "$p" | grep -q INTERP || continue
		cp "$p" "$r/.program"
		chroot "$r" /lib64/ld-linux-x86-64.so.2 --list /.program
		rm "$r/.program"
	done | awk '$3 ~ /^\// {print $3}' | sort -u | grep -Ev '/(libc|libm|libdl|libpthread|librt|libresolv)\.so' |
		while read -r l; do cp -L "$r$l" "$to/"; done
}

runtimes() {
	local r=$W/root d=$W/runtimes f
	usr_merged "$r"
	mkdir -p "$W/debs" "$d/bin"
	(
		apt_state bookworm
		cd "$W/debs"
		mapfile -t names < <(apt-get -s -y --no-install-recommends install runc crun | awk '/^Inst /{print $2}')
		apt-get -qq download "${names[@]}"
	)
	for f in "$W"/debs/*.deb; do extract "$f" "$r"; done
	cp "$r/usr/sbin/runc" "$r/usr/bin/crun" "$d/bin/"
	libraries "$r" "$d/lib" "$d"/bin/*
	pack "$out/runtimes.tar.xz" runtimes
}

docker() {
	local r d=$W/docker
	"$top/test/e2e/engines/suite-root.sh" docker26 trixie docker.io docker-cli containerd runc busybox-static
	r=$DAVIT_CACHE/docker26/rootfs
	mkdir -p "$d/bin"
	# Less runc, for ours is there.
	cp "$r"/usr/sbin/dockerd "$r"/usr/bin/{docker,containerd,containerd-shim-runc-v2} "$d/bin/"
	cp -L "$r/usr/bin/docker-init" "$d/bin/"
	libraries "$r" "$d/lib" "$d"/bin/*
	strip --strip-unneeded "$d"/bin/* 2>/dev/null || true
	pack "$out-docker/docker.tar.xz" docker
}

for step; do
	case $step in
	programs | images | runtimes | docker) "$step" ;;
	*) die "no step $step" ;;
	esac
done
size=$(du -skc "$out" "$out-docker" | tail -1 | cut -f1)
log "$out and $out-docker: $((size / 1024)) MiB"
[ "$size" -lt $((60 * 1024)) ] || die "more than 60 MiB"
