#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# box.sh up BOX | exec BOX COMMAND... | spawn BOX NAME COMMAND... | kill BOX NAME | down BOX
#
# `down` kills the box's first process; the kernel then kills all that was
# started in it (daemons, shims, containers), and the box's cgroups go too.
# Settings: BOX_CGROUP=v1 shows this machine's cgroup v1 hierarchies (on a
# machine that has cgroup2 alone, that); v2 shows a cgroup2 file system only.
# BOX_ENV: K=V words for exec and spawn. BOX_BINDS: more folders of this machine
# to show inside at the same path.
. "$(dirname "$0")/lib.sh"
[ $# -ge 2 ] || die "usage: $0 up|exec|spawn|kill|down BOX ..."
verb=$1 box=$2
shift 2
B="$DAVIT_CACHE/$box"
group="davit-$box-$(printf %s "$DAVIT_CACHE" | cksum | cut -d' ' -f1)" # another clone may run the same box
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin

# Where this box's cgroups are: below the caller's own, or at the top where there is cgroup2 alone.
cgroup_dirs() {
	if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
		echo "/sys/fs/cgroup/$group"
		return
	fi
	local ctl path m
	while IFS=: read -r _ ctl path; do
		m=/sys/fs/cgroup/${ctl#name=}
		[ -n "$ctl" ] || m=/sys/fs/cgroup/unified
		[ ! -w "$m/cgroup.procs" ] || echo "$m${path%/}/$group"
	done </proc/self/cgroup
}
enter() { # run a command in the box; the caller's environment is dropped
	local p d
	p=$(live_pid "$B/box.pid") || die "$box is not up"
	while read -r d; do
		[ ! -d "$d/init" ] || d="$d/init"
		echo $BASHPID >"$d/cgroup.procs" 2>/dev/null || true
	done <"$B/cgroups"
	# shellcheck disable=SC2086 # BOX_ENV is a list of words
	exec env -i PATH="$path" HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 ${BOX_ENV:-} \
		nsenter -t "$p" -m -p -n -u -i -C -- "$@"
}

case "$verb" in
up)
	if live_pid "$B/box.pid" >/dev/null; then exit 0; fi
	[ -d "$B/rootfs/usr" ] || die "$box has no root; run suite-root.sh first"
	case ",$(findmnt -nr -o OPTIONS -T "$B")," in
	*,nodev,*) die "$B lies on a file system mounted nodev, where no device can be opened; set DAVIT_CACHE to another folder" ;;
	esac
	"$HERE/box.sh" down "$box"
	mkdir -p "$B/log" "$B/rootfs$SHARE" "$B/rootfs/.old"
	cgroup_dirs >"$B/cgroups"
	BOX_ROOT="$B/rootfs" BOX_CGROUPS="$B/cgroups" BOX_SHARE="$SHARE" BOX_CGROUP="$BOX_CGROUP" BOX_BINDS="${BOX_BINDS:-}" \
		setsid "$HERE/box-init.sh" </dev/null >"$B/log/box.log" 2>&1 &
	up=$!
	# The pid to enter is that of unshare's child, the box's pid 1.
	for _ in $(seq 1 200); do
		c=$(awk '{print $1}' "/proc/$up/task/$up/children" 2>/dev/null || true)
		if [ -n "$c" ] && [ "$(cat "/proc/$c/comm" 2>/dev/null)" = busybox ] && [ ! -e "/proc/$c/root/.old/usr" ]; then
			keep_pid "$c" "$B/box.pid"
			exit 0
		fi
		kill -0 "$up" 2>/dev/null || break
		sleep 0.02
	done
	cat "$B/log/box.log" >&2
	die "$box did not come up"
	;;
exec) enter "$@" ;;
spawn) # in the background: its pid here in $B/NAME.pid, its output in $B/log/NAME.log
	n=$1
	shift
	(enter "$@") </dev/null >"$B/log/$n.log" 2>&1 &
	up=$!
	# nsenter forks to enter the pid namespace: the pid to keep is its child's.
	for _ in $(seq 1 200); do
		c=
		[ "$(cat "/proc/$up/comm" 2>/dev/null)" != nsenter ] || c=$(awk '{print $1}' "/proc/$up/task/$up/children" 2>/dev/null || true)
		if [ -n "$c" ]; then
			keep_pid "$c" "$B/$n.pid"
			exit 0
		fi
		kill -0 "$up" 2>/dev/null || break
		sleep 0.02
	done
	cat "$B/log/$n.log" >&2
	die "$box: $n did not start"
	;;
kill) stop_pid "$B/$1.pid" ;;
down)
	if p=$(live_pid "$B/box.pid"); then
		kill -KILL "$p"
		for _ in $(seq 1 100); do
			live_pid "$B/box.pid" >/dev/null || break
			sleep 0.05
		done
	fi
	rm -f "$B"/*.pid
	[ ! -s "$B/cgroups" ] || while read -r d; do # now empty: deepest first
		for _ in $(seq 1 50); do
			[ -d "$d" ] || break
			find "$d" -depth -type d -exec rmdir {} \; 2>/dev/null || true
			[ ! -d "$d" ] || sleep 0.05
		done
	done <"$B/cgroups"
	rm -f "$B/cgroups"
	;;
*) die "unknown verb $verb" ;;
esac
