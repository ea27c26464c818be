#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A GPU in containers, shown with real commands and their real output. Uses this
# machine's docker and GPU if both are there and docker knows davit; otherwise
# an engine unpacked into a private box, with a simulated host of two GPUs.
# Everything it makes is removed at the end.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || {
	echo "make demo starts a container engine and needs root" >&2
	exit 1
}
started=$SECONDS
here=$PWD/test/e2e images=(cuda-base debian fedora oldglibc distroless busybox)
make -s build
mkdir -p build
DAVIT_CACHE=$(mktemp -d "$PWD/build/demo.XXXXXX")
export DAVIT_CACHE DAVIT="$PWD/bin/davit" DAVIT_BIN="$PWD/bin"
finish() {
	[ -z "${own:-}" ] || docker image rm -f gpu-test "${images[@]/#/localhost/}" >/dev/null 2>&1 || true
	"$here/engines/down.sh" --all || true
	rm -rf --one-file-system "$DAVIT_CACHE"
	rmdir build 2>/dev/null || true
}
trap finish EXIT

bold() { printf '\n\033[1m%s\033[0m\n' "$*"; }
own='' engine=docker
if [ -e /proc/driver/nvidia/version ] && docker info >/dev/null 2>&1; then
	if [ "$(basename "$(readlink -f "$(command -v nvidia-container-runtime-hook)")")" = davit-runtime ]; then
		own=yes
	else
		echo "This machine has docker and a GPU, but docker does not know davit: 'make install', then 'davit setup docker'."
	fi
fi
if [ -n "$own" ]; then
	bold "This machine's docker and GPU"
	in_engine() { "$@"; }
else
	bold "No docker with davit and a GPU here: docker in a private box, two simulated GPUs"
	in_engine() { "$here/engines/box.sh" exec docker26 "$@"; }
	"$here/images.sh" "${images[@]}" 2>&1 | sed 's/^/  /' &
	making=$!
	BOX_PREPARE="$here/prepare.sh" "$here/engines/up.sh" docker26 2>&1 | sed 's/^/  /'
	wait "$making"
	in_engine davit simulate up /sim/host --gpus 2 --layout debian --driver 550.120 | sed 's/^/  /'
	engine="$here/engines/box.sh exec docker26 docker"
fi
[ -z "$own" ] || "$here/images.sh" "${images[@]}"
for i in "${images[@]}"; do in_engine docker load -q -i "$DAVIT_CACHE/share/images/$i.tar" >/dev/null; done

show() { # show COMMAND...: the command as a person types it, then what it prints
	printf '\n\033[1m$ %s\033[0m\n' "$*"
}
terminal() { # terminal COMMAND: on a pseudo-terminal, less the echo of its end of input
	script -qec "$1" /dev/null </dev/null | sed -u -e 's/^\^@//' -e 's/\x00//g' -e 's/\^D\x08\x08//'
}
works() { # works 'ARGUMENTS OF docker'
	show "docker $1"
	terminal "$engine $1" || {
		echo "demo: that should have worked" >&2
		exit 1
	}
}
refused() {
	show "docker $1"
	! terminal "$engine $1" || {
		echo "demo: that should have failed" >&2
		exit 1
	}
}

bold "1. Build an image, run it with the GPUs"
context=$DAVIT_CACHE/share/gpu-test
mkdir "$context"
printf 'FROM localhost/cuda-base\nCMD nvidia-smi\n' >"$context/Dockerfile"
show cat Dockerfile
cat "$context/Dockerfile"
show docker build . -t gpu-test
in_engine env DOCKER_BUILDKIT=0 docker build "$context" -t gpu-test 2>&1 | grep -v -e DEPRECATED -e 'BuildKit is currently disabled' -e environment-variable -e 'Install the buildx' -e 'https://docs.docker.com' -e '^ *$'
works 'run --rm --gpus all gpu-test'

bold "   The same without asking for a GPU"
refused 'run --rm gpu-test'

bold "2. Images that have nothing of NVIDIA in them"
works 'run -it --rm --gpus all localhost/debian nvidia-smi -L'
works 'run -it --rm --gpus all localhost/fedora nvidia-smi -L'
works 'run -it --rm --gpus all localhost/oldglibc nvidia-smi -L'
works 'run -it --rm --gpus all --entrypoint nvidia-smi localhost/distroless -L'
works 'run -it --rm --gpus all --read-only localhost/debian nvidia-smi -L'
bold "   One of the GPUs; and one that is not there"
works 'run -it --rm --gpus device=1 localhost/debian nvidia-smi -L'
refused 'run -it --rm --gpus device=7 localhost/debian nvidia-smi -L'
bold "   An image that cannot run the driver's programs"
refused 'run -it --rm --gpus all localhost/busybox nvidia-smi'
bold "Done after $((SECONDS - started)) s; removing all of it"
