# Sourced by the scripts: brings what this machine lacks and leaves $repo, $cache and $venv. Quiet when all is there.

umask 022
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
cd "$repo"
export HOME="${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}"
cache="${BRIGADE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/brigade}"
export BRIGADE_CACHE="$cache"

say() { printf '%s %s\n' "$(date +%T)" "$*"; }
stop() { printf '%s\n' "$@" >&2; exit 1; }

missing_packages() {
    command -v mmdebstrap >/dev/null || echo mmdebstrap
    command -v bwrap >/dev/null || echo bubblewrap
    command -v setpriv >/dev/null || echo util-linux
    node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' 2>/dev/null || echo nodejs
    command -v npm >/dev/null || echo npm
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3 python3-venv
    [ "$(id -u)" = 0 ] || command -v newuidmap >/dev/null || echo uidmap
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
}

install_packages() {
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || stop "This machine lacks a few packages. Please run, then try again:" "    sudo apt install $*"
        as_root=(sudo -n)
    fi
    command -v apt-get >/dev/null || stop "This is no Debian or Ubuntu; please install by hand: $*"
    say "installing $*"
    mkdir -p "$cache/logs"
    {
        "${as_root[@]}" apt-get -q update
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
            install --no-install-recommends "$@"
    } >"$cache/logs/apt.log" 2>&1 || { tail -n 20 "$cache/logs/apt.log" >&2; stop "apt could not install: $*"; }
}

make_venv() {
    local uv="$cache/uv-$(sha256sum <deploy/local/uv.txt | cut -c1-12)/bin/uv"
    export UV_CACHE_DIR="$cache/uv-downloads"
    if [ ! -x "$uv" ]; then
        say "installing uv"
        python3 -m venv "${uv%/bin/uv}"
        "${uv%/uv}/pip" install --quiet --disable-pip-version-check --require-hashes -r deploy/local/uv.txt
    fi
    say "installing the Python packages of requirements.lock"
    "$uv" --system-certs venv --quiet --clear --python '>=3.11' "$venv"
    VIRTUAL_ENV="$venv" "$uv" --system-certs pip sync --quiet --compile-bytecode --require-hashes requirements.lock
    VIRTUAL_ENV="$venv" "$uv" --system-certs pip install --quiet --no-deps --no-build-isolation --editable .
    touch "$venv/complete"
}

# One virtual environment for each checkout and lock: a new lock never changes one that is running.
venv="$cache/python/$(echo "$repo" | cat - requirements.lock | sha256sum | cut -c1-16)"

missing="$(missing_packages | tr '\n' ' ')"
[ -z "$missing" ] || install_packages $missing

if [ ! -e "$venv/complete" ]; then
    mkdir -p "$cache/python"
    exec 9>"$cache/python/lock"
    flock 9
    [ -e "$venv/complete" ] || make_venv
    exec 9>&-
fi
export PATH="$venv/bin:$PATH"
