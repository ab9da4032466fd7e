#!/usr/bin/env bash
# In jsonargparse, `null` typed for an `Optional` argument of a class that is nested in another class's argument becomes
# the text "None" where a `str` is also possible, while the same `null` for the outer argument, and in a YAML file, is
# None. A path switched off on the command line then turns into a file called "None".
# Where it bites: training programs composed by LightningCLI, `--model.network.encoder.weights null`.
# Source: observed with the versions below.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'jsonargparse[signatures,omegaconf]==4.53.0' omegaconf==2.3.1
cat > "$folder/parts.py" <<'PY'
class Encoder:
    def __init__(self, weights: str | None = "some.pt"):
        self.weights = weights


class Model:
    def __init__(self, encoder: Encoder, weights: str | None = "all.pt"):
        self.encoder, self.weights = encoder, weights
PY
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import importlib.metadata as about

from jsonargparse import ArgumentParser
from parts import Encoder, Model

print("jsonargparse", about.version("jsonargparse"))


def parsed(*words):
    parser = ArgumentParser(parser_mode="omegaconf+")
    parser.add_subclass_arguments(Model, "model")
    return parser.parse_args(list(words)).model.init_args


start = ["--model", "parts.Model", "--model.encoder", "parts.Encoder"]
outer = parsed(*start, "--model.weights", "null").weights
inner = parsed(*start, "--model.encoder.weights", "null").encoder.init_args.weights
print("outer", repr(outer), "nested", repr(inner))
assert outer is None and inner == "None", "changed"
PY
