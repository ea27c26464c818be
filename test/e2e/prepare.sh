#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# prepare.sh ROOTFS PROFILE   the BOX_PREPARE program of tests and demo: puts the
# programs in DAVIT_BIN under all their names into a box, and a configuration
# that reads the simulated host /sim/host.
set -euo pipefail
root=$1
rm -rf --one-file-system "$root/sim" "$root/etc/cdi" "$root/var/run/davit"
install -m 0755 "$DAVIT_BIN/davit" "$DAVIT_BIN/davit-runtime" "$root/usr/bin/"
for n in nvidia-container-runtime nvidia-container-runtime-hook nvidia-container-toolkit nvidia-cdi-hook nvidia-container-cli; do
	ln -sfn davit-runtime "$root/usr/bin/$n"
done
ln -sfn davit "$root/usr/bin/nvidia-ctk"
mkdir -p "$root/sim" "$root/etc/nvidia-container-runtime"
printf 'host-root = "/sim/host"\n' >"$root/etc/nvidia-container-runtime/config.toml"
