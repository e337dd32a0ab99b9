#!/bin/sh
# Writes requirements.lock anew from pyproject.toml; `make lock` calls it. pip-tools gets an environment of its own.
# Pins that are already in requirements.lock stay unless pyproject.toml forbids them; ARGS=--upgrade renews them all.
set -eu
cd "$(dirname "$0")/.."

# Not the set-up: that fails while pyproject.toml asks for what is not locked yet.
python=.venv/bin/python
[ -x "$python" ] || python=${PYTHON:-python3}
tools=build/lock
"$python" -m venv --clear "$tools"
"$tools/bin/python" -m pip -qq --disable-pip-version-check install pip-tools==7.6.2

# torch is resolved, so that what it needs is locked, but not written: see requirements-torch.txt.
cp requirements.lock "$tools/requirements.lock"
CUSTOM_COMPILE_COMMAND="make lock" "$tools/bin/pip-compile" pyproject.toml --quiet "$@" \
    --extra dev --build-deps-for editable --constraint requirements-torch.txt \
    --unsafe-package torch --no-allow-unsafe --strip-extras --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
    --output-file "$tools/requirements.lock"

if grep -Eq '^(nvidia-|cuda-|triton)' "$tools/requirements.lock"; then
    echo "pip resolved a CUDA build of PyTorch, whose packages do not belong into requirements.lock." >&2
    echo "Run make lock where pip finds the CPU build. requirements.lock is unchanged." >&2
    exit 1
fi
# The last paragraph only says that torch is missing.
sed '/^# WARNING/,$d' "$tools/requirements.lock" > requirements.lock
echo "Written: requirements.lock"
