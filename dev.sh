#!/usr/bin/env bash
# Everything a developer runs: bash dev.sh demo|test|build|lint|release-check|bench
#
# Each command first sets up what it needs and says so: Python >= 3.10 with venv, a C compiler, Go >= 1.26, a virtual environment in
# .venv, the engine libraries, for test, demo and bench also Open MPI and MPICH. Debian packages are used as root or with password-free
# sudo; without them Go and the compiler come through pip, and what needs an MPI is skipped. What is there already is left alone, so a
# second run starts at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'TEXT'
usage: bash dev.sh COMMAND

  demo    measure every module of Python's standard library over each pool, and compare [--workers N] [--limit FILES]
  test    all checks: formatting, vet, staticcheck, ruff, mypy, Go tests with and without -race, pytest
  build   the engine libraries into python/schwimmbad_go/_lib; one for each MPI whose mpi.h is found
  lint    the checks that run no test
  release-check  what takes too long for every run: a wheel where neither Go nor a compiler is, its tag, each extra, MPI from wheels,
          each Python that is here [--only STEPS] [--wheel FILE] [--python PATH] [--keep DIRECTORY]
  bench   the benchmark table, against the other pools people use
  bench-mpi  the same for MPIPool, on each MPI
  bench-joblib  joblib.Parallel on our workers beside loky's
TEXT
}

say() { printf '== %s\n' "$*"; }
die() { printf 'dev.sh: %s\n' "$*" >&2; exit 1; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
can_apt() { command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; }

apt_install() {
    say "installing Debian packages: $*"
    as_root apt-get -q -o DPkg::Lock::Timeout=300 update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
}

# Usable means: runs, is new enough, and can make a virtual environment with pip (Debian ships ensurepip in python3-venv only).
usable_python() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if usable_python "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

PY=.venv/bin/python

setup_venv() {
    if usable_python "$PY"; then return; fi
    local python
    if ! python=$(find_python); then
        can_apt || die "no Python >= 3.10 with venv found, and no right to install one: install python3 and python3-venv, or set PYTHON"
        apt_install python3 python3-venv
        python=$(find_python) || die "this system's python3 is older than 3.10: install a newer one and name it in PYTHON"
    fi
    say "making a virtual environment in .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
}

# tools/gobuild.py knows what counts as a usable Go or compiler; it names the pip packages for what is missing.
setup_tools() {
    local needs
    needs=$("$PY" tools/gobuild.py --requirements)
    if [[ $needs == *ziglang* ]] && can_apt; then
        apt_install gcc libc6-dev ca-certificates # the last for Go, which fetches its modules over TLS
        needs=$("$PY" tools/gobuild.py --requirements)
    fi
    if [ -n "$needs" ]; then
        say "installing through pip, into .venv only: ${needs//$'\n'/ }"
        # shellcheck disable=SC2086 # one word per requirement is meant
        "$PY" -m pip install -q $needs
    fi
    local tools
    tools=$("$PY" tools/gobuild.py --tools)
    eval "$tools"
    PATH="$(dirname "$GO"):$PATH" # for tests that call go themselves
    export GO CC PATH
    say "using $("$PY" --version), $("$GO" env GOVERSION), CC=$CC"
}

# Debian packages of both MPIs that are not here: launchers to run, headers to build the engine's MPI libraries with. Each goes by the
# name that says which MPI it is, since Debian's plain mpirun is whichever was installed last.
missing_mpi() {
    command -v mpirun.openmpi >/dev/null || echo openmpi-bin
    command -v mpiexec.mpich >/dev/null || echo mpich
    local family
    for family in $("$PY" tools/gobuild.py --missing-mpi); do echo "lib$family-dev"; done
}

# Where packages can be installed, tests must not be skipped for want of an MPI: then SWG_REQUIRE_MPI makes that a failure. Without the
# right to install, everything else still runs.
MPI_OPTIONS=()
setup_mpi() {
    setup_venv
    local missing
    missing=$(missing_mpi)
    if [ -n "$missing" ] && can_apt; then
        # shellcheck disable=SC2086 # one word per package is meant
        apt_install $missing || [ "$1" = optional ] || die "could not install: ${missing//$'\n'/ }"
        missing=$(missing_mpi)
        [ -z "$missing" ] || [ "$1" = optional ] || die "still missing after the installation: ${missing//$'\n'/ }"
    fi
    if [ -z "$missing" ]; then
        export SWG_REQUIRE_MPI=${SWG_REQUIRE_MPI-openmpi,mpich}
        if [ "$1" = required ]; then MPI_OPTIONS=(--require-mpi); fi
    else
        say "no right to install ${missing//$'\n'/ }: what needs them is skipped"
    fi
}

# The package straight from the tree: needs no package index, so the demo works offline where the tools are there.
setup_engine() {
    setup_venv
    setup_tools
    "$PY" tools/gobuild.py --inplace "${MPI_OPTIONS[@]}"
    echo "$PWD/python" >"$("$PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/schwimmbad-go-dev.pth"
}

# An editable install with an extra; repeated only when pyproject.toml, the Python or the place of the tree has changed.
setup_extra() {
    setup_engine
    local extra=$1 stamp
    stamp="$(cksum <pyproject.toml) $("$PY" --version) $PWD"
    if [ "$(cat ".venv/installed-$extra" 2>/dev/null)" = "$stamp" ]; then return; fi
    say "installing the package with its '$extra' extra into .venv; the first time this takes about a minute"
    "$PY" -m pip install -q --disable-pip-version-check -e ".[$extra]"
    echo "$stamp" >".venv/installed-$extra"
}

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
    demo)
        # Without a Python, and without the right to install one, Go is enough: the program brings a Python along.
        if ! usable_python "$PY" && ! find_python >/dev/null && ! can_apt && go=$(command -v "${GO:-go}" /usr/local/go/bin/go | head -n 1) && [ -n "$go" ]; then
            say "no Python >= 3.10 here: the demo runs on the one inside schwimmbad-go, which Go downloads once (109 MB)"
            CGO_ENABLED=0 exec "$go" run ./cmd/schwimmbad-go run --python embedded examples/stdlib_complexity.py "$@"
        fi
        setup_mpi optional
        setup_engine
        exec "$PY" examples/stdlib_complexity.py "$@"
        ;;
    build) setup_engine ;;
    test)
        setup_mpi required
        setup_extra test
        exec "$PY" tools/check.py test
        ;;
    lint)
        setup_extra test
        exec "$PY" tools/check.py lint
        ;;
    release-check)
        setup_mpi optional
        setup_extra test
        PYTHONPATH=tools exec "$PY" -m release "$@"
        ;;
    bench)
        setup_mpi optional
        setup_extra bench
        exec "$PY" benchmarks/run.py "$@"
        ;;
    bench-mpi)
        setup_mpi optional
        setup_extra bench
        exec "$PY" benchmarks/mpi.py "$@"
        ;;
    bench-joblib)
        setup_extra bench
        exec "$PY" benchmarks/joblib_backend.py "$@"
        ;;
    help | -h | --help) usage ;;
    *)
        usage >&2
        die "unknown command: $command"
        ;;
esac
