#!/bin/sh
# Unpacks Debian packages and their dependencies into a folder. It needs no root and installs nothing.
#
#   unpack.sh TREE SUITE PACKAGE...   packages of a suite of the Debian archive. With `-` as the suite: packages of this
#                                     machine's release that are not installed
#   unpack.sh --archive               prints the Debian archive of apt's configuration
#
# DEBIAN_MIRROR sets another archive. A tree that already contains the packages is not changed.
set -eu

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The first archive in apt's sources whose URL ends in `/debian`, which excludes security updates and vendors.
archive() {
    if [ -n "${DEBIAN_MIRROR:-}" ]; then
        echo "$DEBIAN_MIRROR"
        return
    fi
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
        grep -v '^ *#' | tr -s '[:blank:]' '[\n*]' |
        grep -E '^[a-z+]+:[^ ]*/debian(\.list)?/?$' | grep -v '/linux/debian' | head -n 1
}

if [ "$1" = --archive ]; then
    archive
    exit
fi

tree=$1 suite=$2
shift 2
packages=$*
wanted="$suite $packages"
if [ "$(cat "$tree/unpacked" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

new=$tree.new
# A separate folder, because apt must not change the machine's state, and cannot without root.
apt=$new/apt
rm -rf "$new"
mkdir -p "$apt/lists/partial" "$apt/archives/partial"
new=$(cd "$new" && pwd) apt=$new/apt
set -- -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt" -o Dir::Cache::archives="$apt/archives" \
    -o Acquire::Languages=none -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0
if [ "$suite" != - ]; then
    from=$(archive)
    [ -n "$from" ] || { echo "apt has no Debian archive; set DEBIAN_MIRROR" >&2; exit 1; }
    echo "deb [signed-by=$keyring] $from $suite main" >"$apt/sources.list"
    # No package counts as installed, because the libraries of another suite are incompatible.
    : >"$apt/status"
    set -- "$@" -o Dir::State::status="$apt/status" -o Dir::Etc::sourcelist="$apt/sources.list" \
        -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null
fi

apt-get -q "$@" update
# shellcheck disable=SC2086 # the names are words
apt-get -q -y --no-install-recommends --download-only "$@" install $packages
for deb in "$apt"/archives/*.deb; do
    # There are no files if all packages are installed.
    [ -e "$deb" ] || break
    echo "unpacking ${deb##*/}"
    dpkg-deb --extract "$deb" "$new"
done
rm -rf "$apt" "$tree"
echo "$wanted" >"$new/unpacked"
mv "$new" "$tree"
