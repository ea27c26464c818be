#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# up.sh PROFILE...     make the root if it is not there, and start; up.sh --list
#   docker20      dockerd 20.10 + containerd 1.6 + runc 1.1   (Debian 12)
#   docker26      dockerd 26.1  + containerd 1.7 + runc 1.1   (Debian 13)
#   docker28      dockerd 28.5  + containerd 2.1 + runc 1.3   (Debian sid, which moves)
#   containerd17  containerd 1.7 with its CRI plugin, and ctr (Debian 13)
#   podman54      podman 5.4 + buildah + crun + runc          (Debian 13)
# BOX_PREPARE: a program run as `PROGRAM ROOTFS PROFILE` before the engine
#   starts, to put the programs under test into the root (dockerd looks for its
#   GPU hook only when it starts). See box.sh and engine.sh for more settings.
. "$(dirname "$0")/lib.sh"
[ "${1:-}" != --list ] || {
	printf '%s\n' docker20 docker26 docker28 containerd17 podman54
	exit 0
}
[ $# -gt 0 ] || die "usage: $0 PROFILE... | --list"
for p in "$@"; do
	t0=$(now)
	case $p in
	docker20) "$HERE/suite-root.sh" "$p" bookworm docker.io containerd runc busybox-static ;;
	docker26) "$HERE/suite-root.sh" "$p" trixie docker.io docker-cli containerd runc busybox-static ;;
	docker28) "$HERE/suite-root.sh" "$p" sid docker.io docker-cli containerd runc busybox-static ;;
	containerd17) "$HERE/suite-root.sh" "$p" trixie containerd runc crun busybox-static tini ;;
	podman54) "$HERE/suite-root.sh" "$p" trixie podman buildah crun runc busybox-static tini ;;
	*) die "no profile $p" ;;
	esac
	[ -z "${BOX_PREPARE:-}" ] || "$BOX_PREPARE" "$DAVIT_CACHE/$p/rootfs" "$p"
	"$HERE/box.sh" up "$p"
	case $p in
	docker*)
		"$HERE/engine.sh" start "$p" containerd
		"$HERE/engine.sh" start "$p" docker
		;;
	containerd*) CONTAINERD_CRI=1 CONTAINERD_CRI_EXTRA="enable_cdi = true" "$HERE/engine.sh" start "$p" containerd ;;
	podman*) "$HERE/engine.sh" start "$p" podman ;;
	esac
	log "$p ready after $(since "$t0") s"
done
