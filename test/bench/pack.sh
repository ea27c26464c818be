#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# pack.sh: puts into build/bench all that run.sh needs on a machine without Go,
# without packages and without network: davit, the bench, and runc and crun with
# their libraries (which test/gpu/pack.sh packs, if it has not yet). Below 25 MiB.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
out=$top/build/bench
cd "$top"
mkdir -p "$out/bin"
version=$(git describe --tags --always --dirty 2>/dev/null || echo dev)
export CGO_ENABLED=0
go build -trimpath -ldflags "-s -w -X main.version=$version" -o "$out/bin/" ./cmd/davit ./cmd/davit-runtime ./test/gpu/floor ./test/bench
printf '%s\n' "$version" >"$out/bin/commit"
for f in runtimes.tar.xz busybox; do
	[ -e "build/gpu/$f" ] || test/gpu/pack.sh images runtimes
	cp "build/gpu/$f" "$out/"
done
tar -C "$out" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - bin | xz -T1 -"${PACK_PRESET:-9e}" >"$out/programs.tar.xz.part"
mv "$out/programs.tar.xz.part" "$out/programs.tar.xz"
size=$(du -skc "$out/programs.tar.xz" "$out/runtimes.tar.xz" "$out/busybox" | tail -1 | cut -f1)
echo "$out: $size KiB to be carried: programs.tar.xz, runtimes.tar.xz, busybox" >&2
rm -rf "${out:?}/bin"
[ "$size" -lt $((25 * 1024)) ] || { echo "more than 25 MiB" >&2; exit 1; }
