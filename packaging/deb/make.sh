#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# make.sh VERSION [ARCH]   makes bin/davit_VERSION_ARCH.deb, the same bytes for
# the same commit, and prints its name. ARCH is a GOARCH name, by default this
# machine's. Run by `make deb`, which gives RUNTIME_NAMES and DAVIT_NAMES: the
# programs' other names.
set -euo pipefail
cd "$(dirname "$0")/../.."
nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
# The toolkit of NVIDIA whose names and options this package answers to.
export PEER=1.20.0

ARCH=${2:-$(go env GOARCH)}
# A package's version starts with a digit; what git describes has dashes.
version=$(printf %s "${1#v}" | tr - .)
case "$version" in
[0-9]*.[0-9]*) VERSION=$version ;;
*) VERSION="0.0~git.$version" ;;
esac
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
: "${RUNTIME_NAMES:?run make deb}" "${DAVIT_NAMES:?run make deb}"
STAGE=$(mktemp -d)
trap 'rm -rf "$STAGE"' EXIT
export ARCH VERSION STAGE SOURCE_DATE_EPOCH
umask 022

bin="$STAGE/usr/bin"
mkdir -p "$bin"
CGO_ENABLED=0 GOOS=linux GOARCH=$ARCH go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o "$bin/" ./cmd/davit ./cmd/davit-runtime
for n in $RUNTIME_NAMES; do ln -s davit-runtime "$bin/$n"; done
for n in $DAVIT_NAMES; do ln -s davit "$bin/$n"; done

doc="$STAGE/usr/share/doc/davit"
mkdir -p "$doc"
{
	printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n'
	printf 'Upstream-Name: davit\n\nFiles: *\nCopyright: 2026 The davit authors\nLicense: Apache-2.0\n\n'
	printf 'License: Apache-2.0\n On Debian systems, the text of the Apache License, version 2.0, is in\n /usr/share/common-licenses/Apache-2.0.\n'
} >"$doc/copyright"
{
	printf 'davit (%s) unstable; urgency=medium\n\n  * See changelog.gz for what changed.\n\n -- The davit authors <davit@localhost>  %s\n' \
		"$VERSION" "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")"
} | gzip -9n >"$doc/changelog.Debian.gz"
gzip -9nc CHANGELOG.md >"$doc/changelog.gz"
man="$STAGE/usr/share/man"
mkdir -p "$man/man1" "$man/man8" "$STAGE/usr/lib/systemd/system" "$STAGE/usr/share/lintian/overrides"
gzip -9nc packaging/man/davit.1 >"$man/man1/davit.1.gz"
gzip -9nc packaging/man/davit-runtime.8 >"$man/man8/davit-runtime.8.gz"
for n in $DAVIT_NAMES; do ln -s davit.1.gz "$man/man1/$n.1.gz"; done
for n in $RUNTIME_NAMES; do ln -s davit-runtime.8.gz "$man/man8/$n.8.gz"; done
install -m 0644 packaging/deb/lintian-overrides "$STAGE/usr/share/lintian/overrides/davit"
install -m 0644 packaging/systemd/*.service "$STAGE/usr/lib/systemd/system/"
find "$STAGE" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

mkdir -p bin
deb="bin/davit_${VERSION}_$ARCH.deb"
GOARCH='' go run "$nfpm" package --config packaging/nfpm.yaml --packager deb --target "$deb" >&2
echo "$deb"
