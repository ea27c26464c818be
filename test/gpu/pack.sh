#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# pack.sh [--no-docker]
# On a machine with Debian's packages at hand (amd64, root, gcc, Go): puts into
# build/gpu all that run.sh needs on a GPU host without network and without any
# engine: davit, the checks, runc and crun with their libraries, small root file
# systems, and docker. One folder, kept below 60 MiB.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
out=$top/build/gpu
docker=1
[ "${1:-}" != --no-docker ] || docker=
export DAVIT_CACHE=${DAVIT_CACHE:-$top/build/engines}
export CGO_ENABLED=0
cd "$top"
W=$(mktemp -d)
trap 'rm -rf --one-file-system "$W"' EXIT
rm -rf --one-file-system "$out"
mkdir -p "$out/bin" "$out/tools" "$W/images" "$W/runtime/bin" "$W/runtime/lib"

echo "[pack] programs" >&2
version=$(git describe --tags --always --dirty 2>/dev/null || echo dev)
go build -trimpath -ldflags "-s -w -X main.version=$version" -o "$out/bin/" ./cmd/davit ./cmd/davit-runtime
go build -trimpath -ldflags "-s -w" -o "$out/bin/gpucheck" ./test/gpu
go build -trimpath -ldflags "-s -w" -o "$out/bin/floor" ./test/gpu/floor

# The check programs link against a libcuda made here; that it is a stub shows
# only where it lies in an image.
cc="gcc -std=gnu11 -O2 -Wall -Wextra -Werror -fno-stack-protector -U_FORTIFY_SOURCE -fcf-protection=none -Wl,--build-id=none,--hash-style=both -s"
for name in libcuda.so.1 libcuda.so; do
	$cc -shared -fPIC -nostdlib -Wl,-soname,$name -o "$W/$name" "$here/cuda/libcuda-stub.c"
done
$cc -nostartfiles -no-pie -o "$out/tools/cudacheck" "$here/cuda/cudacheck.c" "$W/libcuda.so.1"
$cc -nostartfiles -no-pie -o "$out/tools/cudadev" "$here/cuda/cudacheck.c" "$W/libcuda.so"
cp "$here/train.py" "$out/tools/"

echo "[pack] root file systems" >&2
images=(busybox alpine distroless debian cuda-base fedora oldglibc newglibc)
DAVIT="$out/bin/davit" "$top/test/e2e/images.sh" "${images[@]}"
trim() { # trim ROOT: what no check uses
	local r=$1
	rm -rf "$r"/usr/lib/*/gconv "$r"/usr/lib64/gconv "$r"/usr/lib/locale "$r"/usr/lib/*/perl* "$r"/usr/lib/*/ossl-modules \
		"$r"/usr/lib/*/engines-* "$r"/usr/share "$r"/var/lib/dpkg "$r"/usr/lib/dpkg
	rm -f "$r"/usr/bin/{perl*,dpkg*,localedef,pinky,ptx} "$r"/usr/lib/*/lib{crypto,ssl}.so.*
}
layers() { # layers IMAGE-TAR ROOT
	local l
	mkdir -p "$2"
	for l in $(tar -xOf "$1" manifest.json | grep -o '[^"]*layer\.tar\|blobs/[^"]*' | grep -v config); do
		tar -xOf "$1" "$l" | tar -x -C "$2"
	done
}
for n in "${images[@]}"; do
	layers "$DAVIT_CACHE/share/images/$n.tar" "$W/images/$n"
	trim "$W/images/$n"
done
# The stale image: Debian with driver libraries left in two folders and in the cache.
cp -a "$W/images/debian" "$W/images/stale"
for d in usr/local/lib usr/lib/x86_64-linux-gnu; do
	mkdir -p "$W/images/stale/$d"
	cp "$W/libcuda.so.1" "$W/images/stale/$d/libcuda.so.418.226.00"
	ln -s libcuda.so.418.226.00 "$W/images/stale/$d/libcuda.so.1"
	ln -s libcuda.so.1 "$W/images/stale/$d/libcuda.so"
done
ldconfig -r "$W/images/stale"
du -sm "$W"/images/* >&2

echo "[pack] runc and crun" >&2
# shellcheck source=../e2e/engines/lib.sh
. "$top/test/e2e/engines/lib.sh"
mkdir "$W/debs" "$W/rt"
(
	apt_state bookworm
	cd "$W/debs"
	apt-get -qq download runc crun libseccomp2 libsystemd0 libcap2 libyajl2 libgcrypt20 liblzma5 libzstd1 liblz4-1 libgpg-error0
)
for d in "$W"/debs/*.deb; do extract "$d" "$W/rt"; done
take() { # take ROOT DIR LIB...: libraries by SONAME
	local r=$1 to=$2 l
	shift 2
	for l; do cp -L "$(find "$r/usr/lib" "$r/lib" -name "$l" 2>/dev/null | head -1)" "$to/"; done
}
find "$W/rt" -type f \( -name runc -o -name crun \) -path '*bin/*' -exec cp {} "$W/runtime/bin/" \;
take "$W/rt" "$W/runtime/lib" libseccomp.so.2 libsystemd.so.0 libcap.so.2 libyajl.so.2 libgcrypt.so.20 liblzma.so.5 libzstd.so.1 liblz4.so.1 libgpg-error.so.0

if [ -n "$docker" ]; then
	echo "[pack] docker" >&2
	"$top/test/e2e/engines/suite-root.sh" docker26 trixie docker.io docker-cli containerd runc busybox-static
	r=$DAVIT_CACHE/docker26/rootfs
	mkdir -p "$W/docker/bin" "$W/docker/lib"
	cp "$r"/usr/sbin/{dockerd,runc} "$r"/usr/bin/{docker,containerd,containerd-shim-runc-v2} "$W/docker/bin/"
	cp -L "$r/usr/bin/docker-init" "$W/docker/bin/"
	# Their libraries, less the C library's own: the host's is to be used.
	for f in "$W"/docker/bin/*; do
		chroot "$r" /lib64/ld-linux-x86-64.so.2 --list "/usr/sbin/${f##*/}" 2>/dev/null || chroot "$r" /lib64/ld-linux-x86-64.so.2 --list "/usr/bin/${f##*/}" 2>/dev/null || true
	done | awk '$3 ~ /^\// {print $3}' | sort -u | grep -Ev '/(libc|libm|libdl|libpthread|librt|libresolv|ld-linux[^/]*)\.so' |
		while read -r l; do cp -L "$r$l" "$W/docker/lib/"; done
	strip --strip-unneeded "$W"/docker/bin/* 2>/dev/null || true
fi

echo "[pack] compress" >&2
cp "$(find "$W/images/busybox" -type f -name busybox | head -1)" "$out/bin/busybox"
pack() { # pack NAME DIR...: solid, for what is in several images is then stored once
	local n=$1
	shift
	tar -C "$W" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - "$@" |
		xz -T1 --x86 --lzma2=preset=6,dict=64MiB >"$out/$n.tar.xz"
}
pack images images
pack runtime runtime
[ -z "$docker" ] || pack docker docker
du -sk "$out"/* >&2
size=$(du -sk "$out" | cut -f1)
echo "[pack] $out: $((size / 1024)) MiB" >&2
[ "$size" -lt $((60 * 1024)) ] || die "more than 60 MiB"
