"""Studies: the tables build, a study resumes, refuses what is not its own, and sums up right."""

import json
import statistics
from pathlib import Path

import pytest

from crossmamba.cli import main
from crossmamba.cli.configs import find_config
from crossmamba.errors import CrossmambaError, DataError, UsageError
from crossmamba.metrics.avqa import COLUMNS
from crossmamba.studies import STUDIES, study_of
from crossmamba.studies.ceilings import read_ceilings
from crossmamba.studies.result import plain_text, write_result
from crossmamba.studies.rows import BASES
from crossmamba.studies.run import Processes, StudyOptions, run_study, slug
from crossmamba.tasks.runner import parse

ROWS = [
    pytest.param(row, BASES[scale][row.model], id=f"{study.name}: {row.name}, {scale}")
    for study in STUDIES.values()
    for row in study.rows
    for scale in BASES
]


@pytest.mark.parametrize(("row", "config"), ROWS)
def test_every_row_builds_at_both_scales(row, config):
    cli = parse(["--config", str(find_config(config)), "--data.root", ".", *row.overrides])
    cli.build_without_weights()
    wanted = {part.rpartition(".")[2] for part in row.overrides if part.startswith("--model.model_args.")}
    assert wanted <= set(cli.config.model.init_args.model_args or {})


def test_table_2_and_its_configs_say_the_same():
    rows = {row.name: row.overrides for row in study_of("av-mamba-table2").rows}
    files = {"AP / CA": "ap_ca", "WP / CA": "wp_ca", "CM / CA": "cm_ca"}
    files |= {f"CM / CM {number}": f"cm_cm{k}" for k, number in enumerate(("I", "II", "III"), 1)}
    for name, file in files.items():
        cli = parse(["--config", str(find_config(f"avqa/table2_{file}")), "--data.root", "."])
        said = dict(zip(rows[name][::2], rows[name][1::2], strict=True))
        assert cli.config.model.init_args.model_args == {
            "space": said["--model.model_args.space"],
            "time": said["--model.model_args.time"],
        }


def test_names_of_rows_are_folders_of_their_own():
    for study in STUDIES.values():
        folders = [slug(row.name) for row in study.rows]
        assert len(set(folders)) == len(folders)
        assert all(folders)
        assert all(row.perturbations for row in study.rows)


SCORE = {"none": 0.5, "silence": 0.25, "blank": None}


class Pretend:
    """In place of the processes: trains and scores at once, and fails when it is told to."""

    def __init__(self):
        self.calls, self.fail_on = [], None

    def __call__(self, processes, arguments, log):
        self.calls.append(list(arguments))
        if self.fail_on and self.fail_on in arguments:
            raise CrossmambaError("it broke")
        if arguments[0] in ("data", "questions") or "prepared" in arguments[1]:
            return ""
        run = arguments[arguments.index("--run.dir") + 1] if "--run.dir" in arguments else arguments[-1]
        if arguments[0] == "train":
            Path(run).mkdir(parents=True, exist_ok=True)
            (Path(run) / "config.yaml").write_text("seed: 0\n")
            (Path(run) / "metrics.csv").write_text("step,epoch,seconds\n10,1,12.5\n")
            return ""
        seed = int(Path(arguments[1]).parent.name.removeprefix("seed"))
        scores = {}
        for name in arguments[arguments.index("--perturb") + 1].split(","):
            value = SCORE[name] if SCORE[name] is None else SCORE[name] + 0.1 * seed
            scores[name] = {"accuracy": dict.fromkeys(COLUMNS, value), "seconds_per_question": 0.001}
        about = {"name": "toy", "parameters": 1234}
        if "--media" in arguments:
            about |= self.of_actions(str(arguments[1]), scores, 0.5 + 0.1 * seed)
        return json.dumps({**about, "scores": scores})

    @staticmethod
    def of_actions(folder, scores, value):
        source = next((source for source in ("generic", "predicted", "oracle") if source in folder), "none")
        slots = ("verb", "noun", "action")
        accuracy = dict.fromkeys(slots, value)
        scores["none"] = {"accuracy": accuracy, "question_source": source, "seconds_per_clip": 0.001}
        about = {"task": "recognition", "question_source": source, "prior": dict.fromkeys(slots, 0.2)}
        return {**about, "probe": {} if source in ("none", "generic") else dict.fromkeys(slots, 0.4)}


@pytest.fixture
def pretend(monkeypatch):
    calls = Pretend()
    monkeypatch.setattr(Processes, "run", lambda self, arguments, log: calls(self, arguments, log))
    return calls


def options(tmp_path, **changes):
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    return StudyOptions(**{"root": root, "out": tmp_path / "out", "seeds": (0, 1), **changes})


def test_a_study_trains_and_scores_every_row_and_seed_once(tmp_path, pretend):
    study, chosen = study_of("avqa"), options(tmp_path, jobs=2)
    jobs = run_study(study, chosen, progress=False)
    assert len(jobs) == 18
    assert len(pretend.calls) == 36
    trained = [call for call in pretend.calls if call[0] == "train"]
    assert {call[call.index("--seed") + 1] for call in trained} == {"0", "1"}
    silent = [call for call in trained if "silence" in call]
    assert len(silent) == 6
    run_study(study, chosen, progress=False)
    assert len(pretend.calls) == 36  # nothing is done again
    run_study(study, options(tmp_path, seeds=(0, 1, 2)), progress=False)
    assert len(pretend.calls) == 54  # a seed more


def test_a_study_that_broke_goes_on(tmp_path, pretend):
    study, chosen = study_of("shmamba-ablations"), options(tmp_path, seeds=(0,))
    pretend.fail_on = "gram_mse"
    with pytest.raises(CrossmambaError, match="it broke"):
        run_study(study, chosen, progress=False)
    before, pretend.fail_on = len(pretend.calls), None
    half = tmp_path / "out" / "one-mamba-for-all" / "seed0"
    (half / "scores.json").unlink()
    (half / "run" / "finished").unlink()  # as if its training had been stopped
    jobs = run_study(study, chosen, progress=False)
    assert all(job.scores_file.exists() for job in jobs)
    resumed = [call for call in pretend.calls[before:] if "--resume" in call]
    assert [call[-1] for call in resumed] == [str(half / "run")]


def test_what_comes_before_the_rows_is_made_once_a_seed(tmp_path, pretend):
    study = study_of("action")
    rows = ("none", "shared_a, predicted", "text only, oracle")
    chosen = options(tmp_path, rows=rows, jobs=2, prepare=("--trainer.max_epochs", "1"))
    pretend.fail_on = "oracle"  # the first of the last three steps
    with pytest.raises(CrossmambaError, match="it broke"):
        run_study(study, chosen, progress=False)
    assert not any("--perturb" in call for call in pretend.calls)
    pretend.fail_on = None
    run_study(study, chosen, progress=False)
    prepared = tmp_path / "out" / "prepared" / "seed1"
    steps = [call for call in pretend.calls if str(prepared) in " ".join(call) and "--data.media" not in call]
    steps = [call for call in steps if "--media" not in call]
    kinds = [" ".join(call[:2]) if call[0] != "eval" else "eval" for call in steps]
    done = list(dict.fromkeys(map(tuple, steps)))
    assert len(done) == 11  # train, extract, 3 x eval, 6 x questions
    assert kinds[:2] == ["train --config", "data extract"]
    train = done[0]
    assert train[train.index("--seed") + 1] == "1"
    assert train[-2:] == ("--trainer.max_epochs", "1")
    rows_trained = [call for call in pretend.calls if call[0] == "train" and "--data.media" in call]
    assert len(rows_trained) == 6
    assert all(call[call.index("--data.media") + 1].startswith(str(prepared.parent)) for call in rows_trained)
    before = len(pretend.calls)
    run_study(study, chosen, progress=False)
    assert len(pretend.calls) == before
    with pytest.raises(UsageError, match="prepare was"):
        run_study(study, options(tmp_path, rows=rows), progress=False)


@pytest.mark.parametrize(("name", "task"), [("action", "recognition"), ("action-anticipation", "anticipation")])
def test_cross_fitting_asks_each_part_of_a_model_that_did_not_see_it(tmp_path, pretend, name, task):
    study = study_of(name)
    row = next(row.name for row in study.rows if row.name.startswith("shared_a, predicted"))
    chosen = options(tmp_path, seeds=(3,), rows=(row,), folds=3, prepare=("--trainer.max_epochs", "1"))
    text = write_result(study, chosen, run_study(study, chosen, progress=False), ["study", name])
    assert "cross-fitted, 3 folds by video" in text
    prepared = chosen.out / "prepared" / "seed3"
    (split,) = [call for call in pretend.calls if call[:2] == ["questions", "folds"]]
    assert split[3:7] == ["--folds", "3", "--seed", "3"]
    trained = [call for call in pretend.calls if call[0] == "train" and "folds" in call[call.index("--data.root") + 1]]
    asked = [call for call in pretend.calls if call[0] == "eval" and "folds" in call[1]]
    for fold, (train, judge) in enumerate(zip(trained, asked, strict=True)):
        folder = str(prepared / "folds" / str(fold))
        assert train[train.index("--data.root") + 1] == judge[judge.index("--data.root") + 1] == folder
        assert train[train.index("--data.media") + 1] == judge[judge.index("--media") + 1] == str(chosen.root)
        assert train[train.index("--run.dir") + 1] == judge[1] == f"{folder}/run"
        assert judge[judge.index("--split") + 1] == "test"  # the part's rows, without labels
        assert judge[judge.index("--task") + 1] == task
        assert train[-2:] == ["--trainer.max_epochs", "1"]
    assert len(trained) == 3
    (made,) = [call for call in pretend.calls if str(prepared / "questions" / "predicted" / "train.jsonl") in call]
    files = made[made.index("--predicted") + 1 : made.index("--out")]
    assert files == [str(prepared / "folds" / str(fold) / "predictions" / "test.csv") for fold in range(3)]
    whole = [call for call in pretend.calls if call[0] == "eval" and call[1] == str(prepared / "run")]
    assert [call[call.index("--split") + 1] for call in whole] == ["val", "test"]
    for other in (0, 2):
        with pytest.raises(UsageError, match="folds was 3"):
            run_study(study, options(tmp_path, seeds=(3,), rows=(row,), folds=other), progress=False)


def test_folds_that_are_none(tmp_path, pretend):
    with pytest.raises(UsageError, match="--folds 1"):
        run_study(study_of("action"), options(tmp_path, folds=1), progress=False)
    with pytest.raises(UsageError, match="avqa at scale small makes no questions"):
        run_study(study_of("avqa"), options(tmp_path, folds=5), progress=False)
    study, chosen = study_of("action"), options(tmp_path, rows=("none",), seeds=(0,))
    assert "folds" not in chosen.settings(study)  # a study from before there were folds goes on
    text = write_result(study, chosen, run_study(study, chosen, progress=False), ["study"])
    assert "no cross-fitting" in text


def test_ceilings_of_anticipation_and_of_sets_from_before_the_window(tmp_path):
    (tmp_path / "truth").mkdir()
    path = tmp_path / "truth" / "ceilings.json"
    half = {slot: {"mt5r_lift": 50.0} for slot in ("verb", "noun", "action")}
    known = {"seen_past": half, "last_action": half}
    window = {"verb": {"mt5r": 40.0}, "noun": {"mt5r": 30.0}, "action": {"mt5r": 20.0, "mt5r_heads": 10.0}}
    for held, count in ((known, 2), ({**known, "seen_window": window}, 3)):
        path.write_text(json.dumps({"anticipation": {"test": {"all": held}}}))
        lines = read_ceilings(tmp_path, "test", "action-anticipation").lines
        assert len(lines) == count
    assert lines["what the window shows, two heads"] == {"verb": 40.0, "noun": 30.0, "action": 10.0}
    assert lines["the past seen"]["action"] == 50.0


def test_the_table_of_actions_tells_sources_and_warns(tmp_path, pretend):
    study = study_of("action")
    chosen = options(tmp_path, rows=("none", "shared_a, oracle"))
    ceiling = {"verb": {"top1": 30.0}, "noun": {"top1": 20.0}, "action": {"top1": 10.0}}
    known = dict.fromkeys(("true_noun", "true_verb", "one_frame"), ceiling)
    (chosen.root / "truth").mkdir()
    (chosen.root / "truth" / "ceilings.json").write_text(json.dumps({"recognition": {"test": {"all": known}}}))
    text = write_result(study, chosen, run_study(study, chosen, progress=False), ["study", "action"])
    assert "ceiling: one frame" in text
    assert "question source: ORACLE" in text
    assert "question source: none" in text
    assert "**Oracle lines do not compare with the others**" in text
    assert "| *class prior of train* | 20.0" in text
    assert "| *words of oracle questions, a linear model* | 40.0" in text
    assert "a clip" in text
    result = json.loads((chosen.out / "study.json").read_text())
    assert [row["question_source"] for row in result["rows"]] == ["none", "oracle"]
    assert result["rows"][1]["beside"]["class prior of train"]["verb"] == pytest.approx([20.0, 20.0])


def test_other_settings_or_folders_are_refused(tmp_path, pretend):
    study = study_of("avqa")
    run_study(study, options(tmp_path, rows=("AVST",)), progress=False)
    with pytest.raises(UsageError, match=r"scale was 'small'"):
        run_study(study, options(tmp_path, scale="full"), progress=False)
    with pytest.raises(UsageError, match=r"study was 'avqa'"):
        run_study(study_of("av-mamba-table2"), options(tmp_path), progress=False)
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty"):
        run_study(study, options(tmp_path, out=other), progress=False)
    for wrong, words in (
        ({"seeds": (1, 1)}, "none twice"),
        ({"jobs": 0}, "--jobs is 0"),
        ({"scale": "huge"}, "huge"),
        ({"rows": ("AVTS",)}, "AVTS"),
    ):
        with pytest.raises(UsageError, match=words):
            run_study(study, options(tmp_path, **wrong), progress=False)
    with pytest.raises(DataError, match="no such folder"):
        run_study(study, options(tmp_path, root=tmp_path / "nowhere"), progress=False)


def test_the_table_has_means_spreads_ceilings_and_the_papers_numbers(tmp_path, pretend):
    columns = {"columns": dict.fromkeys(COLUMNS, 40.0)}
    ceilings = {
        "split": "test",
        "question_only": {"from_train": columns},
        "picture_only": {"expected": columns},
        "sound_only": {"expected": columns},
    }
    chosen = options(tmp_path, rows=("AVST",))
    (chosen.root / "ceilings.json").write_text(json.dumps(ceilings))
    study = study_of("avqa")
    text = write_result(study, chosen, run_study(study, chosen, progress=False), ["study", "avqa"])
    mean, deviation = 100 * statistics.fmean((0.5, 0.6)), 100 * statistics.stdev((0.5, 0.6))
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert f"{mean:.1f} ± {deviation:.1f}" in lines["AVST"]
    assert lines["AVST, sound silenced"].count("30.0 ± 7.1") == 13
    assert "| - |" in lines["AVST, picture blanked"]  # nothing to score there
    assert lines["*ceiling: question only*"].count("40.0") == 13
    assert "1,234 | 12 s | 1.00 ms" in lines["AVST"]
    assert (chosen.out / "study.md").read_text() == text
    result = json.loads((chosen.out / "study.json").read_text())
    assert result["rows"][0]["scores"]["All"] == pytest.approx([50, 60])
    assert result["rows"][2]["mean"]["All"] is None
    shown = plain_text(text)
    assert "|" not in shown
    assert "ceiling: question only" in shown

    (tmp_path / "second").mkdir()
    paper = options(tmp_path / "second", rows=("CM / CM III", "CM / CM II"))
    study = study_of("av-mamba-table2")
    text = write_result(study, paper, run_study(study, paper, progress=False), ["study"])
    assert "| CM / CM III | 74.67 | 79.27 | 70.62 | 73.63 |" in text
    assert "| CM / CM II | ? | 78.74 | ? | ? |" in text
    assert "ceiling" not in text


def test_ceilings_of_another_split_are_not_shown_and_damaged_ones_are_told(tmp_path):
    assert not read_ceilings(tmp_path, "test").lines
    (tmp_path / "ceilings.json").write_text('{"split": "test"}')
    assert not read_ceilings(tmp_path, "val").lines
    with pytest.raises(DataError, match="question_only"):
        read_ceilings(tmp_path, "test")
    (tmp_path / "ceilings.json").write_text("{")
    with pytest.raises(DataError, match=r"ceilings\.json"):
        read_ceilings(tmp_path, "test")


def test_processes_give_the_output_or_the_commands_own_words(tmp_path):
    processes = Processes(threads=1)
    assert processes.run(["--version"], tmp_path / "log.txt").strip()
    with pytest.raises(UsageError, match=r"exit code 2: no configuration 'avqa/demmo'"):
        processes.run(["train", "--config", "avqa/demmo"], tmp_path / "log.txt")
    assert "$ crossmamba --version" in (tmp_path / "log.txt").read_text()
    processes.stop()
    with pytest.raises(CrossmambaError, match="stopped"):
        processes.run(["--version"], tmp_path / "log.txt")


def test_the_command_lists_runs_and_explains(tmp_path, pretend, capsys):
    assert main(["study", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(study.name in listed and all(row.name in listed for row in study.rows) for study in STUDIES.values())
    (tmp_path / "root").mkdir()
    arguments = ["study", "avqa", "--data.root", str(tmp_path / "root"), "--out", str(tmp_path / "out"), "--seeds", "0"]
    extra = ["--train", "--trainer.max_epochs 1", "--rows", "SHMamba"]
    assert main([*arguments, *extra]) == 0
    assert "SHMamba, sound silenced" in capsys.readouterr().out
    assert pretend.calls[0][-2:] == ["--trainer.max_epochs", "1"]
    assert main([*arguments, *extra, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["study"] == "avqa"
    for wrong, words in (([], "the name of a study"), (["avqa"], "--data.root"), (["avq", *arguments[2:]], "avq")):
        assert main(["study", *wrong]) == 2
        assert words in capsys.readouterr().err
