"""What `--help` prints, before anything heavy is imported."""

FRONT = """usage: rvos VERB ...        (the same as: python -m rvos_lightning VERB ...)

Language-guided and promptable video segmentation: a system is a YAML file, any value of it a flag.

  fit        train (and validate)           rvos fit -c configs/tiny.yaml
  validate   score on the validation set    rvos validate --run runs/tiny/fit/0
  test       score on the test set          rvos test -c configs/tiny.yaml --ckpt_path CHECKPOINT
  predict    segment your own video         rvos predict --run runs/samwise/fit/0 --data VideoFiles \\
                                              --data.path x.mp4 --data.expressions 'the brown horse'
  cache      features, once a picture       rvos cache -c configs/paper/clip_sam_refcoco.yaml --out features
  check      look at a data set             rvos check -c configs/data/mevis.yaml
  score      score PNGs made elsewhere      rvos score -c configs/data/mevis.yaml --predictions masks.zip
  convert    official weights to ours       rvos convert samwise official.pth ours.safetensors
  forecast   memory and speed               rvos forecast -c configs/samwise.yaml
  sweep      many runs, one table           rvos sweep expand 'model.optimizer.lr=[1e-3,2e-3]' > lr.txt
  sample     write a small data set         rvos sample --layout mevis --out shapes_as_mevis
  labels     from and to annotation tools   rvos labels import cvat task.xml --frames clips --out my_videos
  parts      what there is to choose from   rvos parts
  push       a folder for others, the hub   rvos push runs/tiny/fit/0 me/tiny-shapes
  pull       what others have pushed        rvos pull you/samwise --hub
  demo       a web page to click on         rvos demo --run runs/sam_i2v/fit/0

Each verb:  rvos VERB --help          everything it takes:  rvos VERB --help all
Also:       rvos --version            rvos --completion bash|zsh
"""

RUNS = """
what to run
  -c, --config FILE          a recipe, then overlays (configs/data, configs/trainer); later files and flags win
  --run FOLDER               short for the configuration of that run and its best weights (or of what was pulled)
  --print_config             show the merged configuration; what it prints runs as it is
  --KEY VALUE                any value of the YAML: --trainer.max_steps 100, --data.root FOLDER, --model.window 4
                             (null is null everywhere; class names may be short: --data VideoFiles)
  --objectives.NAME ...      swap, re-weight or remove (null) a loss
  --callbacks.NAME ...       the same for what watches a run
  --hub                      let hub libraries reach the network; without it nothing does

weights
  --model.weights FILE       start from weights (.safetensors, or a checkpoint of ours)
  --ckpt_path FILE|last|best a checkpoint of this run; with the same --trainer.default_root_dir fit goes on from it
{more}
where it writes
  runs/<configuration>/{verb}/<number>, always a new number, printed at the end;
  --trainer.default_root_dir FOLDER writes there, and refuses a folder in use or one that holds another run

  --limits.NAME N            let files declare more than usual, e.g. picture_pixels (an error names the limit)

machine
  --trainer.accelerator cpu|gpu     --trainer.devices N     --trainer.precision bf16-mixed
  -c configs/trainer/ddp.yaml       fsdp2.yaml  deepspeed2.yaml  deepspeed3.yaml  multi_node.yaml  debug_overfit.yaml

more
  rvos {verb} --help all                                  every option
  rvos {verb} --model.network.segmenter.help CLASS        the options of a part (of the network you gave by -c)
  rvos parts                                              parts, data sets, metrics, losses, recipes
"""

UNTRAINED = """  --untrained                run although the network has random weights (refused without this)
"""
SKIP = (
    UNTRAINED
    + """  --skip_done BOOL           leave out videos already done with the same weights and prompts (true)
"""
)


def _runs(verb: str, what: str, example: str, more: str = "") -> str:
    return f"usage: rvos {verb} -c RECIPE.yaml [-c OVERLAY.yaml ...] [--KEY VALUE ...]\n\n{what}\n\n  {example}\n" + (
        RUNS.format(verb=verb, more=more)
    )


PAGES = {
    "fit": _runs("fit", "Train, validating now and then.", "rvos fit -c configs/samwise.yaml --trainer.max_steps 300"),
    "validate": _runs("validate", "Score on the validation set.", "rvos validate --run runs/samwise/fit/0", UNTRAINED),
    "test": _runs("test", "Score on the test set.", "rvos test --run runs/samwise/fit/0", UNTRAINED),
    "predict": _runs(
        "predict",
        "Segment films, folders of pictures, or a data set's split without truth; masks, film, sheet and record a\n"
        "video. SIGTERM ends it within one window; the same command goes on where it stopped.",
        "rvos predict --run runs/samwise/fit/0 --data VideoFiles --data.path x.mp4 --data.expressions 'the horse'",
        SKIP,
    ),
    "cache": """usage: rvos cache -c RECIPE.yaml --out FOLDER [--splits train,val,test] [--KEY VALUE ...]

Computes the features of a recipe's frozen image encoders once for every picture (safetensors, half precision, with a
fingerprint of weights and preprocessing). Again with the same words it adds what is missing. Then

  rvos fit -c RECIPE.yaml --model.network.features FOLDER

trains without the encoders in memory. What is missing, changed or made of other weights is an error, never recomputed.

  --out FOLDER         where caches lie; each beneath its fingerprint
  --splits NAMES       train,val,test
  --images N           pictures a shard (256)
  --device NAME        cuda where there is one
  --verify FOLDER      read every shard of FOLDER/FINGERPRINT again and compare
""",
    "check": """usage: rvos check -c configs/data/NAME.yaml [--data.root FOLDER] [--fast] [--strict] [--rows N]

The data doctor: opens every split, compares counts with the published ones, looks for missing and unreadable files,
masks that do not fit, repeated ids and empty expressions, and says what each gap blocks.

  -c, --config FILE    a file of configs/data/ (a recipe or a run's config.yaml will do: its data is looked at)
  --data CLASS         a data module by name, its arguments as --data.NAME VALUE
  --fast               names and headers only; decode nothing
  --strict             fail on anything found, counts included
  --rows N             rows of the table a split (15)

Exit status: 0 nothing is blocked, 1 something is, 2 wrong usage.
""",
    "score": """usage: rvos score -c configs/data/NAME.yaml --predictions FOLDER|ZIP [--split val] [--table FILE]

Scores PNG masks made by whatever code, with the data set's own protocol: the same numbers as `validate`.

  -c, --config FILE            a file of configs/data/ (a recipe or a run's config.yaml will do)
  --predictions FOLDER|ZIP     in the layout of the data set's server
  --split NAME                 train, val (default), test or predict
  --protocol NAME              another metric (rvos parts metrics)
  --layout NAME                the predictions' layout, where it is another data set's
  --missing refuse|empty       what a missing mask means (refuse)
  --table FILE                 also write a row per video and item (.csv or .parquet)

Exit status: 0 scored, 1 refused, 2 wrong usage.
""",
    "convert": """usage: rvos convert SYSTEM SOURCE DESTINATION [--tokenizer FOLDER] [--export] [--merge]
       rvos convert part RUN DESTINATION [--part NAME] [--whole] --recipe FILE

Official weights to ours and, with --export, back; every key on both sides is accounted for, no code is run.

  rvos convert samwise official.pth ours.safetensors
  rvos convert sam_i2v sam-i2v.pt ours.safetensors
  rvos convert sa2va OFFICIAL_FOLDER OURS_FOLDER
  rvos convert sa2va_i SA2VA_FOLDER OURS_FOLDER --sam2 sam2_hiera_large.pt     puts SAM 2's own decoder beside
  rvos convert run RUN/checkpoints/last.ckpt weights.safetensors               one file from any strategy's shards
  rvos convert run RUN/checkpoints/best.ckpt weights.safetensors --merge       a fine-tuning's LoRA added to its layers
  rvos convert part RUN swin.safetensors --part backbone --recipe RECIPE.yaml
                                             one part, in half precision, with what made it and what that reached

SAM and SAM 2 files need no conversion: --model.network.segmenter.weights FILE.
""",
    "forecast": """usage: rvos forecast -c RECIPE.yaml [--KEY VALUE ...]

Will it fit, and how long will it take? GB a GPU under each strategy and steps an hour, from one training step counted
without data or weights. All flags of `fit` are accepted; `--help all` lists the forecast's own.
""",
    "sweep": """usage: rvos sweep {expand,run,table} ...

  rvos sweep expand 'model.optimizer.lr=[1e-3,2e-3]' 'seed_everything=[0,1]' > lr.txt    a line of flags each
  rvos sweep run lr.txt -c configs/tiny.yaml [--at-once 2] [--seeds 0 1 2]     all lines on this machine; again goes on
  sbatch --array=0-3 slurm/array.sbatch lr.txt -c configs/tiny.yaml     the same on a cluster
  rvos sweep table runs/sweep/lr [--score val/j_and_f]         settings that differ, scores, what must run again

`table` also compares ordinary runs: rvos sweep table runs/samwise/fit
""",
    "sample": """usage: rvos sample --layout NAME --out FOLDER [--videos 4] [--size 96] [--frames 8] [--seed 0]

Writes a small made-up data set (MovingShapes) in the official layout of another, to try readers and commands on.
Layouts: davis, long_rvos, lvos, mevis, mevis_v2 (frames in tars), mose_v2 (likewise), own (for your own videos, see
docs/own_data.md), ref_davis, ref_sav, ref_youtube_vos, refcoco, revos, sav, yourvos, youtube_vos.
""",
    "labels": """usage: rvos labels import FORMAT SOURCE --frames FOLDER --out FOLDER [--split train]
       rvos labels export FORMAT FOLDER/SPLIT --out FILE_OR_FOLDER

Between the layout of your own videos (docs/own_data.md) and annotation tools. What is not kept is said at the end.

  coco           JSON: polygons, run lengths, boxes; objects by track_id or instance_id
  youtube_vis    JSON: one segmentation a frame
  cvat           "CVAT for video 1.1": tracks of polygons, boxes, ellipses, masks
  label_studio   JSON: rectangles in videos; brushes, polygons, rectangles, ellipses on pictures
  labelme        a folder of JSON files, one a picture
  masks          PNG: <video>/<frame>.png with object numbers, or <video>/<object>/<frame>.png

  --frames FOLDER          the pictures or films that were annotated; they are copied
  --out PATH               import: the data set's folder; export: a file (coco, youtube_vis, label_studio) or folder
  --split NAME             train, or shares by video: train=8,val=1,test=1
  --sentences FILE.csv     sentences: columns video, id, exp, objects (a;b, - for none), annotator
  --say_categories         each category of a video as a sentence about all its objects

Nothing is overwritten. Exit status: 0 done, 2 refused.
""",
    "parts": """usage: rvos parts [KIND or NAME ...] [--sizes SYSTEM]

Lists what there is to choose from, one line each: segmenters with variants, adapters, prompters, memories, text
encoders, losses, callbacks, data sets, samplings, augmentations, metrics, recipes, overlays.

  rvos parts                       everything
  rvos parts segmenters metrics    some kinds
  rvos parts CMTAdapter            one class: its arguments
  rvos parts --sizes samwise       published parameter counts beside ours (samwise, sam_i2v, clip_sam, sgmg)
""",
    "push": """usage: rvos push RUN OWNER/NAME [--out FOLDER] [--licence ID] [--hub] [--private]

Makes hub/OWNER/NAME of a run: configuration, all weights as one safetensors file, scores and their table, pictures, and
a card with score, parts, data, terms, commit and commands. Paths of this machine stay behind. --hub uploads it.

  rvos push runs/samwise/fit/0 me/samwise-shapes
""",
    "pull": """usage: rvos pull OWNER/NAME --hub [--revision COMMIT] [--out FOLDER] [--trust]
       rvos pull FOLDER

Fetches configuration, weights, card, tables and pictures, nothing else, into hub/OWNER/NAME, and looks through the
configuration: it may name classes of this package (and torch's optimizers and layers) only; --trust lets others in.

  rvos predict --run OWNER/NAME --data VideoFiles --data.path x.mp4 --data.expressions 'the horse'
  rvos demo --run OWNER/NAME

and rvos_lightning.load("OWNER/NAME") use it.
""",
    "demo": """usage: rvos demo [--run FOLDER | -c RECIPE.yaml --model.weights FILE] [--films FOLDER] [--KEY VALUE ...]

Opens a web page: choose or upload a film, type sentences or click and draw boxes on any frame, correct on later ones;
overlay film, contact sheet, masks as a zip, and the `predict` command that does the same. Without --run the newest run
under runs/ is shown. Needs the extra `demo`: pip install --constraint constraints.txt --editable '.[demo]'

  --films FOLDER     films, pictures and folders of pictures to choose from, besides uploads
  --device NAME      cpu (default), cuda
  --host ADDRESS     127.0.0.1: this machine alone; 0.0.0.0: everybody who can reach it
  --port N           7860, or the next that is free
  --frames N         longest film (2000)          --megabytes N   largest upload (200)
  --keep MINUTES     until uploads and results are deleted (60); all are when it ends
  --untrained        random weights are meant     --open          open a browser
""",
}
