#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# engine.sh start BOX containerd|docker|podman   (docker needs containerd first)
# engine.sh stop  BOX containerd|docker|podman
# Settings: DAEMON_JSON (text of dockerd's file), DOCKERD_ARGS,
# CONTAINERD_CRI=1 keeps containerd's CRI plugin, CONTAINERD_KEEP=1 its whole
# file as it is, PODMAN_RUNTIME.
# Sockets are where they always are, below the box's /run.
. "$(dirname "$0")/lib.sh"
[ $# -eq 3 ] || die "usage: $0 start|stop BOX containerd|docker|podman"
verb=$1 box=$2 eng=$3
B="$DAVIT_CACHE/$box"
R="$B/rootfs"
in_box() { "$HERE/box.sh" exec "$box" "$@"; }
not_started() {
	tail -20 "$B/log/$eng.log" >&2
	die "$box: $eng did not start"
}

containerd_config() {
	local off='"io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"'
	[ -n "${CONTAINERD_CRI:-}" ] || off="$off, \"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\""
	cat <<-E
		version = 2
		root = "/var/lib/containerd"
		state = "/run/containerd"
		disabled_plugins = [$off]
		[grpc]
		  address = "/run/containerd/containerd.sock"
	E
	# Without CAP_SYS_RESOURCE a pod's oom score cannot be lowered: restrict_oom_score_adj.
	[ -z "${CONTAINERD_CRI:-}" ] || cat <<-E
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "localhost/pause:latest"
		  restrict_oom_score_adj = true
		  disable_tcp_service = true
	E
}

podman_config() {
	local pids
	# A cgroup2 view without the pids controller cannot limit processes.
	pids=$(in_box sh -c '[ ! -e /sys/fs/cgroup/cgroup.controllers ] || grep -qw pids /sys/fs/cgroup/cgroup.controllers || echo "pids_limit = 0"')
	# Without CAP_SYS_RESOURCE, limits above the hard ones fail ("setrlimit: Operation not permitted").
	cat <<-E
		[containers]
		netns = "none"
		log_driver = "k8s-file"
		default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=$(ulimit -Hu | sed s/unlimited/1048576/):$(ulimit -Hu | sed s/unlimited/1048576/)"]
		$pids
		[engine]
		cgroup_manager = "cgroupfs"
		events_logger = "file"
		runtime = "${PODMAN_RUNTIME:-crun}"
	E
}

case "$verb-$eng" in
start-containerd)
	mkdir -p "$R/etc/containerd"
	[ -n "${CONTAINERD_KEEP:-}" ] || containerd_config >"$R/etc/containerd/config.toml"
	"$HERE/box.sh" spawn "$box" containerd containerd --config /etc/containerd/config.toml
	wait_for 60 "$HERE/box.sh" exec "$box" ctr version || not_started
	;;
start-docker)
	mkdir -p "$R/etc/docker"
	printf '%s\n' "${DAEMON_JSON:-{\}}" >"$R/etc/docker/daemon.json"
	# shellcheck disable=SC2086 # DOCKERD_ARGS is a list of words
	"$HERE/box.sh" spawn "$box" docker dockerd -H unix:///run/docker.sock \
		--containerd /run/containerd/containerd.sock --data-root /var/lib/docker --exec-root /run/docker \
		--pidfile /run/docker.pid --iptables=false --ip6tables=false ${DOCKERD_ARGS:-}
	wait_for 60 "$HERE/box.sh" exec "$box" docker version || not_started
	;;
start-podman) # there is no daemon: this writes the settings
	mkdir -p "$R/etc/containers"
	podman_config >"$R/etc/containers/containers.conf"
	printf '[storage]\ndriver = "overlay"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n' >"$R/etc/containers/storage.conf"
	in_box podman info >/dev/null
	;;
stop-*) "$HERE/box.sh" kill "$box" "$eng" ;;
*) die "unknown $verb $eng" ;;
esac
