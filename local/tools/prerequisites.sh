#!/bin/sh
# Checks the prerequisites on this machine before anything is compiled, installs missing ones, and runs a command.
#
#   prerequisites.sh build|stack|regions|test COMMAND...
#   prerequisites.sh release COMMAND...      the stack of an unpacked release, which compiles nothing
#
# As root on Debian or Ubuntu it installs with apt. Without root, it unpacks relocatable packages into target/. It always
# unpacks services, so that none is started. For anything else, it prints the command that installs it. With INSTALL=no it
# only prints.
#
# It sets ASTERISK_FROM for the command: `path`, `debian` or `docker`. If ASTERISK_FROM is set already, it checks only that.
set -eu

# pjsip.conf needs `auth_type = digest` and `password_digest`, which 22.2 introduced.
asterisk_needs=22.2
haproxy_needs=2.6
node_needs=18
python_needs=3.11
rustup="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
# Approximate size of target/ after the first `make test`.
disk_needs_mb=12000
memory_needs_mb=2000

root=$(cd "$(dirname "$0")/../.." && pwd)
level=$1
shift
tools=$root/target/tools
unpacked=$tools/packages
# Debian installs daemons into folders that are not on the PATH of normal users.
PATH=$unpacked/programs:$PATH:/usr/sbin
export PATH

has() { command -v "$1" >/dev/null 2>&1; }

# at_least MINIMUM VERSION: compares version numbers.
at_least() { [ -n "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# lack "PACKAGES" "ALTERNATIVE" WHAT: records a missing prerequisite, its packages, and the command for machines without apt.
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
        chromium | chromium-driver | procps | baresip-core)
            if [ -z "$sudo" ]; then to_install="$to_install $package"; else to_unpack="$to_unpack $package"; fi ;;
        *) to_install="$to_install $package" ;;
        esac
    done
}

look() {
    missing='' to_install='' to_unpack='' beyond_apt='' toolchain='' node=''
    [ "$level" = release ] || compiler
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
    { has valgrind && has vgdb; } || lack valgrind "your distribution's valgrind" "valgrind"
    has baresip || lack baresip-core "brew install baresip" "baresip"
    # The venv comes last, so that the Node of the machine takes precedence.
    PATH=${PATH%:"$tools/node/bin"}:$tools/node/bin
    found=$(node --version 2>/dev/null | sed 's/^v//') || true
    if ! at_least $node_needs "$found" || ! has npm; then
        node=needed
        missing="$missing
  - Node $node_needs or later with npm${found:+ (node is $found)}: from PyPI, into target/tools/node"
    fi
}

compiler() {
    links || lack "gcc libc6-dev" "xcode-select --install, or your distribution's gcc" "a C compiler that links (cc)"
    has strip || lack binutils "your distribution's binutils" "strip"
    rust
}

links() { echo 'int main(void) { return 0; }' | cc -x c -o /dev/null - 2>/dev/null; }

# rustup installs the toolchain of rust-toolchain.toml. Another cargo must be recent enough.
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

# Whether a stack of this checkout runs. Its processes use the ports, and a new stack handles that.
running() {
    for file in "$root"/target/local/*.pid; do
        [ -f "$file" ] && kill -0 "$(head -n 1 "$file")" 2>/dev/null && return
    done
    return 1
}

# The ports of local/src/settings.rs. Linux has all of 127.0.0.0/8 on loopback, macOS only 127.0.0.1 by default.
ports() {
    taken=$(python3 - "$level" <<'END'
import socket, sys
tcp = [5050, 5051, 5052, 5053, 4566, 5060, 5061, 5070, 5071, 8087, 8088, 8089, 8090, 8443, 8444]
if sys.argv[1] not in ("stack", "release"):
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
own = "127.0.0.9"
taken += [f"{own}:{port}/udp" for port in (5069, 5079) if free(socket.SOCK_DGRAM, 0, own) and not free(socket.SOCK_DGRAM, port, own)]
print(", ".join(taken))
for address in "127.0.0.2", "127.0.0.3", own:
    if not free(socket.SOCK_DGRAM, 0, address):
        print(address)
END
    )
    for address in $(echo "$taken" | tail -n +2); do
        lack "" "sudo ifconfig lo0 alias $address" "the address $address, from which the simulated trunk or the PBX itself calls"
    done
    taken=$(echo "$taken" | head -n 1)
    [ -z "$taken" ] || lack "" "ss -lntup    (shows the programs)" "free ports: other programs use $taken"
}

# Chooses a source of Asterisk. `refused` contains the reasons against the earlier ones.
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
    lack "" "install one of them, or start Docker" "Asterisk $asterisk_needs or later from one of these sources:$refused"
}

asterisk_on_path() {
    program=$(command -v asterisk) || { why="asterisk is not on the PATH"; return; }
    version=$("$program" -V 2>/dev/null | sed -n 's/^Asterisk [a-z/]*\([0-9.]*\).*/\1/p') || true
    if ! at_least $asterisk_needs "$version"; then
        why="$program has version ${version:-unknown}, which is older than $asterisk_needs"
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
        why="this is not Debian"
    elif [ -z "$("$root/local/tools/unpack.sh" --archive)" ]; then
        why="apt has no Debian archive; set DEBIAN_MIRROR"
    elif [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
        lack debian-archive-keyring "" "the keys of the Debian archive"
    fi
}

# The console's tests use a real Chromium and a driver of the same version.
browser() {
    driver=$(chromedriver --version 2>/dev/null | sed -n 's/^ChromeDriver \([0-9]*\).*/\1/p') || true
    chromium=''
    for program in chromium google-chrome; do
        has $program || continue
        chromium=$($program --version 2>/dev/null | sed -n 's/^[A-Za-z ]* \([0-9]*\)\..*/\1/p') || true
        break
    done
    [ -n "$driver" ] && [ "$driver" = "$chromium" ] && return
    what="Chromium and chromedriver of the same version (chromium: ${chromium:-none}, chromedriver: ${driver:-none})"
    if [ "$distribution" = ubuntu ]; then
        # Ubuntu's packages only install snaps.
        lack "" "put google-chrome and the matching chromedriver on the PATH; Ubuntu has no packages" "$what"
    else
        lack "chromium chromium-driver" "brew install --cask chromium chromedriver" "$what"
    fi
}

# Only warns, because the space may be enough.
space() {
    [ -d "$root/target/debug" ] && return
    free=$(df -Pk "$root" | awk 'NR == 2 { print int($4 / 1024) }')
    [ "$free" -ge $disk_needs_mb ] || echo "note: $free MB are free on the disk; a full target/ takes about $disk_needs_mb MB"
    command -v free >/dev/null || return 0
    free=$(free -m | awk '/^Mem:/ { print $7 }')
    [ "$free" -ge $memory_needs_mb ] || echo "note: $free MB of memory are free; compiling takes up to $memory_needs_mb MB"
}

# logged LOG COMMAND...: runs a command, writes its output to a file, and prints the last line every few seconds.
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
    echo "failed; the end of $log:"
    tail -n 15 "$log"
    return 1
}

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    # The package lists may be missing or old, and another apt may hold the lock for a while. Without a connection, the
    # existing lists may be enough.
    for pause in 5 10 20 30 0; do
        apt-get -q update && break
        sleep $pause
    done
    # shellcheck disable=SC2086 # the names are words
    apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install $to_install
}

# Unpacks packages, and creates wrapper scripts that run their programs with the unpacked libraries.
apt_unpack() {
    # Includes the packages of an earlier run, because unpack.sh replaces the tree.
    before=$(sed -n 's/^- //p' "$unpacked/unpacked" 2>/dev/null) || true
    # shellcheck disable=SC2046,SC2086 # the names are words
    "$root/local/tools/unpack.sh" "$unpacked" - $(printf '%s\n' $before $to_unpack | sort -u)
    mkdir -p "$unpacked/programs"
    libraries=$(find "$unpacked" -name '*.so*' -exec dirname {} + | sort -u | paste -s -d : -)
    echo "<fontconfig><dir>/usr/share/fonts</dir><dir>$unpacked/usr/share/fonts</dir></fontconfig>" >"$unpacked/fonts.conf"
    for program in usr/lib/chromium/chromium usr/bin/chromedriver usr/sbin/haproxy usr/bin/ps bin/ps usr/bin/baresip \
        usr/bin/fail2ban-regex; do
        [ -x "$unpacked/$program" ] || continue
        started=$unpacked/$program
        # Uses the python3 on the PATH.
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
    # Install nothing if another prerequisite cannot be installed.
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
    # Explain why an installed Asterisk is not used.
    ! has asterisk || [ "$ASTERISK_FROM" = path ] || echo "note: using Asterisk from another source ($ASTERISK_FROM):$refused"
    export ASTERISK_FROM
fi
exec "$@"
