#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# loaders.sh OUTDIR
# Makes OUTDIR/glibc-VERSION for several versions of glibc: small root folders
# with a real dynamic loader, the C library and ldconfig, unpacked from Debian's
# packages. Nothing is installed, no maintainer script runs; package lists are
# shared with the engines'. What is there already is kept, so a second run is
# quick.
#
#   go test ./internal/loader with DAVIT_LOADERS=OUTDIR uses them.
#
# LOADER_SUITES  the Debian suites, by default bullseye (2.31), bookworm (2.36)
#                and trixie (2.41)
. "$(dirname "$0")/engines/lib.sh"
[ $# -eq 1 ] || { echo "usage: $0 OUTDIR" >&2; exit 64; }
mkdir -p "$1"
O=$(cd "$1" && pwd)
: "${LOADER_SUITES:=bullseye bookworm trixie}"

arch=$(dpkg --print-architecture)
case $arch in
amd64) loader=lib64/ld-linux-x86-64.so.2 also="libc6-i386" ;; # with the 32-bit loader
arm64) loader=lib/ld-linux-aarch64.so.1 also="" ;;
*) echo "loaders.sh: no loader known for $arch" >&2; exit 1 ;;
esac

# root SUITE: unpack to a temporary name and rename, so that a root is whole or
# not there at all.
root() {
	local suite=$1 r="$O/.new-$1" version d
	local debs="$O/.debs-$1"
	rm -rf "$r" "$debs"
	apt_state "$suite"
	mkdir -p "$debs" "$r"/usr/{bin,sbin,lib,lib32,lib64} "$r"/{etc,tmp,opt,var/cache/ldconfig}
	for d in bin sbin lib lib32 lib64; do ln -s "usr/$d" "$r/$d"; done
	(cd "$debs" && apt-get -qq download libc6 libc-bin $also)
	for d in "$debs"/*.deb; do
		dpkg-deb --fsys-tarfile "$d" | tar -x -C "$r" --keep-directory-symlink --wildcards \
			--exclude='./usr/share' --exclude='*/gconv' --exclude='*/locale' --exclude='*/audit' --exclude='./usr/lib/locale'
	done
	# Bullseye's loader is a link with an absolute target, which -e would follow outside.
	{ [ -L "$r/$loader" ] || [ -x "$r/$loader" ]; } && [ -x "$r/sbin/ldconfig" ] || { echo "loaders.sh: $suite: the packages bring no loader or no ldconfig" >&2; exit 1; }
	version=$("$r/sbin/ldconfig" --version | awk 'NR==1 {print $NF}')
	rm -rf "$O/glibc-$version"
	mv "$r" "$O/glibc-$version"
	rm -rf "$debs"
	echo "glibc-$version" >"$O/.done-$suite-$arch"
}

for s in $LOADER_SUITES; do
	if [ -s "$O/.done-$s-$arch" ] && [ -d "$O/$(cat "$O/.done-$s-$arch")" ]; then
		continue
	fi
	root "$s" &
done
for job in $(jobs -p); do
	wait "$job"
done
for s in $LOADER_SUITES; do
	echo "$O/$(cat "$O/.done-$s-$arch")"
done
