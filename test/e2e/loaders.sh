#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# loaders.sh OUTDIR
# Makes OUTDIR/glibc-VERSION for several versions of glibc: small root folders
# with a real dynamic loader, the C library and ldconfig, unpacked from Debian's
# packages. Nothing is installed, no maintainer script runs, nothing outside
# OUTDIR is written. What is there already is kept, so a second run is quick.
#
#   go test ./internal/loader with DAVIT_LOADERS=OUTDIR uses them.
#
# LOADER_SUITES  the Debian suites, by default bullseye (2.31), bookworm (2.36)
#                and trixie (2.41)
# LOADER_MIRROR  a Debian mirror; by default the one apt uses here
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 OUTDIR" >&2; exit 64; }
mkdir -p "$1"
O=$(cd "$1" && pwd)
: "${LOADER_SUITES:=bullseye bookworm trixie}"
: "${LOADER_MIRROR:=}"

arch=$(dpkg --print-architecture)
case $arch in
amd64) loader=lib64/ld-linux-x86-64.so.2 also="libc6-i386" ;; # with the 32-bit loader
arm64) loader=lib/ld-linux-aarch64.so.1 also="" ;;
*) echo "loaders.sh: no loader known for $arch" >&2; exit 1 ;;
esac

mirror() {
	local m=$LOADER_MIRROR
	[ -n "$m" ] || m=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null | awk '
		/^URIs:/ {u=$2} /^deb / {u=""; for (i=2; i<=NF; i++) if ($i ~ /:\/\//) {u=$i; break}}
		u ~ /\/debian\/?$/ && !seen {seen=1; print u}')
	echo "${m:-http://deb.debian.org/debian}"
}

# keyring: Debian's, which another distribution has as a package to unpack.
keyring() {
	local k=/usr/share/keyrings/debian-archive-keyring
	for f in "$k.gpg" "$k.pgp" "$O/keyring$k.gpg" "$O/keyring$k.pgp"; do
		[ ! -s "$f" ] || { echo "$f"; return; }
	done
	mkdir -p "$O/keyring"
	(cd "$O/keyring" && apt-get -qq download debian-archive-keyring && dpkg-deb -x debian-archive-keyring_*.deb .) >&2
	ls "$O/keyring$k".?gp | head -1
}

# aptstate SUITE: a private state of apt, in $A.
aptstate() {
	A="$O/apt-$1"
	mkdir -p "$A"/etc/apt/{sources.list.d,preferences.d,apt.conf.d,trusted.gpg.d} \
		"$A"/var/lib/apt/lists/partial "$A"/var/cache/apt/archives/partial "$A"/var/lib/dpkg
	: >"$A/var/lib/dpkg/status"
	echo "deb [signed-by=$(keyring)] $(mirror) $1 main" >"$A/etc/apt/sources.list"
	# Check-Valid-Until off: a frozen mirror has expired Release files.
	cat >"$A/apt.conf" <<-E
		Dir "$A";
		Dir::State::status "$A/var/lib/dpkg/status";
		APT::Architecture "$arch";
		APT::Architectures { "$arch"; };
		APT::Sandbox::User "root";
		Acquire::Check-Valid-Until "false";
		Acquire::Languages "none";
		Acquire::Retries "3";
	E
	APT_CONFIG="$A/apt.conf" apt-get -qq update
}

# root SUITE: unpack to a temporary name and rename, so that a root is whole or
# not there at all.
root() {
	local suite=$1 r="$O/.new-$1" version d
	rm -rf "$r"
	aptstate "$suite"
	mkdir -p "$A/debs" "$r"/usr/{bin,sbin,lib,lib32,lib64} "$r"/{etc,tmp,opt,var/cache/ldconfig}
	for d in bin sbin lib lib32 lib64; do ln -s "usr/$d" "$r/$d"; done
	(cd "$A/debs" && APT_CONFIG="$A/apt.conf" apt-get -qq download libc6 libc-bin $also)
	for d in "$A"/debs/*.deb; do
		dpkg-deb --fsys-tarfile "$d" | tar -x -C "$r" --keep-directory-symlink --wildcards \
			--exclude='./usr/share' --exclude='*/gconv' --exclude='*/locale' --exclude='*/audit' --exclude='./usr/lib/locale'
	done
	# Bullseye's loader is a link with an absolute target, which -e would follow outside.
	{ [ -L "$r/$loader" ] || [ -x "$r/$loader" ]; } && [ -x "$r/sbin/ldconfig" ] || { echo "loaders.sh: $suite: the packages bring no loader or no ldconfig" >&2; exit 1; }
	version=$("$r/sbin/ldconfig" --version | awk 'NR==1 {print $NF}')
	rm -rf "$O/glibc-$version"
	mv "$r" "$O/glibc-$version"
	rm -rf "$A"
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
