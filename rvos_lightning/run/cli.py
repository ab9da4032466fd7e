"""The command line's front door: help at once, everything heavy only when a subcommand runs."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rvos_lightning.run.lightning_cli import RVOSCLI

HELP = """usage: python -m rvos_lightning {fit,validate,test,predict} -c CONFIG.yaml [-c MORE.yaml] [--key value ...]

Language-guided and promptable video segmentation: a system is a YAML file, any value of it a flag.

  fit        train (and validate)         python -m rvos_lightning fit -c configs/tiny.yaml
  validate   score on the validation set  ... validate -c configs/tiny.yaml --model.weights WEIGHTS
  test       score on the test set        ... test -c configs/tiny.yaml --ckpt_path CHECKPOINT
  predict    segment your own video       ... predict -c CONFIG --data rvos_lightning.data.VideoFiles \\
                                              --data.path x.mp4 --data.expressions '["the ..."]'

  -c, --config FILE          may repeat; later files and flags win
  --print_config             show the merged configuration; what it prints runs as it is
  --objectives.NAME ...      swap, re-weight or remove (null) a loss
  --callbacks.NAME ...       the same for what watches a run
  --ckpt_path FILE|last      continue a run; --model.weights FILE starts from weights

Every option of a subcommand:  python -m rvos_lightning fit --help
Options of a part:             ... fit --model.network.help rvos_lightning.core.network.PromptedSegmenter
"""


def main(args: Sequence[str] | None = None) -> "RVOSCLI | None":
    """Run the command line; `args` as in `sys.argv[1:]`, so that tests call it in process."""
    given = list(sys.argv[1:] if args is None else args)
    if not given or given[0] in ("-h", "--help"):
        print(HELP)
        return None
    from rvos_lightning.run.lightning_cli import run

    return run(None if args is None else given)
