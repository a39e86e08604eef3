"""`crossmamba questions make|check|folds`: questions about actions for models that read them; what they give away."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossmamba.errors import UsageError

if TYPE_CHECKING:
    from crossmamba.questions.make import Asked
    from crossmamba.questions.masking import Masker
    from crossmamba.questions.writer import ChatBackend

HELP = "make questions about actions, and check what they give away"
MAKE_EXAMPLE = (
    "crossmamba questions make --annotations EPIC_100_validation.csv --source predicted \\\n"
    "      --predicted runs/a/submission.json --out questions/validation.jsonl"
)
ENDPOINT_EXAMPLE = (
    "crossmamba questions make --annotations EPIC_100_train.csv --source oracle --writer endpoint \\\n"
    "      --url http://localhost:11434/v1 --model qwen3:8b --out questions/train.jsonl --dry-run"
)
CHECK_EXAMPLE = "crossmamba questions check questions/validation.jsonl --annotations EPIC_100_validation.csv"
FOLDS_EXAMPLE = "crossmamba questions folds data/kitchen --folds 5 --out runs/folds"
EXAMPLE = f"{MAKE_EXAMPLE}\n  {ENDPOINT_EXAMPLE}\n  {CHECK_EXAMPLE}\n  {FOLDS_EXAMPLE}"

_MAKE = """Writes two questions for each annotation row, one JSON object a line: one whose answer is the verb, one whose
answer is the noun. In the masked ones, words of both answers' classes are <mask>.

  --source generic     the same pair for every clip
  --source predicted   from the classes that a model predicted (--predicted); the truth is not looked at
  --source oracle      from the true classes: good for training; results with it are no results of a video model

Writers: templates (no network), endpoint (any server with OpenAI's chat protocol; the text of the annotations goes
there), transformers (a model on this machine). Answers of models are kept in --cache as they come: a stopped command
continues where it was, and asks nothing twice. A row whose answer fails gets a template, marked template_fallback; then
the exit code is 3, the file is written, and the command with --overwrite asks for those rows again."""
_CHECK = """Looks for words of the answers in the questions, as written and as masked, and measures how well the words
of the questions alone, without video, tell the classes: a linear model learns it from --train and --train-annotations,
otherwise from four fifths of the rows, five times. Exit code 3: a masked question names an answer, a row has no
question, or the questions of a generic file differ."""


_FOLDS = """Parts of the train split for cross-fitting, by video. A model's guesses of the rows that it learned from are
right more often than elsewhere, and so are questions made of them: better in training than in use. Here each of OUT/0,
OUT/1, ... is a data set's folder whose train rows are all others' and whose test rows, without labels, are the part's:

  for k in 0 1 2 3 4; do
    crossmamba train --config action/demo_kitchen --data.root OUT/$k --data.media ROOT --run.dir OUT/$k/run \\
        --model.model_args.text none --data.question_source none
    crossmamba eval OUT/$k/run --data.root OUT/$k --media ROOT --split test --out OUT/$k/predictions
  done
  crossmamba questions make --annotations ROOT/EPIC_100_train.csv --source predicted \\
      --predicted OUT/?/predictions/test.csv --out questions/predicted/train.jsonl

`crossmamba study action --folds 5` does all of it. The cost is one training for each part."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the three commands."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="make|check|folds")
    plain = argparse.RawDescriptionHelpFormatter
    make = commands.add_parser(
        "make",
        help="write the questions of an annotation file",
        description=_MAKE,
        epilog=f"example:\n  {MAKE_EXAMPLE}\n  {ENDPOINT_EXAMPLE}",
        formatter_class=plain,
    )
    _common(make)
    make.add_argument("--source", required=True, choices=("generic", "predicted", "oracle"))
    make.add_argument("--out", required=True, metavar="FILE", help="the questions, .jsonl")
    make.add_argument("--overwrite", action="store_true", help="replace FILE")
    make.add_argument("--seed", type=int, default=0, help="of the choice among templates (default 0)")
    make.add_argument(
        "--hint",
        choices=("none", "category"),
        default="category",
        help="what a template may tell of its answer: nothing, or the category of the class (default)",
    )
    make.add_argument(
        "--predicted",
        metavar="FILE",
        nargs="+",
        help="csv (narration_id, verb_class, noun_class) or a challenge submission (json); of several files each row "
        "may be in one, as `questions folds` explains",
    )
    make.add_argument("--bank", metavar="FILE", help="with --predicted: take questions of train rows from this file")
    make.add_argument("--writer", choices=("templates", "endpoint", "transformers"), default="templates")
    make.add_argument("--json", action="store_true", help="print the counts as JSON")
    models = make.add_argument_group("language models")
    models.add_argument("--url", help="of the endpoint, such as https://api.openai.com/v1")
    models.add_argument("--model", help="its name at the endpoint; for transformers a folder or a name on the Hub")
    models.add_argument("--key-env", metavar="NAME", help="environment variable that holds the key (default: none)")
    models.add_argument("--concurrency", type=int, default=4, help="requests at once (default 4)")
    models.add_argument("--timeout", type=float, default=60.0, help="seconds of one request (default 60)")
    models.add_argument("--retries", type=int, default=6, help="of one request (default 6)")
    models.add_argument("--temperature", type=float, default=0.7, help="of the endpoint's answers (default 0.7)")
    models.add_argument("--max-tokens", type=int, default=120, help="of one answer (default 120)")
    models.add_argument("--device", default="cpu", help="of a transformers model (default cpu)")
    models.add_argument("--cache", metavar="FILE", help="answers that came (default: OUT.cache)")
    models.add_argument("--dry-run", action="store_true", help="say what would be asked, and ask nothing")
    check = commands.add_parser(
        "check",
        help="say what questions give away",
        description=_CHECK,
        epilog=f"example:\n  {CHECK_EXAMPLE}",
        formatter_class=plain,
    )
    check.add_argument("questions", metavar="FILE", help="that `questions make` wrote")
    _common(check)
    check.add_argument("--train", metavar="FILE", help="questions that the probe learns from")
    check.add_argument("--train-annotations", metavar="CSV", help="their annotation file")
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    folds = commands.add_parser(
        "folds",
        help="split the train rows for cross-fitted questions",
        description=_FOLDS,
        epilog=f"example:\n  {FOLDS_EXAMPLE}",
        formatter_class=plain,
    )
    folds.add_argument("root", metavar="ROOT", help="folder with EPIC_100_train.csv and the other tables")
    folds.add_argument("--out", required=True, metavar="DIR", help="folder of the parts; made if it is not there")
    folds.add_argument("--folds", type=int, default=5, metavar="K", help="parts (default 5)")
    folds.add_argument("--seed", type=int, default=0, help="of the choice of videos (default 0)")
    folds.add_argument("--overwrite", action="store_true", help="write into DIR though it is not empty")


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotations", required=True, metavar="CSV", help="such as EPIC_100_validation.csv")
    parser.add_argument(
        "--classes",
        metavar="DIR",
        help="folder with EPIC_100_verb_classes.csv and EPIC_100_noun_classes.csv (default: that of --annotations)",
    )


def run(args: argparse.Namespace) -> int:
    """Makes, checks or splits."""
    return {"make": _make, "check": _check, "folds": _split}[args.command](args)


def _split(args: argparse.Namespace) -> int:
    from collections import Counter

    from crossmamba.questions.folds import write_folds

    out = Path(args.out)
    if out.exists() and not args.overwrite and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} is not an empty folder; name another, or give --overwrite")
    parts = write_folds(args.root, out, args.folds, args.seed)
    videos = Counter(parts.values())
    for fold in range(args.folds):
        print(f"{out / str(fold)}: {videos[fold]} videos held out of {len(parts)}")
    return 0


def _read(annotations: str, classes: str | None) -> tuple[list[Any], Masker]:
    from crossmamba.data.epic.annotations import read_rows
    from crossmamba.data.epic.classes import class_file, read_classes
    from crossmamba.questions.masking import Masker

    folder = Path(classes) if classes else Path(annotations).parent
    verbs = read_classes(class_file(folder, "verb_classes"), "verb")
    nouns = read_classes(class_file(folder, "noun_classes"), "noun")
    return read_rows(annotations, verbs=len(verbs), nouns=len(nouns)), Masker(verbs, nouns)


def _make(args: argparse.Namespace) -> int:
    from crossmamba.questions.make import asked_rows, make_questions
    from crossmamba.questions.predicted import QuestionBank, read_predicted_parts
    from crossmamba.questions.records import write_questions

    out = Path(args.out)
    _check_options(args, out)
    rows, masker = _read(args.annotations, args.classes)
    predicted = read_predicted_parts(args.predicted) if args.predicted else None
    bank = QuestionBank.read(args.bank) if args.bank else None
    backend = None
    bar: Any = None
    if args.writer != "templates":
        asked = asked_rows(rows, args.source, masker, predicted)
        if args.dry_run:
            return _dry_run(args, asked, masker, out)
        backend = _backend(args, masker, out)
        from tqdm import tqdm

        total = len({row.prompt(masker) for row in asked})
        bar = tqdm(total=total, desc="ask", unit="pair", file=sys.stderr, disable=None, leave=False)
    try:
        questions = make_questions(
            rows,
            args.source,
            masker,
            seed=args.seed,
            hint=args.hint,
            predicted=predicted,
            bank=bank,
            backend=backend,
            done=bar.update if bar is not None else lambda: None,
        )
    finally:
        if bar is not None:
            bar.close()
    write_questions(out, questions)
    return _summary(args, questions, backend, out)


def _check_options(args: argparse.Namespace, out: Path) -> None:
    if out.exists() and not args.overwrite and not args.dry_run:
        raise UsageError(f"--out {out} exists; name another file, or give --overwrite to replace it")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: the folder {out.parent} does not exist")
    if (args.source == "predicted") != bool(args.predicted):
        raise UsageError("--predicted FILE belongs to --source predicted, and only to it")
    if args.writer == "templates" and (args.dry_run or args.url or args.model):
        raise UsageError("--dry-run, --url and --model belong to --writer endpoint or transformers")
    if args.writer != "templates" and not args.model:
        raise UsageError(f"--writer {args.writer} needs --model")
    if (args.writer == "endpoint") != bool(args.url):
        raise UsageError("--url belongs to --writer endpoint, which needs it")


def _backend(args: argparse.Namespace, masker: Masker, out: Path) -> ChatBackend:
    from crossmamba.questions.cache import AnswerCache
    from crossmamba.questions.chat import Chat
    from crossmamba.questions.writer import ChatBackend

    chat: Chat
    if args.writer == "endpoint":
        from crossmamba.questions.http_chat import HttpChat

        chat = HttpChat(
            args.url,
            args.model,
            api_key_env=args.key_env,
            timeout=args.timeout,
            retries=args.retries,
            concurrency=args.concurrency,
            temperature=args.temperature,
            max_tokens=args.max_tokens,
        )
        if args.key_env and not chat.private:
            print(f"crossmamba: the key goes to {args.url} unencrypted", file=sys.stderr)
    else:
        from crossmamba.questions.local_chat import LocalChat

        chat = LocalChat(args.model, device=args.device, max_tokens=args.max_tokens)
    return ChatBackend(chat, masker, AnswerCache(_cache_path(args, out)))


def _cache_path(args: argparse.Namespace, out: Path) -> Path:
    return Path(args.cache) if args.cache else out.with_name(out.name + ".cache")


def _dry_run(args: argparse.Namespace, asked: list[Asked], masker: Masker, out: Path) -> int:
    plan = _backend(args, masker, out).plan([row.prompt(masker) for row in asked])
    tokens = plan.letters // 4
    report = {
        "rows": len(asked),
        "prompts": plan.prompts,
        "cached": plan.cached,
        "requests": plan.requests,
        "tokens_in": tokens,
        "tokens_out_most": plan.requests * args.max_tokens,
        "example": plan.example,
    }
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    print(f"{len(asked)} rows are {plan.prompts} different prompts; {plan.cached} are answered in the cache")
    print(f"would ask {plan.requests} times: about {tokens} tokens in, at most {plan.requests * args.max_tokens} out")
    print("nothing was asked; the second step of the first prompt would be:")
    for message in plan.example:
        print(f"--- {message['role']}\n{message['content']}")
    return 0


def _summary(args: argparse.Namespace, questions: list[Any], backend: ChatBackend | None, out: Path) -> int:
    from collections import Counter

    from crossmamba.questions.records import describe

    makers = Counter(question.source for question in questions)
    reasons = Counter(question.reason for question in questions if question.source == "template_fallback")
    report: dict[str, Any] = {"out": str(out), "question_source": args.source, "rows": len(questions), "makers": makers}
    if backend is not None:
        report |= vars(backend.counts)
    report["fallback_reasons"] = dict(reasons.most_common(10))
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        print(describe(args.source))
        print(f"{out}: {len(questions)} rows: {', '.join(f'{n} {maker}' for maker, n in sorted(makers.items()))}")
        if backend is not None:
            counts = backend.counts
            print(
                f"{counts.answers} answers of {backend.model}, {counts.cached} out of the cache; "
                f"{counts.tokens_in} tokens in, {counts.tokens_out} out"
            )
    for reason, count in reasons.most_common(3):
        print(f"crossmamba: {count} rows got a template: {reason}", file=sys.stderr)
    return 3 if reasons else 0


def _check(args: argparse.Namespace) -> int:
    from crossmamba.questions.leaks import check_questions
    from crossmamba.questions.records import read_questions

    if bool(args.train) != bool(args.train_annotations):
        raise UsageError("--train and --train-annotations belong together")
    rows, masker = _read(args.annotations, args.classes)
    train = None
    if args.train:
        folder = args.classes or str(Path(args.annotations).parent)
        train = (read_questions(args.train), _read(args.train_annotations, folder)[0])
    report = check_questions(read_questions(args.questions), rows, masker, train)
    print(json.dumps(report.to_json(), indent=1) if args.json else report.text)
    return 0 if report.ok else 3
