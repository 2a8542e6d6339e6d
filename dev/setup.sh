#!/bin/sh
# Prepares this checkout: .venv with the locked packages, and a RabbitMQ server that can be run as a private node.
#
#   sh dev/setup.sh                what `make demo` needs
#   sh dev/setup.sh --dev          what `make test` needs as well
#   sh dev/setup.sh --no-broker    the same without RabbitMQ (also with --dev)
#
# A second run finds everything in place and changes nothing. Nothing is written outside .venv, except for Debian or
# Ubuntu packages that are missing (Python's venv, rabbitmq-server). PYTHON names the interpreter to use; with AMQP_URL
# given no RabbitMQ is needed here.
set -eu

cd "$(dirname "$0")/.."
kind=run
broker=yes
python=
policy=/usr/sbin/policy-rc.d
policy_is_ours=
work=

say() { printf 'setup: %s\n' "$*"; }

die() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

clean_up() {
    [ -z "$policy_is_ours" ] || as_root rm -f "$policy"
    [ -z "$work" ] || rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# --- what is there --------------------------------------------------------------------------------------------------

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
        if command -v "$name" >/dev/null 2>&1 && is_new_enough "$name"; then
            python=$name
            return
        fi
    done
    found=$("${PYTHON:-python3}" --version 2>&1) || found="no ${PYTHON:-python3}"
    die "Python 3.11 or newer is needed; found here: $found." \
        "Debian 12, Ubuntu 24.04 and later have it as python3. Or name yours: PYTHON=/path/to/python3.12 make demo"
}

# Changes whenever the environment has to follow.
fingerprint() {
    cat pyproject.toml requirements*.lock | sha256sum | cut -c 1-64
}

environment_is_ready() {
    [ -f .venv/setup.stamp ] || return 1
    read -r made_for made_from made_at <.venv/setup.stamp || return 1
    [ "$made_from" = "$(fingerprint)" ] || return 1
    [ "$made_at" = "$PWD" ] || return 1
    [ "$made_for" = dev ] || [ "$made_for" = "$kind" ] || return 1
    is_new_enough .venv/bin/python
}

# The scripts in it name their place and their Python; without a stamp it is somebody's own, made here.
environment_is_usable() {
    made_at=$PWD
    [ ! -f .venv/setup.stamp ] || read -r made_for made_from made_at <.venv/setup.stamp
    [ "$made_at" = "$PWD" ] && is_new_enough .venv/bin/python && .venv/bin/python -c 'import pip' 2>/dev/null
}

broker_is_at_hand() {
    [ -n "${AMQP_URL:-}" ] || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null 2>&1
}

# --- system packages ------------------------------------------------------------------------------------------------

# die_with_the_line <why> <packages>
die_with_the_line() {
    sudo="sudo "
    [ "$(id -u)" -ne 0 ] || sudo=
    line="${sudo}apt-get update && ${sudo}apt-get install --yes --no-install-recommends $2"
    case $2 in
        *rabbitmq-server*)
            die "$1" "Run this line, then try again:" "    $line" \
                "Or set AMQP_URL to a broker that may be used, such as amqp://guest:guest@127.0.0.1:5672/"
            ;;
    esac
    die "$1" "Run this line, then try again:" "    $line"
}

require_apt() {
    command -v apt-get >/dev/null 2>&1 ||
        die "This system has no apt-get: install what Debian and Ubuntu call $1 by its own means, then try again."
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null 2>&1 && sudo true; } ||
        die_with_the_line "Not there yet: $1. This user is neither root nor may use sudo: ask an administrator." "$1"
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a \
        apt-get -q -o DPkg::Lock::Timeout=120 "$@" >>"$work/apt.log" 2>&1
}

# install_packages "<packages>": what apt-get writes is shown only when it fails.
install_packages() {
    require_apt "$1"
    say "installing the system packages $1"
    # The broker's package starts a node of the system and enables it; the node that is wanted is a private one.
    units=rabbitmq-server
    [ -e /lib/systemd/system/epmd.socket ] || units="rabbitmq-server epmd.service epmd.socket"
    if [ ! -e "$policy" ]; then
        policy_is_ours=yes
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    apt_get update || say "apt-get update failed; going on with the package lists that are there"
    # shellcheck disable=SC2086  # one or two packages
    if ! apt_get install --yes --no-install-recommends $1; then
        tail -n 20 "$work/apt.log" >&2
        die_with_the_line "apt-get could not install $1; its last words stand above." "$1"
    fi
    if [ -d /run/systemd/system ] && [ "${1%rabbitmq-server}" != "$1" ]; then
        # shellcheck disable=SC2086  # one to three units
        as_root systemctl --quiet disable --now $units
    fi
}

# --- .venv ----------------------------------------------------------------------------------------------------------

make_environment() {
    if [ ! -d .venv ]; then
        say "making .venv with $("$python" --version)"
        "$python" -m venv .venv
    fi
    rm -f .venv/setup.stamp
    if [ "$kind" = dev ]; then
        say "installing the locked packages for development (up to a minute)"
        pip_install --require-hashes -r requirements-dev.lock
    else
        say "installing the locked packages"
        pip_install --require-hashes -r requirements.lock -r requirements-build.lock
    fi
    pip_install --no-build-isolation --no-index --editable .
    printf '%s %s %s\n' "$kind" "$(fingerprint)" "$PWD" >.venv/setup.stamp
}

# What pip writes is shown only when it fails. The locks are whole, so nothing is resolved here: pip would look at releases
# that came after the lock (for a requirement with an extra, such as coverage[toml]) and stop over their missing hashes.
pip_install() {
    if ! .venv/bin/python -m pip --quiet --disable-pip-version-check --no-cache-dir install --no-deps "$@" >"$work/pip.log" 2>&1; then
        tail -n 20 "$work/pip.log" >&2
        die "pip could not install the locked packages; its last words stand above. Is the package index reachable?"
    fi
}

# --- in this order --------------------------------------------------------------------------------------------------

for argument in "$@"; do
    case $argument in
        --dev) kind=dev ;;
        --no-broker) broker=no ;;
        *) die "unknown argument $argument (known: --dev, --no-broker)" ;;
    esac
done

missing=
ready=yes
environment_is_ready || ready=no
if [ "$ready" = yes ] && { [ "$broker" = no ] || broker_is_at_hand; }; then
    exit 0
fi
work=$(mktemp -d)
if [ "$ready" = no ] && [ -e .venv ] && ! environment_is_usable; then
    say "removing .venv: it was made in another place, or for another Python, or only in part"
    rm -rf .venv
fi
if [ ! -e .venv ]; then
    find_python
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        missing=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
fi
if [ "$broker" = yes ] && ! broker_is_at_hand; then
    missing="${missing:+$missing }rabbitmq-server"
fi
[ -z "$missing" ] || install_packages "$missing"
[ "$ready" = yes ] || make_environment
