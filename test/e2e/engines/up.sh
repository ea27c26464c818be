#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# up.sh PROFILE...     make the root if it is not there, and start; up.sh --list
#   docker20      dockerd 20.10 + containerd 1.6 + runc 1.1   (Debian 12)
#   docker26      dockerd 26.1  + containerd 1.7 + runc 1.1   (Debian 13)
#   docker26deb   the same with dpkg, for packages to be installed in it
#   docker28      dockerd 28.5  + containerd 2.1 + runc 1.3   (Debian sid, which moves)
#   containerd16 / containerd17 / containerd21   containerd 1.6, 1.7, 2.1 with its CRI
#                 plugin, and ctr                             (Debian 12, 13, sid)
#   podman43 / podman54 / podman58   podman 4.3, 5.4, 5.8 + buildah + crun + runc
#                                                             (Debian 12, 13, sid)
# BOX_PREPARE: a program run as `PROGRAM ROOTFS PROFILE` before the engine
#   starts, to put the programs under test into the root (dockerd looks for its
#   GPU hook only when it starts). See box.sh and engine.sh for more settings.
. "$(dirname "$0")/lib.sh"
[ "${1:-}" != --list ] || {
	printf '%s\n' docker20 docker26 docker26deb docker28 containerd16 containerd17 containerd21 podman43 podman54 podman58
	exit 0
}
[ $# -gt 0 ] || die "usage: $0 PROFILE... | --list"
for p in "$@"; do
	t0=$(now)
	case $p in
	docker20) "$HERE/suite-root.sh" "$p" bookworm docker.io containerd runc busybox-static ;;
	docker26) "$HERE/suite-root.sh" "$p" trixie docker.io docker-cli containerd runc busybox-static ;;
	docker26deb) "$HERE/suite-root.sh" "$p" trixie docker.io docker-cli containerd runc busybox-static dpkg dash coreutils tar libc-bin ;;
	docker28) "$HERE/suite-root.sh" "$p" sid docker.io docker-cli containerd runc busybox-static ;;
	containerd16) "$HERE/suite-root.sh" "$p" bookworm containerd runc crun busybox-static tini ;;
	containerd17) "$HERE/suite-root.sh" "$p" trixie containerd runc crun busybox-static tini ;;
	containerd21) "$HERE/suite-root.sh" "$p" sid containerd runc crun busybox-static tini-static ;;
	podman43) "$HERE/suite-root.sh" "$p" bookworm podman buildah crun runc busybox-static tini ;;
	podman58) "$HERE/suite-root.sh" "$p" sid podman buildah crun runc busybox-static tini-static ;;
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
	containerd*) CONTAINERD_CRI=1 "$HERE/engine.sh" start "$p" containerd ;;
	podman*) "$HERE/engine.sh" start "$p" podman ;;
	esac
	log "$p ready after $(since "$t0") s"
done
