#!/bin/sh
# Looks at this machine before anything is compiled, installs what is missing, and runs a command.
#
#   prerequisites.sh build|stack|regions|test COMMAND...
#
# As root on Debian or Ubuntu it installs with apt. Packages that work where they are unpacked go into target/ if there is
# no root, and services always do, so that none is started. Whatever it cannot get, it names, with the command that
# installs it. INSTALL=no only names.
#
# To the command it gives ASTERISK_FROM: `path`, `debian` or `docker`. If that is set, only this one is looked for.
set -eu

# `auth_type = digest` and `password_digest` of pjsip.conf came with 22.2.
asterisk_needs=22.2
haproxy_needs=2.6
node_needs=18
python_needs=3.11
rustup="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
# What a first `make test` leaves in target/, roughly.
disk_needs_mb=12000
memory_needs_mb=2000

root=$(cd "$(dirname "$0")/../.." && pwd)
level=$1
shift
tools=$root/target/tools
unpacked=$tools/packages
# Debian has daemons where users without root do not look.
PATH=$unpacked/programs:$PATH:/usr/sbin
export PATH

has() { command -v "$1" >/dev/null 2>&1; }

# at_least WANTED HAVE: compares version numbers.
at_least() { [ -n "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# lack "PACKAGES" "HOW ELSE" WHAT: notes what is missing, which packages bring it, and what does where there is no apt.
lack() {
    missing="$missing
  - $3"
    if [ -z "$1" ] || ! has apt-get || ! has dpkg-deb; then
        beyond_apt="$beyond_apt
  $2"
        return
    fi
    for package in $1; do
        case $package in
        haproxy | fail2ban) to_unpack="$to_unpack $package" ;;
        chromium | chromium-driver | procps)
            if [ -z "$sudo" ]; then to_install="$to_install $package"; else to_unpack="$to_unpack $package"; fi ;;
        *) to_install="$to_install $package" ;;
        esac
    done
}

look() {
    missing='' to_install='' to_unpack='' beyond_apt='' toolchain='' node=''
    links || lack "gcc libc6-dev" "xcode-select --install, or your distribution's gcc" "a C compiler that links (cc)"
    has strip || lack binutils "your distribution's binutils" "strip"
    rust
    [ "$level" = build ] && return
    if ! python3 -c "import sys, venv, ensurepip; sys.exit(sys.version_info < (${python_needs%.*}, ${python_needs#*.}))" 2>/dev/null; then
        found=$(python3 --version 2>/dev/null || true)
        lack "python3 python3-venv" "brew install python" \
            "Python $python_needs or later with venv${found:+ (python3 is $found, or lacks venv)}"
    elif ! running; then
        ports
    fi
    has ps || lack procps "your distribution's procps" "ps"
    found=$(haproxy -v 2>/dev/null | sed -n 's/^HA-*Proxy version \([0-9.]*\).*/\1/p') || true
    at_least $haproxy_needs "$found" ||
        lack haproxy "brew install haproxy" "haproxy $haproxy_needs or later${found:+ (haproxy is $found)}"
    choose_asterisk
    [ "$level" = test ] || return 0
    browser
    has fail2ban-regex || lack fail2ban "pip install fail2ban" "fail2ban-regex"
    # The venv is last: a machine's own Node is as good.
    PATH=${PATH%:"$tools/node/bin"}:$tools/node/bin
    found=$(node --version 2>/dev/null | sed 's/^v//') || true
    if ! at_least $node_needs "$found" || ! has npm; then
        node=needed
        missing="$missing
  - Node $node_needs or later with npm${found:+ (node is $found)}: from PyPI, into target/tools/node"
    fi
}

links() { echo 'int main(void) { return 0; }' | cc -x c -o /dev/null - 2>/dev/null; }

# rustup fetches the toolchain that rust-toolchain.toml names; another cargo must be new enough.
rust() {
    channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$root/rust-toolchain.toml")
    oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    if ! has cargo; then
        lack "" "$rustup" "Rust (cargo is not on the PATH)"
        return
    fi
    version=$(cd "$root" && RUSTUP_AUTO_INSTALL=0 cargo --version 2>/dev/null | sed 's/^cargo \([0-9.]*\).*/\1/') || true
    if [ -z "$version" ] && has rustup; then
        toolchain=$channel
        missing="$missing
  - Rust $channel, through rustup"
    elif ! at_least "$oldest" "$version"; then
        lack "" "$rustup" "Rust $oldest or later (cargo is ${version:-broken})"
    elif [ "$level" = test ] && ! (cd "$root" && cargo fmt --version && cargo clippy --version) >/dev/null 2>&1; then
        lack "" "rustup component add rustfmt clippy" "rustfmt and clippy"
    fi
}

# Whether a stack of this checkout runs, or one was killed and left something: the stack itself deals with both.
running() {
    for file in "$root"/target/local/*.pid; do
        [ -f "$file" ] && kill -0 "$(head -n 1 "$file")" 2>/dev/null && return
    done
    return 1
}

# The ports of local/src/settings.rs. Linux answers on all of 127.0.0.0/8; macOS only on 127.0.0.1 until told otherwise.
ports() {
    taken=$(python3 - "$level" <<'END'
import socket, sys
tcp = [5050, 5051, 5052, 5053, 4566, 5060, 5061, 5070, 5071, 8087, 8088, 8089, 8090, 8443, 8444]
if sys.argv[1] != "stack":
    tcp += [5150, 5151, 4666]
def free(kind, port, address="127.0.0.1"):
    with socket.socket(socket.AF_INET, kind) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
        try:
            one.bind((address, port))
            if kind == socket.SOCK_STREAM:
                one.listen(1)
        except OSError:
            return False
    return True
taken = [f"{port}/tcp" for port in tcp if not free(socket.SOCK_STREAM, port)]
taken += [f"{port}/udp" for port in (5060, 5070) if not free(socket.SOCK_DGRAM, port)]
print(", ".join(taken))
for trunk in "127.0.0.2", "127.0.0.3":
    if not free(socket.SOCK_DGRAM, 0, trunk):
        print(trunk)
END
    )
    for address in $(echo "$taken" | tail -n +2); do
        lack "" "sudo ifconfig lo0 alias $address" "the address $address, for a simulated trunk"
    done
    taken=$(echo "$taken" | head -n 1)
    [ -z "$taken" ] || lack "" "ss -lntup    (who has them)" "these ports, which another program uses: $taken"
}

# Chooses one of the ways; `refused` says why the ones before it were not taken.
choose_asterisk() {
    refused=''
    for way in ${ASTERISK_CHOSEN:-path debian docker}; do
        why=''
        case $way in
        path) asterisk_on_path ;;
        debian) asterisk_from_debian ;;
        docker)
            has docker || why="docker is not on the PATH"
            [ -n "$why" ] || docker info >/dev/null 2>&1 || why="\`docker info\` fails: the Docker engine does not run" ;;
        *) why="ASTERISK_FROM can be path, debian or docker" ;;
        esac
        if [ -z "$why" ]; then
            ASTERISK_FROM=$way
            return
        fi
        refused="$refused
      $way: $why"
    done
    lack "" "install one of them, or start Docker" "Asterisk $asterisk_needs or later, by one of these ways:$refused"
}

asterisk_on_path() {
    program=$(command -v asterisk) || { why="asterisk is not on the PATH"; return; }
    version=$("$program" -V 2>/dev/null | sed -n 's/^Asterisk [a-z/]*\([0-9.]*\).*/\1/p') || true
    if ! at_least $asterisk_needs "$version"; then
        why="$program is ${version:-not able to tell its version}, older than $asterisk_needs"
        return
    fi
    prefix=$(dirname "$(dirname "$program")")
    for modules in "$prefix"/lib/asterisk/modules "$prefix"/lib64/asterisk/modules "$prefix"/lib/*/asterisk/modules; do
        [ -d "$modules" ] && break
    done
    # shellcheck disable=SC2013 # the names are words
    for module in $(sed -n 's/^require = //p' "$root/asterisk/modules.conf"); do
        [ -f "$modules/$module" ] || { why="$program $version lacks $module"; return; }
    done
}

asterisk_from_debian() {
    if ! has apt-get || ! has dpkg-deb; then
        why="this is no Debian"
    elif [ -z "$("$root/local/tools/unpack.sh" --archive)" ]; then
        why="apt knows no Debian archive; DEBIAN_MIRROR can name one"
    elif [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
        lack debian-archive-keyring "" "the keys of the Debian archive"
    fi
}

# The console's tests drive a real Chromium, whose driver must be of the same version.
browser() {
    driver=$(chromedriver --version 2>/dev/null | sed -n 's/^ChromeDriver \([0-9]*\).*/\1/p') || true
    chromium=''
    for program in chromium google-chrome; do
        has $program || continue
        chromium=$($program --version 2>/dev/null | sed -n 's/^[A-Za-z ]* \([0-9]*\)\..*/\1/p') || true
        break
    done
    [ -n "$driver" ] && [ "$driver" = "$chromium" ] && return
    what="Chromium and its chromedriver, of one version (chromium: ${chromium:-none}, chromedriver: ${driver:-none})"
    if [ "$distribution" = ubuntu ]; then
        # Its packages are stubs for snaps.
        lack "" "google-chrome, and the chromedriver of its version, on the PATH: Ubuntu packages neither" "$what"
    else
        lack "chromium chromium-driver" "brew install --cask chromium chromedriver" "$what"
    fi
}

# Only a warning: it may be enough.
space() {
    [ -d "$root/target/debug" ] && return
    free=$(df -Pk "$root" | awk 'NR == 2 { print int($4 / 1024) }')
    [ "$free" -ge $disk_needs_mb ] || echo "note: $free MB are free on the disk; a full target/ takes about $disk_needs_mb MB"
    [ -r /proc/meminfo ] || return 0
    free=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
    [ "$free" -ge $memory_needs_mb ] || echo "note: $free MB of memory are free; compiling takes up to $memory_needs_mb MB"
}

# logged LOG COMMAND...: runs a command with its output in a file, and says every few seconds how far it is.
logged() {
    log=$1
    shift
    "$@" >"$log" 2>&1 </dev/null &
    job=$!
    trap 'kill $job 2>/dev/null; exit 130' INT TERM
    seconds=0
    while kill -0 $job 2>/dev/null; do
        sleep 1
        seconds=$((seconds + 1))
        [ $((seconds % 5)) != 0 ] || echo "  $seconds s: $(tail -n 1 "$log" | cut -c 1-100)"
    done
    trap - INT TERM
    wait $job && return
    echo "it failed; the end of $log:"
    tail -n 15 "$log"
    return 1
}

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    # A machine may have no lists yet, or old ones, and another apt may hold them for a while. Without a connection those
    # that are there may do.
    for pause in 5 10 20 30 0; do
        apt-get -q update && break
        sleep $pause
    done
    # shellcheck disable=SC2086 # the names are words
    apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install $to_install
}

# Unpacks packages, and puts programs beside each other that find what was unpacked with them.
apt_unpack() {
    # With what an earlier run unpacked, because the tree is made anew.
    before=$(sed -n 's/^- //p' "$unpacked/unpacked" 2>/dev/null) || true
    # shellcheck disable=SC2046,SC2086 # the names are words
    "$root/local/tools/unpack.sh" "$unpacked" - $(printf '%s\n' $before $to_unpack | sort -u)
    mkdir -p "$unpacked/programs"
    libraries=$(find "$unpacked" -name '*.so*' -exec dirname {} + | sort -u | paste -s -d : -)
    echo "<fontconfig><dir>/usr/share/fonts</dir><dir>$unpacked/usr/share/fonts</dir></fontconfig>" >"$unpacked/fonts.conf"
    for program in usr/lib/chromium/chromium usr/bin/chromedriver usr/sbin/haproxy usr/bin/ps bin/ps usr/bin/fail2ban-regex; do
        [ -x "$unpacked/$program" ] || continue
        started=$unpacked/$program
        # With the python3 on the PATH.
        case $program in *fail2ban-regex) started="python3 $started" ;; esac
        cat >"$unpacked/programs/${program##*/}" <<END
#!/bin/sh
export LD_LIBRARY_PATH="$libraries" FONTCONFIG_FILE="$unpacked/fonts.conf" PYTHONPATH="$unpacked/usr/lib/python3/dist-packages"
exec $started "\$@"
END
        chmod +x "$unpacked/programs/${program##*/}"
    done
}

node_install() {
    python3 -m venv --clear "$tools/node"
    "$tools/node/bin/python" -m pip install --no-input --no-deps --disable-pip-version-check \
        -r "$root/local/tools/requirements-node.txt"
}

stop() {
    packages="$to_install$to_unpack"
    [ -z "$packages" ] || echo "  ${sudo}apt-get update && ${sudo}apt-get install --no-install-recommends$packages"
    [ -z "$toolchain" ] || echo "  rustup toolchain install $toolchain --profile minimal --component rustfmt,clippy"
    [ -z "$beyond_apt" ] || echo "${beyond_apt#?}"
    exit 1
}

get() {
    mkdir -p "$tools"
    if [ -n "$toolchain" ]; then
        rustup toolchain install "$toolchain" --profile minimal --component rustfmt,clippy
    fi
    if [ -n "$to_install" ]; then
        echo "apt installs:$to_install"
        logged "$tools/apt.log" apt_install
    fi
    if [ -n "$to_unpack" ]; then
        echo "unpacked into target/tools/packages:$to_unpack"
        logged "$tools/unpack.log" apt_unpack
    fi
    if [ -n "$node" ]; then
        echo "installed into target/tools/node: Node"
        logged "$tools/node.log" node_install
    fi
}

sudo=''
[ "$(id -u)" = 0 ] || sudo='sudo '
distribution=$(sed -n 's/^ID=//p' /etc/os-release 2>/dev/null) || true
ASTERISK_CHOSEN=${ASTERISK_FROM:-}

look
if [ -n "$missing" ]; then
    echo "This machine lacks:$missing"
    [ "${INSTALL:-yes}" != no ] || stop
    # Install nothing if something else is missing that cannot be installed.
    [ -z "$beyond_apt" ] || stop
    [ -z "$sudo" ] || [ -z "$to_install" ] || stop
    get
    look
    if [ -n "$missing" ]; then
        echo "This machine still lacks:$missing"
        stop
    fi
fi
if [ "$level" != build ]; then
    space
    # An Asterisk that is there and not used makes people wonder.
    ! has asterisk || [ "$ASTERISK_FROM" = path ] || echo "note: Asterisk from another source ($ASTERISK_FROM) is used:$refused"
    export ASTERISK_FROM
fi
exec "$@"
