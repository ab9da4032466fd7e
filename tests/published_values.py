"""What the papers, their supplements and released training configurations state, recipe by recipe.

A row is (dotted key of the printed configuration, published value, where it is stated). `init_args` is left out of the
keys. Defaults of optimizers and losses are rows too: whoever changes a Python default changes a recipe.
"""

SAMWISE = "arXiv 2411.17646, released training guide"
I2V = "arXiv 2506.01304, released training configuration"
SA2VA = "arXiv 2501.04001, released training configuration"
CLIP_SAM = "WACV 2025 (Ito), supplement; released code where it is silent"
SA2VA_I = "arXiv 2509.19082, section 3.3 and released configuration"

Row = tuple[str, object, str]


def samwise(stage: str) -> list[Row]:
    """Rows of a SAMWISE stage: `refcoco`, `mevis`, `ref_youtube_vos`."""
    pictures = stage == "refcoco"
    network, source = "model.network", f"{SAMWISE}, {stage}"
    rows = {
        f"{network}.segmenter.variant": "hiera_b+",
        f"{network}.segmenter.version": "2.0",
        f"{network}.segmenter.image_size": 1024,
        f"{network}.segmenter.frozen": True,
        f"{network}.segmenter.frozen_dropout": True,
        f"{network}.segmenter.object_scores": not pictures,
        f"{network}.segmenter.multimask": False,
        f"{network}.adapter.text.frozen": True,
        f"{network}.adapter.text.frozen_dropout": True,
        f"{network}.adapter.text.size.dropout": 0.1,
        f"{network}.adapter.stages": [1, 2, 3],
        f"{network}.adapter.text_layers": [1, 4, 8, 12],
        f"{network}.adapter.dim": 256,
        f"{network}.adapter.heads": 8,
        f"{network}.adapter.patches": [8, 4, 2],
        f"{network}.adapter.selective": not pictures,
        f"{network}.adapter.dropout": 0.1,
        f"{network}.memory.switching": not pictures,
        f"{network}.memory.window": 4,
        f"{network}.memory.switch": "reweight",
        f"{network}.memory.hidden": 128,
        f"{network}.memory.dropout": 0.1,
        **optimizer(1e-4 if pictures else 1e-5, 0.0),
        "model.scheduler.milestones": [60000],
        "model.scheduler.gamma": 0.1,
        "model.window": 1 if pictures else 8,
        "data.eval_size": [1020, 1024],
        "data.eval_resize": "short_side",
        "data.batch_size": 8 if pictures else 2,
        "data.augment": None,
        "objectives.mask.dice": 1.0,
        "objectives.mask.focal": 1.0,
        "objectives.mask.alpha": 0.25,
        "objectives.mask.gamma": 2.0,
        "trainer.max_epochs": {"refcoco": 6, "ref_youtube_vos": 4, "mevis": 1}[stage],
        "trainer.max_steps": -1,
        "trainer.gradient_clip_val": 0.1 if pictures else 1.0,
        "trainer.accumulate_grad_batches": 1,
        "trainer.precision": None,
        "trainer.sync_batchnorm": True,
        "seed_everything": 0,
    }
    rows |= samwise_pictures() if pictures else samwise_videos(stage)
    return [(key, value, source) for key, value in rows.items()]


def samwise_videos(stage: str) -> dict[str, object]:
    """Clips and switch of the two video stages."""
    return {
        "data.size": 1024,
        "data.resize": "letterbox",
        "data.clip_length": 8,
        "data.items_per_video": 1,
        "data.anchor_stride": 8,
        "data.sampling.class_path": f"rvos_lightning.data.{'LocalGlobal' if stage == 'mevis' else 'Local'}",
        "objectives.cme.weight": 1.0,
        "objectives.cme.rule": "released",
        "objectives.cme.min_area": 50,
        "objectives.cme.min_overlap": 0.1,
        "model.fresh": [r"adapter\.adapters\..*\.selective\..*", r"memory\.encoder\..*"],
    }


def samwise_pictures() -> dict[str, object]:
    """The three sets of stage 1."""
    rows: dict[str, object] = {"data.weights": None, "objectives": ["mask"]}
    for name, partition in (("refcoco", "unc"), ("refcoco_plus", "unc"), ("refcocog", "umd")):
        source = f"data.sources.{name}"
        rows |= {f"{source}.partition": partition, f"{source}.clip_length": 1, f"{source}.size": 1024}
        rows |= {f"{source}.items_per_video": 1, f"{source}.eval_size": [1020, 1024], f"{source}.augment": None}
    return rows


def optimizer(rate: float, decay: float) -> dict[str, object]:
    """AdamW as all three systems use it."""
    return {
        "model.optimizer.class_path": "torch.optim.AdamW",
        "model.optimizer.lr": rate,
        "model.optimizer.betas": [0.9, 0.999],
        "model.optimizer.eps": 1e-8,
        "model.optimizer.weight_decay": decay,
    }


def sam_i2v(baseline: str = "") -> list[Row]:
    """Rows of the released recipe, or of a baseline (`ta`, `sa_ta`) of the supplement trained like it."""
    network = "model.network"
    rows = {
        f"{network}.segmenter.variant": "tiny_sam",
        f"{network}.segmenter.image_size": 1024,
        f"{network}.segmenter.occlusion": True,
        f"{network}.segmenter.frozen_encoder": baseline == "sa_ta",
        f"{network}.memory.memory_dim": 64,
        f"{network}.memory.hidden": 2048 if baseline else 512,
        f"{network}.memory.layers": 4,
        f"{network}.memory.dropout": 0.1,
        f"{network}.memory.prompts": 0 if baseline else 3,
        f"{network}.memory.fill_holes": 8,
        f"{network}.memory.aligned": False,
        **optimizer(3e-4, 0.1),
        "model.lr_scale": None if baseline == "sa_ta" else {r"segmenter\.encoder": 0.2},
        "model.layer_decay": 1.0 if baseline == "sa_ta" else 0.9,
        "model.no_decay": ["bias", "nn.LayerNorm"],
        "model.scheduler.warmup": 0,
        "model.scheduler.final": 0.01,
        "data.batch_size": 1,
        "data.weights": {"videos": 0.976, "pictures": 0.024},
        "data.sources.videos.clip_length": 8,
        "data.sources.videos.items_per_video": 1,
        "data.sources.videos.size": 1024,
        "data.sources.videos.resize": "squash",
        "data.sources.videos.annotations": "manual",
        "data.sources.videos.sampling.p": 0.5,
        "data.sources.videos.sampling.sampling.stride": 1,
        "data.sources.pictures.clip_length": 1,
        "data.sources.pictures.size": 1024,
        "data.sources.pictures.resize": "squash",
        **{f"data.simulate_user.{key}": value for key, value in USER.items()},
        "objectives.structure.structure": 20.0,
        "objectives.structure.iou": 1.0,
        "objectives.structure.occlusion": 1.0,
        "objectives.structure.window": 31,
        "trainer.max_steps": 64800,
        "trainer.gradient_clip_val": 0.1,
        "trainer.accumulate_grad_batches": 1,
        "trainer.precision": "bf16-mixed",
    }
    for source in ("videos", "pictures"):
        rows |= {f"data.sources.{source}.augment.{key}": value for key, value in I2V_AUGMENT.items()}
    if not baseline:
        adapter = {"temporal_dim": 96, "frames": 5}
        rows |= {f"{network}.adapter.{key}": value for key, value in adapter.items()}
    return [(key, value, I2V) for key, value in rows.items()]


USER = {"points": 0.5, "box": 0.5, "initial": 2, "corrected": 2, "corrections": 7, "from_truth": 0.1}
I2V_AUGMENT = {
    "0.class_path": "rvos_lightning.data.clips.transforms.HorizontalFlip",
    "0.p": 0.5,
    "1.class_path": "rvos_lightning.data.clips.transforms.Affine",
    "1.degrees": 25.0,
    "1.shear": 20.0,
    "1.fill": [123, 116, 103],
    "2.class_path": "rvos_lightning.data.clips.transforms.ColourJitter",
    "2.brightness": 0.1,
    "2.contrast": 0.03,
    "2.saturation": 0.03,
    "2.per_frame": False,
    "3.class_path": "rvos_lightning.data.clips.transforms.Greyscale",
    "3.p": 0.05,
    "4.class_path": "rvos_lightning.data.clips.transforms.ColourJitter",
    "4.brightness": 0.1,
    "4.contrast": 0.05,
    "4.saturation": 0.05,
    "4.per_frame": True,
}


def sa2va(size: str, finetuned: bool = False) -> list[Row]:
    """Rows of a Sa2VA size, or of Sa2VA-i's own training."""
    network, frames = "model.network", 8 if finetuned else 5
    rows = {
        f"{network}.segmenter.variant": "hiera_l",
        f"{network}.segmenter.version": "2.0",
        f"{network}.segmenter.image_size": 1024,
        f"{network}.segmenter.frozen": True,
        f"{network}.segmenter.trainable": list(DECODER),
        f"{network}.segmenter.train_original": False,
        f"{network}.segmenter.half_positions": True,
        f"{network}.prompter.size": size,
        f"{network}.prompter.frames": frames,
        f"{network}.prompter.sampling": "uniform" if finetuned else "first",
        f"{network}.prompter.lora.rank": 128,
        f"{network}.prompter.lora.alpha": 256,
        f"{network}.prompter.lora.dropout": 0.05,
        f"{network}.prompter.lora.targets": None,
        f"{network}.prompter.train_vision": False,
        f"{network}.prompter.train_language": False,
        f"{network}.prompter.max_new_tokens": 2048,
        f"{network}.prompter.checkpointing": True,
        f"{network}.prompter.answers": ["It is [SEG].", "Sure, [SEG].", "Sure, it is [SEG].",
                                        "Sure, the segmentation result is [SEG].", "[SEG]."],
        f"{network}.inference": "sa2va_i" if finetuned else "sa2va",
        f"{network}.prompts": "all",
        **optimizer(4e-5, 0.05),
        "model.lr_scale": None,
        "data.size": 1024,
        "data.resize": "squash",
        "data.repeats": 4,
        "data.clip_length": frames,
        "data.items_per_video": 5,
        "data.repeat_items": True,
        "data.batch_size": 1 if finetuned else 2,
        "data.sampling.class_path": "rvos_lightning.data.clips.sampling."
        + ("UniformWithOffset" if finetuned else "RandomDistinct"),
        "data.context_frames": frames,
        "data.context": "uniform" if finetuned else "first",
        "data.augment": None,
        "objectives.mask.mask": 2.0,
        "objectives.mask.dice": 0.5,
        "objectives.mask.points": 12544,
        "objectives.mask.oversample": 3.0,
        "objectives.mask.importance": 0.75,
        "objectives.mask.tracked": 0.0,
        "objectives.language.weight": 1.0,
        "model.scheduler.warmup": 0.05,
        "model.scheduler.final": 0.0,
        "trainer.max_epochs": 1,
        "trainer.max_steps": -1,
        "trainer.accumulate_grad_batches": 1 if finetuned else 4,
        "trainer.gradient_clip_val": 1.0,
        "trainer.precision": "bf16-mixed",
    }  # fmt: skip
    if finetuned:
        rows["seed_everything"] = 42
    return [(key, value, SA2VA_I if finetuned else SA2VA) for key, value in rows.items()]


def clip_sam(grown: bool = False, released: bool = False) -> list[Row]:
    """Rows of SAM + CLIP: referring, generalised (`grown`), or with the released code's behaviour."""
    network = "model.network"
    rows: dict[str, object] = {
        f"{network}.sam.variant": "sam_b",
        f"{network}.sam.image_size": 1024,
        f"{network}.tower.model": "ViT-L-14-336-quickgelu",
        f"{network}.tower.plain_gelu": False,
        f"{network}.tower.final_norm": False,
        f"{network}.text.trained_layers": 10 if released else None,
        f"{network}.preset": "released" if released else "default",
        f"{network}.sparse_source": "category_gt" if released else "cls",
        f"{network}.no_target": grown,
        f"{network}.sizes.queries": 100,
        f"{network}.sizes.layers": 3,
        f"{network}.sizes.pixel_layers": 6,
        f"{network}.sizes.heads": 8,
        f"{network}.sizes.hidden": 1024,
        "model.optimizer.class_path": "torch.optim.AdamW",
        "model.optimizer.lr": 5e-5,
        "model.optimizer.weight_decay": 0.05,
        "model.scheduler.milestones": [60000, 90000],
        "model.scheduler.gamma": 0.1,
        "data.size": 1024,
        "data.resize": "squash",
        "data.augment": None,
        "data.batch_size": 32,
        "objectives.decoder.bce": 2.0,
        "objectives.decoder.dice": 0.5,
        "objectives.decoder.canvas": 1024,
        "objectives.decoder.dilute": released,
        "objectives.queries.clip": 2.0,
        "objectives.queries.sentence": 1.0,
        "objectives.queries.mask": 5.0,
        "objectives.queries.dice": 5.0,
        "objectives.queries.background": 0.1,
        "objectives.queries.points": 12544,
        "objectives.queries.oversample": 3.0,
        "objectives.queries.importance": 0.75,
        "trainer.max_steps": 100000,
        "trainer.gradient_clip_val": 0.01,
        "trainer.accumulate_grad_batches": 1,
    }
    if grown:
        rows |= {"objectives.no_target.weight": 0.1, "objectives.no_target.classes": [0.9, 1.1]}
    return [(key, value, CLIP_SAM) for key, value in rows.items()]


# Three masks are predicted: the single mask's head gets no gradient in the released training and stays as it was.
DECODER = tuple(
    f"sam_mask_decoder.{part}"
    for part in ("transformer", "output_upscaling", "output_hypernetworks_mlps.1", "output_hypernetworks_mlps.2",
                 "output_hypernetworks_mlps.3", "conv_s0", "conv_s1", "mask_tokens", "iou_token", "obj_score_token")
)  # fmt: skip

SGMG = "arXiv 2307.13537, supplement, and released scripts (2 GPUs)"


def sgmg(stage: str, size: str) -> list[Row]:
    """Rows of an SgMg stage: `refcoco`, `ref_youtube_vos`, `ref_youtube_vos_scratch`, `a2d`; backbone `t` or `b`."""
    network, pictures, a2d = "model.network", stage == "refcoco", stage == "a2d"
    scratch = stage == "ref_youtube_vos_scratch"
    epochs, drops = {
        "refcoco": (11, [8, 10]),
        "ref_youtube_vos": (6, [3, 5]),
        "ref_youtube_vos_scratch": (10, [6, 8]),
        "a2d": (6, [3, 5]),
    }[stage]
    rows: dict[str, object] = {
        f"{network}.backbone.variant": size,
        f"{network}.backbone.size": None,
        f"{network}.text.pooler": True,
        f"{network}.text.frozen": not pictures,
        f"{network}.text.size.dropout": 0.1,
        f"{network}.dim": 256,
        f"{network}.heads": 8,
        f"{network}.hidden": 2048,
        f"{network}.encoder_layers": 4,
        f"{network}.decoder_layers": 4,
        f"{network}.points": 4,
        f"{network}.queries": 5,
        f"{network}.dropout": 0.1,
        f"{network}.fusion": "spectral",
        f"{network}.sigma": 7.0,
        f"{network}.conditional_patches": True,
        f"{network}.refine": True,
        f"{network}.train_multiple": 32,
        f"{network}.eval_multiple": 32 if pictures or a2d else 16,
        f"{network}.frames": "middle" if a2d else "all",
        f"{network}.proposals": a2d,
        **optimizer(5e-5 if scratch else 2.5e-5, 5e-4),
        "model.lr_scale": {r"^backbone\.": 0.5} | ({r"^language\.text\.": 0.1} if pictures else {}),
        "model.anew": [r"scores\..*"] if stage == "ref_youtube_vos" else None,
        "model.scheduler.epochs": epochs,
        "model.scheduler.drops": drops,
        "model.scheduler.gamma": 0.1,
        "objectives": ["sets"],
        "objectives.sets.classes": 2.0,
        "objectives.sets.boxes": 5.0,
        "objectives.sets.giou": 2.0,
        "objectives.sets.masks": 2.0,
        "objectives.sets.dice": 5.0,
        "objectives.sets.auxiliary": 1.0,
        "objectives.sets.alpha": 0.25,
        "objectives.sets.gamma": 2.0,
        "data.batch_size": 2 if pictures or a2d else 1,
        "trainer.max_epochs": epochs,
        "trainer.gradient_clip_val": 0.1,
        "trainer.precision": "16-mixed" if scratch else None,
    }
    if not pictures:
        rows |= {"data.clip_length": 5, "data.around": 5 if a2d else None, f"{network}.text.frozen_dropout": True}
    source, order = ("data.sources.refcoco", 1) if pictures else ("data", 2 if a2d else 0)
    scale = f"{source}.augment.{order}"
    rows |= {
        f"{source}.eval_size": [360, 640] if pictures or a2d else [360, 100000],
        f"{scale}.longest": 640,
        f"{scale}.first_sides": [400, 500, 600],
        f"{scale}.crop": [384, 600],
        f"{scale}.p": 0.5,
    }
    if pictures:
        rows |= {f"{scale}.whole_sides": list(range(480, 769, 32)), f"{scale}.whole_longest": 800}
    else:
        distortion = f"data.augment.{1 if a2d else 2}"
        rows |= {f"{distortion}.contrast": 0.2, f"{distortion}.saturation": 0.2, f"{distortion}.hue": 0.0}
        rows |= {f"{distortion}.channels": 0.2, f"{scale}.sides": [288, 320, 352, 392, 416, 448, 480, 512]}
    if stage.startswith("ref_youtube"):
        rows |= {"data.anchor_stride": 5, "data.sampling.p": 0.3}
    return [(key, value, f"{SGMG}, {stage}") for key, value in rows.items()]


TABLE: dict[str, list[Row]] = {
    "samwise_refcoco": samwise("refcoco"),
    "samwise_mevis": samwise("mevis"),
    "samwise_ref_youtube_vos": samwise("ref_youtube_vos"),
    "samwise_ref_davis": [
        row
        for row in samwise("ref_youtube_vos")
        if row[0].startswith(("model.network", "model.window", "data.eval", "data.size"))
    ],
    "sam_i2v": sam_i2v(),
    "sam_i2v_ta": sam_i2v("ta"),
    "sam_i2v_sa_ta": sam_i2v("sa_ta"),
    **{f"sa2va_{size}": sa2va(size) for size in ("1b", "4b", "8b", "26b")},
    "sa2va_i_ft_4b": sa2va("4b", finetuned=True),
    **{f"clip_sam_{name}": clip_sam() for name in ("refcoco", "refcoco_plus", "refcocog")},
    **{f"clip_sam_{name}": clip_sam(grown=True) for name in ("grefcoco", "ref_zom")},
    "clip_sam_released": clip_sam(released=True),
    **{
        f"sgmg_{stage}_{size}": sgmg(stage, size)
        for stage in ("refcoco", "ref_youtube_vos", "ref_youtube_vos_scratch", "a2d")
        for size in "tb"
    },
    "grounded_sam2_all_frames": [
        ("model.network.frames", "all", "arXiv 2411.17646, table 2"),
        ("model.network.segmenter.variant", "hiera_b+", "arXiv 2411.17646, table 2"),
    ],
    "grounded_sam2_first_frame": [
        ("model.network.frames", "first", "arXiv 2411.17646, table 2"),
        ("model.network.segmenter.variant", "hiera_b+", "arXiv 2411.17646, table 2"),
    ],
}

BATCH_IN_ALL = {
    **{
        f"clip_sam_{name}": (1, 32)
        for name in ("refcoco", "refcoco_plus", "refcocog", "grefcoco", "ref_zom", "released")
    },
    # recipe -> (GPUs of its header, samples in all that take part in a step)
    "samwise_refcoco": (4, 32),
    "samwise_mevis": (2, 4),
    "samwise_ref_youtube_vos": (2, 4),
    "sam_i2v": (8, 8),
    **{f"sa2va_{size}": (8, 64) for size in ("1b", "4b", "8b", "26b")},
    "sa2va_i_ft_4b": (64, 64),
    **{f"sgmg_{stage}_{size}": (2, 2) for stage in ("ref_youtube_vos", "ref_youtube_vos_scratch") for size in "tb"},
    **{f"sgmg_{stage}_{size}": (2, 4) for stage in ("refcoco", "a2d") for size in "tb"},
}
