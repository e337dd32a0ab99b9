#!/bin/sh
# Makes benchmarks/.envs/PEER for every list in benchmarks/requirements; `make bench-setup` calls it. PYTHON names the
# interpreter; arguments name peers, none means all. A peer that cannot be installed is reported, and the others go on.
# Pip picks the build of torch, as in the project's own set-up.
set -u
cd "$(dirname "$0")"

python=${PYTHON:-../.venv/bin/python}
failed=""
mkdir -p .envs
echo '*' >.envs/.gitignore

install() {
    folder=.envs/$1
    log=.envs/$1.log
    stamp=$folder/.complete
    wanted=requirements/$1.txt
    if [ -e "$stamp" ] && cmp -s "$wanted" "$stamp"; then
        echo "$1: ready"
        return 0
    fi
    echo "$1: installing $(grep -c '==' "$wanted") packages ..."
    rm -rf "$folder"
    "$python" -m venv "$folder" &&
        "$folder/bin/python" -m pip --disable-pip-version-check --no-input install -r "$wanted" >"$log" 2>&1 &&
        "$folder/bin/python" -m pip --disable-pip-version-check check >>"$log" 2>&1 &&
        cp "$wanted" "$stamp"
}

for peer in ${*:-opacus jax_privacy pfl flower}; do
    if ! install "$peer"; then
        tail -n 3 ".envs/$peer.log" >&2
        failed="$failed $peer"
    fi
done
if [ -n "$failed" ]; then
    echo "Not installed:$failed. The logs are benchmarks/.envs/*.log; the tables say which peers are missing." >&2
    exit 1
fi
