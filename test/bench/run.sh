#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# run.sh [flags of test/bench]: the bench from what pack.sh put into build/bench,
# which it calls where that is missing. As root. Without flags: --quick, which
# ends within 6 minutes. With OUT set, the tables go to $OUT/bench.md, the plot to
# $OUT/overhead.svg.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pack=$(cd "$here/../.." && pwd)/build/bench
[ -e "$pack/programs.tar.xz" ] || "$here/pack.sh"
[ $# -gt 0 ] || set -- --quick
work=$(mktemp -d "${TMPDIR:-/tmp}/davit-bench-run.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
for f in "$pack/programs.tar.xz" "$pack/runtimes.tar.xz"; do
	"$pack/busybox" xzcat "$f" | "$pack/busybox" tar -x -C "$work"
done
[ -z "${OUT:-}" ] || set -- --markdown "$OUT/bench.md" --svg "$OUT/overhead.svg" "$@"
"$work/bin/bench" --bin "$work/bin" --runtimes "$work/runtimes" --commit "$(cat "$work/bin/commit")" "$@"
