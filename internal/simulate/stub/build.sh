#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Rebuilds the simulated driver's libraries and programs, which lie here built
# so that nobody needs a C compiler to use them.
#
#	build.sh [-o FOLDER] [amd64] [arm64]
#
# needs gcc (CC_amd64) and gcc-aarch64-linux-gnu (CC_arm64).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$here
if [ "${1-}" = -o ]; then
	out=$2
	shift 2
fi
[ $# -gt 0 ] || set -- amd64 arm64

flags="-std=gnu11 -O2 -Wall -Wextra -Werror -Wno-cast-function-type -ffreestanding -nostdlib
	-fvisibility=hidden -fno-stack-protector -fno-asynchronous-unwind-tables -fno-ident
	-fno-omit-frame-pointer -Wl,-z,noexecstack,-z,relro,--build-id=none,--hash-style=both,--no-undefined -s"

for arch; do
	case $arch in
	amd64)
		cc=${CC_amd64:-gcc}
		loader=/lib64/ld-linux-x86-64.so.2
		more=-fcf-protection=none
		;;
	arm64)
		cc=${CC_arm64:-aarch64-linux-gnu-gcc}
		loader=/lib/ld-linux-aarch64.so.1
		more=-mno-outline-atomics
		;;
	*)
		echo "build.sh: $arch: amd64 or arm64" >&2
		exit 64
		;;
	esac
	mkdir -p "$out/$arch"
	for lib in libcuda libnvidia-ml; do
		# shellcheck disable=SC2086
		$cc $flags $more -fPIC -shared -Wl,-soname,$lib.so.1 -o "$out/$arch/$lib.so" "$here/$lib.c"
	done
	# shellcheck disable=SC2086
	$cc $flags $more -fPIE -pie -Wl,--dynamic-linker,$loader -o "$out/$arch/nvidia-smi" \
		"$here/nvidia-smi.c" "$out/$arch/libnvidia-ml.so"
	# shellcheck disable=SC2086
	$cc $flags $more -fno-pie -static -no-pie -o "$out/$arch/program" "$here/program.c"
done
