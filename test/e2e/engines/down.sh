#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# down.sh [--remove] PROFILE... | --all   stop; --remove deletes the boxes' files too
. "$(dirname "$0")/lib.sh"
rm=
[ "${1:-}" != --remove ] || {
	rm=1
	shift
}
# shellcheck disable=SC2046 # a list of plain words
[ "${1:-}" != --all ] || set -- $("$HERE/up.sh" --list)
for p in "$@"; do
	[ -d "$DAVIT_CACHE/$p" ] || continue
	# In this order, so that what the engine keeps on disk is whole at the next start.
	for e in docker containerd; do "$HERE/engine.sh" stop "$p" "$e"; done
	"$HERE/box.sh" down "$p"
	[ -z "$rm" ] || rm -rf --one-file-system "${DAVIT_CACHE:?}/$p"
done
