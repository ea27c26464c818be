# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Shared by the scripts of this folder and by ../images.sh; sourced, not run.
#
# Each engine lives in a "box": a folder $DAVIT_CACHE/BOX with a root file
# system of its own, made from one Debian suite's packages. Nothing is installed
# on the machine and no maintainer script runs. A box runs in private mount,
# pid, network, uts, ipc and cgroup namespaces, so engines of several releases
# run one after another or side by side, next to the machine's own.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${DAVIT_CACHE:=$(cd "$HERE/../../.." && pwd)/build/engines}"
: "${DAVIT_MIRROR:=}" # empty: the Debian mirror that this machine's apt knows
: "${BOX_CGROUP:=v1}" # v1 | v2, see box.sh
SHARE="$DAVIT_CACHE/share" # seen at the same path inside every box
mkdir -p "$SHARE"

log() { printf '%s\n' "[engines] $*" >&2; }
die() {
	log "error: $*"
	exit 1
}
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN{printf "%.1f", b-a}'; }

wait_for() { # wait_for SECONDS COMMAND...
	local end=$(($(date +%s) + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$(date +%s)" -lt "$end" ] || return 1
		sleep 0.1
	done
}

# The start time of a process, so that a pid in a file is known to be the same process.
started() { sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
keep_pid() { echo "$1 $(started "$1")" >"$2"; } # keep_pid PID FILE
live_pid() { # live_pid FILE: the pid in it, if that process still runs
	local pid start
	read -r pid start 2>/dev/null <"$1" || return 1
	[ -n "$start" ] && [ "$(started "$pid")" = "$start" ] && echo "$pid"
}
stop_pid() { # stop_pid FILE: TERM, wait, then KILL this one process
	local pid
	pid=$(live_pid "$1") || {
		rm -f "$1"
		return 0
	}
	kill -TERM "$pid" 2>/dev/null || true
	for _ in $(seq 1 100); do
		live_pid "$1" >/dev/null || break
		sleep 0.1
	done
	if live_pid "$1" >/dev/null; then kill -KILL "$pid" 2>/dev/null || true; fi
	rm -f "$1"
}

# The Debian mirror in use on this machine; on a machine of another
# distribution the one that its debootstrap package knows.
mirror() {
	local m=$DAVIT_MIRROR
	[ -n "$m" ] || m=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null | awk '
		/^URIs:/ {u=$2} /^deb / {for (i=2; i<=NF; i++) if ($i ~ /:\/\//) {u=$i; break}}
		u ~ /\/debian\/?$/ && !seen {seen=1; print u}')
	[ -n "$m" ] || m=$(sed -n 's/^DEF_MIRROR="\(.*\)"$/\1/p' /usr/sbin/debootstrap 2>/dev/null)
	[ -n "$m" ] || die "no Debian mirror is known here; set DAVIT_MIRROR, or install debootstrap"
	echo "$m"
}

# apt_state SUITE [ARCH]: a private apt state for a suite, its package lists at
# most twelve hours old; sets APT_CONFIG. The machine's own apt is not touched.
apt_state() {
	local suite=$1 arch=${2:-$(dpkg --print-architecture)} a m
	a="$DAVIT_CACHE/apt-$suite-$arch"
	export APT_CONFIG="$a/apt.conf"
	[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || die "install the package debian-archive-keyring"
	m=$(mirror)
	mkdir -p "$a"/etc/apt/{sources.list.d,preferences.d,apt.conf.d,trusted.gpg.d} \
		"$a"/var/lib/apt/lists/partial "$a"/var/cache/apt/archives/partial "$a"/var/lib/dpkg
	: >"$a/var/lib/dpkg/status"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $m $suite main" >"$a/etc/apt/sources.list"
	# Check-Valid-Until off: a frozen mirror serves sid with an expired Release file.
	cat >"$APT_CONFIG" <<-E
		Dir "$a";
		Dir::State::status "$a/var/lib/dpkg/status";
		APT::Architecture "$arch";
		APT::Architectures { "$arch"; };
		APT::Install-Recommends "false";
		APT::Sandbox::User "root";
		Acquire::Check-Valid-Until "false";
		Acquire::Languages "none";
		Acquire::Retries "3";
		Dir::Etc::parts "$a/etc/apt/apt.conf.d";
	E
	if [ -z "$(find "$a/var/lib/apt/lists" -maxdepth 1 -name '*_Packages*' -mmin -720 2>/dev/null)" ]; then
		apt-get -qq update
	fi
}

# extract DEB ROOT: a package's files, less the manuals.
extract() {
	dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --keep-directory-symlink \
		--exclude='./usr/share/doc' --exclude='./usr/share/man' \
		--exclude='./usr/share/locale' --exclude='./usr/share/info'
}

# usr_merged ROOT: the folders and links of a usr-merged system.
usr_merged() {
	mkdir -p "$1"/usr/{bin,sbin,lib,lib64} "$1"/{etc,tmp,proc,sys,dev,run,root,opt,var/{lib,log,tmp,cache}}
	ln -s usr/bin "$1/bin"
	ln -s usr/sbin "$1/sbin"
	ln -s usr/lib "$1/lib"
	ln -s usr/lib64 "$1/lib64"
	chmod 1777 "$1/tmp" "$1/var/tmp"
}
