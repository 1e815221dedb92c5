# Sourced by the scripts beside it: where things are kept, and words for what goes wrong.
#
# All that is built or fetched lives in one cache folder, outside the clone, so that the next clone is warm:
#   target/ the build   models/ Hugging Face folders   bin/ nats-server, hadolint   venv/ what fetch_models.py and examples/ need
#   checkout/ what .ci/run checks   cutlass/ one header, for a test of our CUDA kernels
#   roots/ images, if scripts/check-docker has built some
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${STAGELINE_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set: set it, or STAGELINE_CACHE}/.cache}/stageline}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

export STAGELINE_CACHE=$cache
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
export STAGELINE_MODELS=${STAGELINE_MODELS:-$cache/models}
export STAGELINE_PYTHON=${STAGELINE_PYTHON:-$cache/venv/bin/python}
export STAGELINE_NATS_SERVER=${STAGELINE_NATS_SERVER:-$cache/bin/nats-server}
export STAGELINE_CUTLASS_TRAITS=${STAGELINE_CUTLASS_TRAITS:-$cache/cutlass/mma_traits_sm80.hpp}

say() { printf '\033[1m%s\033[0m\n' "== $*" >&2; }
[ -t 2 ] || say() { printf '%s\n' "== $*" >&2; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# need COMMAND WHAT-TO-DO...: fails with what to do unless COMMAND is there.
need() {
    command -v "$1" >/dev/null 2>&1 || fail "$1 is missing: ${*:2}"
}

# What a build needs. cargo takes clones that share a build folder for one and the same, of which it looks at the times only: to a
# clone that is not the one that was built here last, all is new.
need_rust() {
    need cargo "install Rust 1.89 or newer (https://rustup.rs)"
    need cc "install a C compiler (Debian, Ubuntu: apt-get install gcc libc6-dev)"
    local last=$cache/last-clone
    [ "$(cat "$last" 2>/dev/null)" = "$root" ] && return
    (cd "$root" && find Cargo.toml src kernels proto tests benches -type f -exec touch -c {} +)
    echo "$root" >"$last"
}

need_python() {
    need python3 "install Python 3.9 or newer (Debian, Ubuntu: apt-get install python3 python3-venv)"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' || fail "Python 3.9 or newer is needed, not $(python3 -V)"
}
