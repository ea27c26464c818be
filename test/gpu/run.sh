#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# run.sh [--box v1|v2] [flags of test/gpu]
# The acceptance run on a real GPU: nothing is installed, no network is used, no
# engine need be there. Takes what pack.sh put into build/gpu (and docker, if
# build/gpu-docker is there), and makes it first where it is missing. As root.
#
#	--host-root DIR   a simulated host (davit simulate up --layout flat --gpus 2 DIR)
#	--deadline 7m     after that, checks that are left are skipped
#	--only TEXT       only checks whose name holds TEXT
#	--columns LIST    such as "runc shim,crun hook"
#	--box v1|v2       on machines with both kinds of cgroups, which crun refuses:
#	                  show only one kind, in a mount namespace of its own
#
# Prints one table, and below it what went wrong; exit status 1 if something did.
# With OUT set, the table goes to $OUT/gpu-table.md, all evidence to
# $OUT/gpu-evidence.txt.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pack=$(cd "$here/../.." && pwd)/build/gpu
if [ "${1:-}" = --box ]; then
	export GPU_BOX=$2
	shift 2
	exec unshare --mount --propagation private "$0" "$@"
fi
case ${GPU_BOX:-} in
v1)
	only=$(mktemp -d)
	mount -t tmpfs -o mode=755 tmpfs "$only"
	for h in /sys/fs/cgroup/*; do
		if [ -L "$h" ]; then cp -P "$h" "$only/"; fi
		[ ! -L "$h" ] && [ "$(stat -f -c %T "$h")" = cgroupfs ] || continue
		mkdir "$only/${h##*/}"
		mount --bind "$h" "$only/${h##*/}"
	done
	mount --move "$only" /sys/fs/cgroup
	rmdir "$only"
	;;
v2) mount -t cgroup2 cgroup2 /sys/fs/cgroup ;;
esac
[ -e "$pack/programs.tar.xz" ] || "$here/pack.sh"
work=$(mktemp -d "${TMPDIR:-/tmp}/davit-gpu.XXXXXX")
cleanup() {
	# Mounts first: the root of one container is an overlay of /.
	local m
	while read -r m; do umount -l "$m" || return 0; done < <(awk -v w="$work/" 'index($5, w) == 1 {print $5}' /proc/self/mountinfo | sort -r)
	rm -rf --one-file-system "$work"
}
trap cleanup EXIT
chmod 755 "$work"
for f in "$pack"/programs.tar.xz "$pack"/runtimes.tar.xz "$pack"/images.tar.xz "$pack-docker"/docker.tar.xz; do
	[ ! -e "$f" ] || "$pack/busybox" xzcat "$f" | "$pack/busybox" tar -x -C "$work"
done
"$work/programs/tools/gpucheck" run --work "$work" "$@"
