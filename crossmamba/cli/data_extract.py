"""`crossmamba data extract`: computes the features of a data set's videos and questions."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from crossmamba.errors import UsageError

if TYPE_CHECKING:
    from crossmamba.extract.run import Report
    from crossmamba.extract.texts import Texts

HELP = "compute features of videos and questions with trained encoders"
DESCRIPTION = """Computes features of videos and questions, one file each, in MUSIC-AVQA's folders:

  vggish          vggish/                    [T, 128]            weights vggish
  clip_tokens     clip_patch-level_vit_b32/  [T, 50, 512]        weights clip_vit_b32
  clip_b32        frame_ViT-B32/             [T, 512]            weights clip_vit_b32
  clip_l14        frame_ViT-L14/             [T, 768]            weights clip_vit_l14
  clip_frame      frame_ViT-L14@336px/       [T, 768]            weights clip_vit_l14_336
  tome_patches    visual_tome14/             [T, 14, 1024]       weights tome_vit_l16_384
  resnet18_grid   res18_14x14/               [T, 512, 14, 14]    weights resnet18
  resnet18        res18/                     [T, 512]            weights resnet18
  r2plus1d        r2plus1d_18/               [T, 512]            weights r2plus1d_18
  small_sound     small_sound/               [T, 64]             weights small_sound
  small_picture   small_picture/             [T, h, w, 64]       weights small_picture
  clip_question   clip_qst/                  [1, 512]            weights clip_vit_b32, --tokenizer
  clip_words      clip_word/                 [1, 77, 512]        weights clip_vit_b32, --tokenizer
  clip_choices    clip_choices/              [4, 512]            weights clip_vit_b32, --tokenizer (AVQA)
  frames          avqa-frames-1fps/<video>/  %06d.jpg from 1     none

EPIC-KITCHENS-100 (epic100): tokens of each segment, OUT/tokens_NAME/<narration_id>.npy, [L, d], NAME one of avion_b,
avion_l, clip_b, clip_l, lavila_b, lavila_l, small_video, timesformer_b, videomae_b, videomae_l, vivit_b, vjepa2_l,
vjepa2_h, vjepa2_g; weights NAME, as published or the run folder of a MambaVL. Pictures may lie in any of the data set's
layouts. 16 frames of avion_b are 3,137 x 768 numbers, 9.6 MB a segment; --half halves it. With --task anticipation the
folder is OUT/tokens_NAME_anticipation. They are read as layout "features" with media OUT/tokens_NAME.

T is the video's whole seconds (0.1 s may lack at the end). Row t is second t: the sound of its first 0.96 s, the
picture at t + 0.5 s. MUSIC-AVQA is cut at 60 rows (some of its videos have 61 seconds); --seconds 60 also fills shorter
videos up, with their last picture and silence. A video is decoded once for all features.

Files that are there, of the right shape and whole, are kept: a stopped run continues where it was. Each folder has a
manifest.json with the encoder and the hash of its weights; a folder is never filled by two different encoders.
Under torchrun, item i is made by rank i modulo the number of ranks (and --workers processes of each rank).
Exit code 3 if a video could not be used; each is listed at the end and in OUT/extract-bad.jsonl."""
EXAMPLE = """crossmamba data extract music-avqa /data/MUSIC-AVQA --features vggish clip_tokens \\
      --weights vggish=vggish-10086976.pth clip_vit_b32=hf://openai/clip-vit-base-patch32/model.safetensors
  crossmamba data extract folder my/videos --features small_sound small_picture \\
      --weights small_sound=runs/tagging small_picture=runs/tagging --workers 2
  torchrun --no-python --nproc-per-node 4 crossmamba data extract music-avqa /data/MUSIC-AVQA \\
      --features resnet18_grid --weights resnet18=resnet18-f37072fd.pth --device cuda
  crossmamba data extract epic100 /data/EPIC-KITCHENS --features avion_b --weights avion_b=avion_finetune_cls.pt \\
      --sampling uniform --half --workers 4 --device cuda"""
DATASETS = ("music-avqa", "avqa", "epic100", "folder")
OFFICIAL_SECONDS = 60


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("dataset", choices=DATASETS, help="folder: ROOT is any folder of videos")
    parser.add_argument("root", metavar="ROOT", help="of the data set: its videos are in ROOT/videos")
    parser.add_argument("--features", nargs="+", required=True, metavar="NAME", help="which, see above")
    parser.add_argument(
        "--weights",
        nargs="+",
        action="extend",
        default=[],
        type=_pair,
        metavar="NAME=FILE",
        help="weights of each encoder: a file, hf://OWNER/REPO/FILE, or a run folder for the small ones",
    )
    parser.add_argument("--tokenizer", metavar="FOLDER", help="CLIP's tokenizer: vocab.json and merges.txt")
    parser.add_argument(
        "--annotations",
        metavar="NAME",
        default="json_update",
        help="MUSIC-AVQA: the version whose questions are read: json_update (default), json, v2 or r",
    )
    parser.add_argument("--out", metavar="DIR", help="where the feature folders are (default: ROOT)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N, mps or auto (default: cpu)")
    parser.add_argument(
        "--batch", type=int, default=32, metavar="N", help="seconds in one pass (default 32); segments go singly"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    _configure_epic(parser.add_argument_group("of epic100"))
    parser.add_argument("--seconds", type=int, metavar="N", help="exactly N rows for every video")
    parser.add_argument(
        "--max-seconds", type=int, metavar="N", help="cut longer videos (default: 60 for music-avqa, else never)"
    )
    parser.add_argument(
        "--small-size", type=int, default=64, metavar="PIXELS", help="side of small_picture's pictures (default 64)"
    )
    parser.add_argument("--silence-missing", action="store_true", help="take a video without sound as silent")
    parser.add_argument("--allow-bad", action="store_true", help="exit code 0 even if there are bad videos")
    parser.add_argument("--overwrite", action="store_true", help="delete these features' files and make them again")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


EPIC_OPTIONS = ("task", "split", "media", "layout", "sampling", "frames", "image_size", "activation", "half")
"""Arguments that only epic100 has."""
OTHER_OPTIONS = ("tokenizer", "seconds", "max_seconds", "silence_missing")
"""Arguments that it has not."""


def _configure_epic(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--task", choices=("recognition", "anticipation"), help="what is seen (default: recognition)")
    group.add_argument(
        "--split", nargs="+", choices=("train", "validation", "test"), help="default: all whose annotations are there"
    )
    group.add_argument("--media", metavar="DIR", help="where the pictures are (default: ROOT)")
    group.add_argument("--layout", choices=("auto", "frames", "videos", "chunks", "clips"), help="default: auto")
    group.add_argument(
        "--sampling", choices=("dense", "uniform"), help="dense (default): 2.13 s; uniform: the whole segment (AVION)"
    )
    group.add_argument("--frames", type=int, metavar="T", help="pictures of a segment (default: the encoder's, 16)")
    group.add_argument("--image-size", type=int, metavar="PIXELS", help="default: the encoder's, 224 (small_video 64)")
    group.add_argument(
        "--activation",
        choices=("gelu", "quick_gelu"),
        help="of avion (default gelu: what its code computes, though its scripts ask for the other) and lavila",
    )
    group.add_argument("--half", action="store_true", default=None, help="store float16")


def _pair(text: str) -> tuple[str, str]:
    """`"NAME=FILE"` to both."""
    name, _, source = text.partition("=")
    if not name or not source:
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=FILE, for example vggish=vggish-10086976.pth")
    return name, source


def run(args: argparse.Namespace) -> int:
    """Extracts; returns 3 if any video was bad."""
    weights = dict(args.weights)
    if len(weights) < len(args.weights):
        raise UsageError("--weights names an encoder twice")
    others = OTHER_OPTIONS if args.dataset == "epic100" else EPIC_OPTIONS
    if given := [name for name in others if getattr(args, name) not in (None, False)]:
        raise UsageError(f"--{given[0].replace('_', '-')} is not for {args.dataset}")
    report = _epic(args, weights) if args.dataset == "epic100" else _videos(args, weights)
    print(json.dumps(report.to_json()) if args.json else report.text)
    return 3 if report.bad and not args.allow_bad else 0


def _epic(args: argparse.Namespace, weights: dict[str, str]) -> Report:
    from crossmamba.extract.run_segments import extract_segments

    return extract_segments(
        args.features,
        args.root,
        args.out,
        weights=weights,
        splits=args.split or (),
        media=args.media,
        layout=args.layout or "auto",
        task=args.task or "recognition",
        mode=args.sampling or "dense",
        frames=args.frames,
        image=args.image_size,
        activation=args.activation,
        device=args.device,
        dtype="float16" if args.half else "float32",
        workers=args.workers,
        overwrite=args.overwrite,
    )


def _videos(args: argparse.Namespace, weights: dict[str, str]) -> Report:
    from crossmamba.extract.recipes import recipes_for
    from crossmamba.extract.run import extract_features, find_videos

    recipes = recipes_for(args.features)
    root = Path(args.root)
    longest = args.max_seconds
    if longest is None and args.seconds is None and args.dataset == "music-avqa":
        longest = OFFICIAL_SECONDS
    of_videos = any(recipe.of_videos for recipe in recipes)
    of_texts = args.dataset != "folder" and not all(recipe.of_videos for recipe in recipes)
    return extract_features(
        args.features,
        args.out or root,
        videos=find_videos(root if args.dataset == "folder" else root / "videos") if of_videos else (),
        texts=_texts(args.dataset, root, args.annotations) if of_texts else None,
        weights=weights,
        device=args.device,
        batch=args.batch,
        workers=args.workers,
        small_size=args.small_size,
        seconds=args.seconds,
        max_seconds=longest,
        silence=args.silence_missing,
        tokenizer=args.tokenizer,
        overwrite=args.overwrite,
    )


def _texts(dataset: str, root: Path, version: str) -> Texts:
    from crossmamba.extract.texts import avqa_texts, music_texts

    return music_texts(root, version) if dataset == "music-avqa" else avqa_texts(root)  # type: ignore[arg-type]
