#!/usr/bin/env bash
# Installs Pagewire into a virtual environment, every version as pinned in constraints.txt:
#
#   deploy/install.sh VENV EXTRAS [--editable] [pip options]
#
# EXTRAS is server, translator and otel (traces), those wanted with commas. The images, `make` and CI all
# install by this script.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 extras=$2
shift 2
packages=(./clients/python ".[$extras]")
if [ "${1:-}" = --editable ]; then
  packages=(--editable ./clients/python --editable ".[$extras]")
  shift
fi
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install --upgrade --constraint constraints.txt pip
"${pip[@]}" install --constraint constraints.txt --build-constraint constraints.txt "${packages[@]}" "$@"
