#!/usr/bin/env bash
# Sphinx: after a second build that writes only one of two pages, the search has forgotten the index entries of the other.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv" || { echo "no venv"; exit 77; }
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check sphinx==9.0.4 \
    || { echo "no packages"; exit 77; }
mkdir "$folder/docs"
cd "$folder/docs"
echo 'project = "p"' > conf.py
printf 'Start\n=====\n\n.. toctree::\n\n   apples\n   pears\n' > index.rst
printf 'Apples\n======\n\n.. index:: ! cider\n\nText.\n' > apples.rst
printf 'Pears\n=====\n\n.. index:: ! perry\n\nText.\n' > pears.rst
entries() {
    grep -o '"indexentries":{[^}]*}' ../out/searchindex.js
}
"$folder/venv/bin/sphinx-build" --version
"$folder/venv/bin/sphinx-build" -q . ../out
echo "first build:  $(entries)"
echo 'More.' >> pears.rst
"$folder/venv/bin/sphinx-build" -q . ../out
echo "second build: $(entries)"
! entries | grep -q cider
