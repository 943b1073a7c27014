#!/bin/sh
# Unpacks Debian packages, with all they depend on, into a folder. It needs no root and installs nothing.
#
#   unpack.sh TREE SUITE PACKAGE...   packages of a suite of the Debian archive. With `-` as the suite: packages of this
#                                     machine's own release, without what is installed already
#   unpack.sh --archive               prints the Debian archive that apt is set up for
#
# DEBIAN_MIRROR names another archive. A tree that holds what is asked for is left as it is.
set -eu

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The first archive in apt's sources whose address ends in `/debian`: not its security part, not a vendor's.
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
# In a folder of its own, because apt must not touch the machine's state, and may not without root.
apt=$new/apt
rm -rf "$new"
mkdir -p "$apt/lists/partial" "$apt/archives/partial"
new=$(cd "$new" && pwd) apt=$new/apt
set -- -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt" -o Dir::Cache::archives="$apt/archives" \
    -o Acquire::Languages=none -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0
if [ "$suite" != - ]; then
    from=$(archive)
    [ -n "$from" ] || { echo "apt knows no Debian archive; DEBIAN_MIRROR can name one" >&2; exit 1; }
    echo "deb [signed-by=$keyring] $from $suite main" >"$apt/sources.list"
    # Nothing counts as installed: the libraries of another suite do not fit this one's.
    : >"$apt/status"
    set -- "$@" -o Dir::State::status="$apt/status" -o Dir::Etc::sourcelist="$apt/sources.list" \
        -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null
fi

apt-get -q "$@" update
# shellcheck disable=SC2086 # the names are words
apt-get -q -y --no-install-recommends --download-only "$@" install $packages
for deb in "$apt"/archives/*.deb; do
    # None, if all of it is installed already.
    [ -e "$deb" ] || break
    echo "unpacking ${deb##*/}"
    dpkg-deb --extract "$deb" "$new"
done
rm -rf "$apt" "$tree"
echo "$wanted" >"$new/unpacked"
mv "$new" "$tree"
