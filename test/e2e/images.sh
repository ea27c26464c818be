#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# images.sh NAME... | --list
# Small test images made from Debian's packages, without any registry. Each is
# one file $DAVIT_CACHE/share/images/NAME.tar that `docker load`, `podman load`
# and `ctr images import` take; the image is named localhost/NAME:latest. An
# image that was made by the same script is kept.
# DAVIT: the davit program, for the stale image.
#
#   busybox     static busybox and its applets, no C library
#   pause       busybox that sleeps (the sandbox image that a CRI engine needs)
#   debian      Debian 12's base: glibc 2.36, multiarch folders, /etc/ld.so.cache
#   cuda-base   debian shaped like nvidia/cuda:*-base: environment, entrypoint, folders, compat
#   fedora      /usr/lib64 as on Fedora; its loader's built-in folders are /lib64 and
#               /usr/lib64 (Debian's 64-bit C library for i386 systems is built so)
#   oldglibc    Debian 11's base: glibc 2.31
#   newglibc    Debian 13's base: glibc 2.41
#   distroless  glibc and its loader alone: no shell, no ldconfig, no cache, no ld.so.conf
#   alpine      musl as Alpine lays it out, busybox, no glibc
#   python      debian and Python with ctypes: the base of a training image
#   stale       python with driver libraries of version 418.226.00 left in two folders
#   twopythons  python with two builds of libpython3.11.so.1.0, of which the loader's
#               cache puts first the one that no ldconfig run would find
. "$(dirname "$0")/engines/lib.sh"
all=(busybox pause debian cuda-base fedora oldglibc newglibc distroless alpine python stale twopythons)
[ "${1:-}" != --list ] || {
	printf '%s\n' "${all[@]}"
	exit 0
}
[ $# -gt 0 ] || die "usage: $0 NAME... | --list"
O="$SHARE/images"
mkdir -p "$O"
stamp=$(cat "$HERE/../images.sh" "$HERE/lib.sh" | cksum)
arch=$(dpkg --print-architecture)
[ "$arch" = amd64 ] || die "the test images are laid out for amd64 only, this is $arch"
triplet=x86_64-linux-gnu
W=
trap '[ -z "$W" ] || rm -rf --one-file-system "$W"' EXIT

json() { # json STRING...: a JSON array
	local s='' a
	for a in "$@"; do
		a=${a//\\/\\\\}
		s="$s${s:+,}\"${a//\"/\\\"}\""
	done
	printf '[%s]' "$s"
}
pack() { # pack NAME ROOT ENV-JSON CMD-JSON [ENTRYPOINT-JSON]
	local d="$W/pack" diff cfg
	mkdir -p "$d"
	tar -C "$2" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$d/layer.tar" .
	diff=$(sha256sum "$d/layer.tar" | cut -d' ' -f1)
	printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":{"Env":%s,"Cmd":%s%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"1970-01-01T00:00:00Z"}]}' \
		"$arch" "$3" "$4" "${5:+,\"Entrypoint\":$5}" "$diff" >"$d/config"
	cfg=$(sha256sum "$d/config" | cut -d' ' -f1)
	mv "$d/config" "$d/$cfg.json"
	printf '[{"Config":"%s.json","RepoTags":["localhost/%s:latest"],"Layers":["layer.tar"]}]' "$cfg" "$1" >"$d/manifest.json"
	tar -C "$d" -cf "$O/.$1.tar" manifest.json "$cfg.json" layer.tar
	mv "$O/.$1.tar" "$O/$1.tar"
	echo "$stamp" >"$O/$1.stamp"
	rm -rf "$d"
}
unpack() { # unpack ROOT SUITE PACKAGE...: these packages and what they depend on
	local r=$1 suite=$2 d name
	shift 2
	d=$(mktemp -d "$W/debs.XXXXXX")
	(
		apt_state "$suite"
		cd "$d"
		mapfile -t name < <(apt-get -s -y --no-install-recommends install "$@" | awk '/^Inst /{print $2}')
		apt-get -qq download "${name[@]}"
	)
	for f in "$d"/*.deb; do extract "$f" "$r"; done
	rm -rf "$d"
}
lone() { # lone ROOT SUITE PACKAGE...: these packages' files alone
	local r=$1 suite=$2 d
	shift 2
	mkdir -p "$r"
	d=$(mktemp -d "$W/debs.XXXXXX")
	(
		apt_state "$suite" "${ARCH:-$arch}"
		cd "$d"
		apt-get -qq download "$@"
	)
	for f in "$d"/*.deb; do extract "$f" "$r"; done
	rm -rf "$d"
}
users() {
	mkdir -p "$1/etc"
	[ -s "$1/etc/passwd" ] || printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$1/etc/passwd"
	[ -s "$1/etc/group" ] || printf 'root:x:0:\nnogroup:x:65534:\n' >"$1/etc/group"
}
busybox_tree() { # busybox and its applets
	local r=$1 a
	mkdir -p "$r"/{bin,sbin,usr/bin,usr/sbin,usr/lib,etc,tmp,dev,proc,sys,root,var,run}
	[ -d "$W/bb" ] || {
		mkdir "$W/bb"
		lone "$W/bb" bookworm busybox-static
	}
	find "$W/bb" -path '*/bin/busybox' -type f -exec cp {} "$r/bin/busybox" \;
	for a in $("$r/bin/busybox" --list); do [ -e "$r/bin/$a" ] || ln -s busybox "$r/bin/$a"; done
	users "$r"
}
base() { # base ROOT SUITE PACKAGE...: a minimal Debian, with the loader's cache made
	local r=$1 suite=$2
	shift 2
	mkdir "$r"
	usr_merged "$r"
	unpack "$r" "$suite" base-files libc-bin bash coreutils dash grep sed "$@"
	[ -e "$r/usr/bin/sh" ] || ln -s dash "$r/usr/bin/sh"
	users "$r"
	[ -e "$r/etc/os-release" ] || ln -s ../usr/lib/os-release "$r/etc/os-release"
	ldconfig -r "$r"
}
debian_tree() { # debian_tree ROOT: a copy of Debian 12's base, unpacked once a run
	[ -d "$W/debian.base" ] || base "$W/debian.base" bookworm
	cp -a "$W/debian.base" "$1"
}
python_tree() { # python_tree ROOT
	[ -d "$W/python.base" ] || {
		base "$W/python.base" bookworm python3-minimal libpython3.11-stdlib
		[ -e "$W/python.base/usr/bin/python3" ] || ln -s python3.11 "$W/python.base/usr/bin/python3"
	}
	cp -a "$W/python.base" "$1"
}

PATHENV=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# The environment of nvidia/cuda's images, shortened where it only repeats.
cudaenv=("PATH=/usr/local/nvidia/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	"LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64" "NVARCH=x86_64"
	"NVIDIA_REQUIRE_CUDA=cuda>=12.4 brand=unknown,driver>=470,driver<471 brand=tesla,driver>=535,driver<536"
	"CUDA_VERSION=12.4.1" "NVIDIA_VISIBLE_DEVICES=all" "NVIDIA_DRIVER_CAPABILITIES=compute,utility" "NVIDIA_PRODUCT_NAME=CUDA")

make_image() {
	local n=$1 r="$W/root" l d
	case $n in
	busybox)
		busybox_tree "$r"
		pack "$n" "$r" "$(json "$PATHENV")" "$(json /bin/sh)"
		;;
	pause)
		busybox_tree "$W/pb"
		mkdir -p "$r/bin" "$r/tmp"
		cp "$W/pb/bin/busybox" "$r/bin/busybox"
		pack "$n" "$r" "$(json "$PATHENV")" "$(json 2147483647)" "$(json /bin/busybox sleep)"
		;;
	debian)
		debian_tree "$r"
		pack "$n" "$r" "$(json "$PATHENV")" "$(json bash)"
		;;
	oldglibc)
		base "$r" bullseye
		pack "$n" "$r" "$(json "$PATHENV")" "$(json bash)"
		;;
	newglibc)
		base "$r" trixie
		pack "$n" "$r" "$(json "$PATHENV")" "$(json bash)"
		;;
	cuda-base)
		debian_tree "$r"
		mkdir -p "$r/usr/local/cuda-12.4/"{compat,targets/x86_64-linux/lib} "$r/etc/ld.so.conf.d" "$r/opt/nvidia"
		ln -s cuda-12.4 "$r/usr/local/cuda"
		# Stand-ins for the cuda-compat package: libraries by name, not by content.
		for l in libcuda libcudadebugger libnvidia-nvvm libnvidia-ptxjitcompiler libnvidia-gpucomp; do
			echo "stand-in for $l, compat 550.54.15" >"$r/usr/local/cuda-12.4/compat/$l.so.550.54.15"
			ln -s "$l.so.550.54.15" "$r/usr/local/cuda-12.4/compat/$l.so.1"
		done
		ln -s libcuda.so.1 "$r/usr/local/cuda-12.4/compat/libcuda.so"
		printf '/usr/local/nvidia/lib\n/usr/local/nvidia/lib64\n' >"$r/etc/ld.so.conf.d/nvidia.conf"
		printf '/usr/local/cuda/targets/x86_64-linux/lib\n' >"$r/etc/ld.so.conf.d/000_cuda.conf"
		printf '#!/bin/bash\nexec "$@"\n' >"$r/opt/nvidia/nvidia_entrypoint.sh"
		chmod +x "$r/opt/nvidia/nvidia_entrypoint.sh"
		ldconfig -r "$r" 2>/dev/null
		pack "$n" "$r" "$(json "${cudaenv[@]}")" "$(json /bin/bash)" "$(json /opt/nvidia/nvidia_entrypoint.sh)"
		;;
	fedora)
		debian_tree "$r"
		# Debian's own C library goes, its other libraries move, the lib64 one comes.
		lone "$W/libc6" bookworm libc6
		(cd "$W/libc6" && find . -type f -o -type l) | while read -r l; do rm -f "$r/$l"; done
		find "$r/usr/lib/$triplet" "$r/usr/lib64" -mindepth 1 -maxdepth 1 -name 'ld-*' -delete
		cp -a "$r/usr/lib/$triplet/." "$r/usr/lib64/"
		rm -rf "$r/usr/lib/$triplet" "$r/etc/debian_version" "$r/etc/ld.so.conf.d" "$r/etc/os-release" "$r/usr/lib/os-release"
		ARCH=i386 lone "$r" bookworm libc6-amd64
		rm -rf "$r/etc/ld.so.conf.d"
		mkdir "$r/etc/ld.so.conf.d"
		echo 'include ld.so.conf.d/*.conf' >"$r/etc/ld.so.conf"
		echo 'Fedora release 40 (Forty)' >"$r/etc/fedora-release"
		printf 'NAME="Fedora Linux"\nID=fedora\nVERSION_ID=40\n' >"$r/etc/os-release"
		# This machine's ldconfig does not have Fedora's built-in folders: name them for one run.
		echo /lib64 >"$r/etc/once.conf"
		ldconfig -r "$r" -f /etc/once.conf
		rm "$r/etc/once.conf"
		pack "$n" "$r" "$(json "$PATHENV")" "$(json bash)"
		;;
	distroless)
		mkdir -p "$r/home/nonroot"
		usr_merged "$r"
		lone "$r" bookworm libc6 libgcc-s1 base-files
		rm -rf "$r/etc/ld.so.conf" "$r/etc/ld.so.conf.d" "$r/etc/ld.so.cache" "$r/usr/share/base-files"
		users "$r"
		# The loader is the one program there.
		pack "$n" "$r" "$(json PATH=/usr/local/bin:/usr/bin:/bin)" "$(json --version)" "$(json /lib64/ld-linux-x86-64.so.2)"
		;;
	alpine)
		busybox_tree "$r"
		mkdir -p "$W/musl" "$r/lib"
		lone "$W/musl" bookworm musl
		find "$W/musl" -name libc.so -type f -exec cp {} "$r/lib/ld-musl-x86_64.so.1" \;
		chmod 755 "$r/lib/ld-musl-x86_64.so.1"
		ln -s ld-musl-x86_64.so.1 "$r/lib/libc.musl-x86_64.so.1"
		rm -f "$r/sbin/ldconfig" "$r/bin/ldconfig"
		echo 3.20.0 >"$r/etc/alpine-release"
		printf 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.20.0\n' >"$r/etc/os-release"
		pack "$n" "$r" "$(json "$PATHENV")" "$(json /bin/sh)"
		;;
	python)
		python_tree "$r"
		pack "$n" "$r" "$(json "$PATHENV" LANG=C.UTF-8)" "$(json python3)"
		;;
	stale)
		[ -x "${DAVIT:-}" ] || die "set DAVIT to the davit program: the stale image takes its old libraries from a simulated host"
		python_tree "$r"
		"$DAVIT" simulate up "$W/old" --gpus 1 --layout debian --driver 418.226.00 --model T4 >/dev/null
		for d in "$r/usr/lib/$triplet" "$r/usr/local/lib"; do
			mkdir -p "$d"
			cp -a "$W/old/usr/lib/$triplet"/lib{cuda,nvidia-}*.so* "$d/"
		done
		ldconfig -r "$r"
		pack "$n" "$r" "$(json "$PATHENV" LANG=C.UTF-8)" "$(json python3)"
		;;
	twopythons)
		python_tree "$r"
		lone "$r" bookworm libpython3.11
		l=$(readlink -f "$r/usr/lib/$triplet/libpython3.11.so.1.0")
		# A second build: the same library with another version in its text. Only
		# the loader's cache knows it, as after a folder was taken out of ld.so.conf.
		mkdir -p "$r/opt/python/lib"
		LC_ALL=C sed 's/\x003\.11\.2\([+ (\x00]\)/\x003.11.9\1/g' "$l" >"$r/opt/python/lib/libpython3.11.so.1.0"
		! cmp -s "$l" "$r/opt/python/lib/libpython3.11.so.1.0" || die "no version text to change in $l"
		echo /opt/python/lib >"$r/etc/ld.so.conf.d/000-python.conf"
		ldconfig -r "$r"
		rm "$r/etc/ld.so.conf.d/000-python.conf"
		pack "$n" "$r" "$(json "$PATHENV" LANG=C.UTF-8)" "$(json python3)"
		;;
	*) die "no image named $n" ;;
	esac
	rm -rf --one-file-system "$r"
}

for n in "$@"; do
	[ "$(cat "$O/$n.stamp" 2>/dev/null)" != "$stamp" ] || continue
	t0=$(now)
	[ -n "$W" ] || W=$(mktemp -d "$DAVIT_CACHE/images.XXXXXX")
	make_image "$n"
	log "image $n: $(du -k "$O/$n.tar" | cut -f1) KiB, $(since "$t0") s"
done
