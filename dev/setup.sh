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
policy=/usr/sbin/policy-rc.d
policy_is_ours=
work=

say() { printf 'setup: %s\n' "$*"; }

die() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

clean_up() {
    [ -z "$policy_is_ours" ] || as_root rm -f "$policy"
    [ -z "$work" ] || rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# --- system packages ------------------------------------------------------------------------------------------------

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

how_to_install() {
    printf 'sudo apt-get update && sudo apt-get install --yes --no-install-recommends %s' "$1"
}

# require_apt <what it is for> <package>: ends with the line to run where packages cannot be installed from here.
require_apt() {
    command -v apt-get >/dev/null 2>&1 ||
        die "$1 needs what Debian and Ubuntu call $2, and this system has no apt-get." \
            "Install it with this system's own package manager, then try again. On Debian or Ubuntu the line is:" \
            "    $(how_to_install "$2")"
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null 2>&1 && sudo true; } ||
        die "$1 needs the system package $2, and this user is neither root nor may use sudo." \
            "Let an administrator run this line, then try again:" "    $(how_to_install "$2")"
}

# install_package <what it is for> <package>: what apt-get writes is shown only when it fails.
install_package() {
    say "installing the system package $2"
    [ -n "$work" ] || work=$(mktemp -d)
    apt_get update || say "apt-get update failed; going on with the package lists that are there"
    apt_get install --yes --no-install-recommends "$2" && return
    tail -n 20 "$work/apt.log" >&2
    die "$1 needs the system package $2, and apt-get could not install it (its last words stand above)." \
        "Run this line, then try again:" "    $(how_to_install "$2")"
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a \
        apt-get -q -o DPkg::Lock::Timeout=120 "$@" >>"$work/apt.log" 2>&1
}

# --- Python ---------------------------------------------------------------------------------------------------------

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
        if command -v "$name" >/dev/null 2>&1 && is_new_enough "$name"; then
            printf '%s\n' "$name"
            return
        fi
    done
    found=$("${PYTHON:-python3}" --version 2>&1) || found="no ${PYTHON:-python3}"
    die "Python 3.11 or newer is needed; found here: $found." \
        "Install one (Debian 12, Ubuntu 24.04 and later have it as python3), or name it: PYTHON=/path/to/python3.12 make demo"
}

# Changes whenever the environment must be made again; the place is part of it, because scripts in it name their place.
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

# An environment of another Python or of another place cannot be repaired; one that somebody made here is kept.
discard_unusable_environment() {
    [ -e .venv ] || return 0
    made_at=$PWD
    [ ! -f .venv/setup.stamp ] || read -r made_for made_from made_at <.venv/setup.stamp
    if [ "$made_at" != "$PWD" ] || ! is_new_enough .venv/bin/python || ! .venv/bin/python -c 'import pip' 2>/dev/null; then
        say "removing .venv: it was made in another place, or for another Python, or only in part"
        rm -rf .venv
    fi
}

make_environment() {
    if [ ! -d .venv ]; then
        python=$(find_python)
        if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
            require_apt "A virtual environment" "$package"
            install_package "A virtual environment" "$package"
        fi
        say "making .venv with $("$python" --version)"
        "$python" -m venv .venv
    fi
    rm -f .venv/setup.stamp
    if [ "$kind" = dev ]; then
        say "installing the locked packages for development (a minute or two)"
        install_locked -r requirements-dev.lock
    else
        say "installing the locked packages"
        install_locked -r requirements.lock -r requirements-build.lock
    fi
    pip_install --no-deps --no-build-isolation --no-index --editable .
    printf '%s %s %s\n' "$kind" "$(fingerprint)" "$PWD" >.venv/setup.stamp
}

pip_install() {
    .venv/bin/python -m pip --quiet --disable-pip-version-check --no-cache-dir install "$@"
}

install_locked() {
    pip_install --require-hashes "$@"
}

# --- RabbitMQ -------------------------------------------------------------------------------------------------------

broker_is_at_hand() {
    [ -n "${AMQP_URL:-}" ] || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null 2>&1
}

# The package starts a node of the system and enables it: neither is wanted, the node here is a private one.
install_broker() {
    require_apt "A private broker" rabbitmq-server
    if [ ! -e "$policy" ]; then
        policy_is_ours=yes
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    units=rabbitmq-server
    [ -e /lib/systemd/system/epmd.socket ] || units="rabbitmq-server epmd.socket"
    install_package "A private broker" rabbitmq-server
    if [ -d /run/systemd/system ]; then
        # shellcheck disable=SC2086  # one or two units
        as_root systemctl --quiet disable --now $units
    fi
    say "RabbitMQ is installed; no node of the system was started"
}

# --- in this order --------------------------------------------------------------------------------------------------

for argument in "$@"; do
    case $argument in
        --dev) kind=dev ;;
        --no-broker) broker=no ;;
        *) die "unknown argument $argument (known: --dev, --no-broker)" ;;
    esac
done

if ! environment_is_ready; then
    discard_unusable_environment
    make_environment
fi
if [ "$broker" = yes ] && ! broker_is_at_hand; then
    install_broker
fi
