#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The first process of a box; started by box.sh alone, with BOX_ROOT, BOX_SHARE,
# BOX_CGROUP, BOX_CGROUPS and BOX_BINDS set. Outside the namespaces it enters
# the box's cgroups; inside, it mounts and changes its root.
set -euo pipefail

if [ "${1:-}" != inside ]; then
	# A cgroup of the box's own in every hierarchy, to be the root of its cgroup
	# namespace: what engines leave behind there goes with the box.
	while read -r d; do
		mkdir -p "$d" || continue
		for f in cpuset.cpus cpuset.mems; do
			[ ! -e "$d/$f" ] || cat "${d%/*}/$f" >"$d/$f" 2>/dev/null || true
		done
		echo $$ >"$d/cgroup.procs" || echo "cannot enter $d"
	done <"$BOX_CGROUPS"
	exec unshare --mount --net --uts --ipc --pid --cgroup --fork --kill-child --propagation private "$0" inside
fi

R=$BOX_ROOT c="$BOX_ROOT/sys/fs/cgroup"
mount --bind "$R" "$R"
mount -t proc proc "$R/proc"
mount -t sysfs sysfs "$R/sys"
if [ "$BOX_CGROUP" = v2 ] || [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
	mount -t cgroup2 cgroup2 "$c"
	# cgroup2 wants no process in a group that hands controllers down.
	mkdir -p "$c/init"
	while read -r p; do echo "$p" >"$c/init/cgroup.procs" 2>/dev/null || true; done <"$c/cgroup.procs"
	read -ra controllers <"$c/cgroup.controllers" || true # none is fine
	for k in "${controllers[@]}"; do echo "+$k" >"$c/cgroup.subtree_control" 2>/dev/null || true; done
else
	mount -t tmpfs -o mode=755 tmpfs "$c"
	for h in /sys/fs/cgroup/*; do
		n=${h##*/}
		mountpoint -q "$h" || {
			[ ! -L "$h" ] || ln -s "$(readlink "$h")" "$c/$n"
			continue
		}
		# The cgroup2 mount of a hybrid layout stays out: crun refuses it.
		[ "$(stat -f -c %T "$h")" != cgroup2fs ] || continue
		o=$(awk -v m="$h" '$5==m {print $NF}' /proc/self/mountinfo | tail -1 | tr , '\n' | grep -vx -e rw -e ro | paste -sd,)
		mkdir "$c/$n"
		mount -t cgroup -o "$o" cgroup "$c/$n" || rmdir "$c/$n"
	done
fi
mount -t tmpfs -o mode=755,size=64m tmpfs "$R/dev"
for n in null zero full random urandom tty fuse net/tun; do
	[ -e "/dev/$n" ] || continue
	mkdir -p "$(dirname "$R/dev/$n")"
	: >"$R/dev/$n"
	mount --bind "/dev/$n" "$R/dev/$n"
done
mkdir "$R/dev/pts" "$R/dev/shm" "$R/dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$R/dev/pts"
ln -s pts/ptmx "$R/dev/ptmx"
ln -s /proc/self/fd "$R/dev/fd"
mount -t tmpfs tmpfs "$R/dev/shm"
mount -t mqueue mqueue "$R/dev/mqueue"
mount -t tmpfs -o mode=755 tmpfs "$R/run"
mkdir -p "$R/run/lock"
mount --bind "$BOX_SHARE" "$R$BOX_SHARE"
for b in $BOX_BINDS; do
	mkdir -p "$R$b"
	mount --bind "$b" "$R$b"
done
"$R/usr/bin/busybox" ip link set lo up || true
"$R/usr/bin/busybox" hostname box
cd "$R"
pivot_root . .old
cd /
# Old engines' shims leave children to pid 1, and busybox's sh reaps them.
exec /usr/bin/busybox sh -c '/usr/bin/busybox umount -l /.old; while :; do /usr/bin/busybox sleep 3600; done'
