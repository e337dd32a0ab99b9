#!/bin/sh
# Makes .venv from the pinned packages; `make setup` calls it. PYTHON names the interpreter to use.
# The stamp is written last and removed first, so a .venv without it is half made and is made again.
set -eu
cd "$(dirname "$0")/.."

candidates=${PYTHON:-python3.13 python3.12 python3.11 python3}
stamp=.venv/.complete
log=.venv/setup.log

find_python() {
    for candidate in $candidates; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

explain_no_python() {
    echo "No usable Python: 3.11 or newer is needed, with venv and pip. Looked at:"
    for candidate in $candidates; do
        if ! version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
            echo "  $candidate: not found"
        elif ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            echo "  $candidate: version $version, too old"
        else
            echo "  $candidate: version $version, without venv or ensurepip"
        fi
    done
    echo "Install one (Debian and Ubuntu: apt-get install python3 python3-venv), or name yours:"
    echo "  make setup PYTHON=/path/to/python3.12"
}

run_pip() {
    if ! .venv/bin/python -m pip --disable-pip-version-check --no-input "$@" >>"$log" 2>&1; then
        tail -n 5 "$log" >&2
        echo "Setup failed at: pip $*. The whole log is in $log; mend the cause and run make setup again." >&2
        exit 1
    fi
}

if [ -e "$stamp" ] && .venv/bin/python -c '' 2>/dev/null; then
    rm "$stamp"
    echo "Bringing .venv up to date ..."
else
    python=$(find_python) || { explain_no_python >&2; exit 1; }
    echo "Making .venv with $("$python" --version) ($python) ..."
    rm -rf .venv
    "$python" -m venv .venv
fi

echo "Installing $(grep -c '^[a-z].*==' requirements.lock) packages of requirements.lock (a minute or two) ..."
run_pip install --require-hashes --no-deps -r requirements.lock
echo "Installing $(grep '^torch==' requirements-torch.txt) (long, where pip picks a CUDA build) ..."
run_pip install -r requirements-torch.txt
run_pip install --no-deps --no-build-isolation --editable .
run_pip check
touch "$stamp"
echo "Ready: .venv"
