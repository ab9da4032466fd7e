#!/usr/bin/env bash
# In jsonargparse, text inside a list or dict annotated with `Any` is parsed a second time: of the JSON value
# [{"object": "01"}] the quoted "01" becomes the number 1, "no" becomes False and "1e3" a float. The same value for a bare
# `list[dict]`, for `dict[str, str | int]`, or for `Any` itself keeps its text.
# Where it bites: clicks and boxes typed as JSON for numbered objects of a video, whose ids are names of mask folders
# ("01" and "1" become one object), and sentences such as "no".
# Source: observed with the version below.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'jsonargparse==4.53.0'
"$folder/venv/bin/python" - <<'PY'
import importlib.metadata as about
from typing import Any

from jsonargparse import ArgumentParser

print("jsonargparse", about.version("jsonargparse"))


def parsed(kind, text):
    parser = ArgumentParser()
    parser.add_argument("--prompts", type=kind)
    value = parser.parse_args(["--prompts", text]).prompts
    print(f"{kind}: {text} -> {value}")
    return value


said = '[{"object": "01", "sentence": "no", "weight": "1e3"}]'
assert parsed(list[dict[str, Any]], said) == [{"object": 1, "sentence": False, "weight": 1000.0}]
assert parsed(list[dict], said) == [{"object": "01", "sentence": "no", "weight": "1e3"}]
assert parsed(dict[str, Any], '{"object": "01"}') == {"object": 1}
assert parsed(dict[str, str | int], '{"object": "01"}') == {"object": "01"}
assert parsed(Any, '["01", "no"]') == ["01", "no"]
PY
