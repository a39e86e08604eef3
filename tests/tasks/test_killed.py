"""Exact resume of real processes, killed by real signals: what the process left on disk is all there is to go on.

The processes are forked from a server that has imported everything once, so each starts in milliseconds.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import action_toy
import avqa_toy
import pytest
import torch
from toy import TINY

from crossmamba.cli.configs import find_config
from crossmamba.tasks.progress import read_table
from crossmamba.tasks.resume import load_checkpoint

HERE = Path(__file__).parent
CONFIG = """
seed: 5
run: {{checkpoint_every: 2, log_every: 1}}
model: {{class_path: toy.ToyTask}}
data: {{class_path: toy.ToyData, init_args: {{size: 11, num_workers: {workers}}}}}
trainer: {{max_epochs: 3, accelerator: cpu, enable_progress_bar: false, {trainer}}}
"""  # 3 epochs x 4 steps


def _train(arguments: list[str], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # of loader workers, as in a process started by hand
    sys.argv = ["crossmamba", "train", *arguments]
    torch.set_num_threads(1)
    from crossmamba.cli import main

    sys.exit(main(["train", *arguments]))


@pytest.fixture(scope="module")
def processes():
    """Runs `crossmamba train` in one or more fresh processes; returns their exit codes (-N for signal N)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["crossmamba.tasks.runner", "crossmamba.cli.train", "toy", "kill_callbacks"])
    old = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parents[1]), *([old] if old else [])])

    def run(arguments: list[str], ranks: int = 1, timeout: float = 200) -> list[int | None]:
        port = str(free_port())
        started = []
        for rank in range(ranks):
            environment = {"CUDA_VISIBLE_DEVICES": ""}
            if ranks > 1:
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
                environment |= {"LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            started.append(context.Process(target=_train, args=(arguments, environment)))
        for process in started:
            process.start()
        for process in started:
            process.join(timeout)
        codes = [process.exitcode for process in started]
        for process in started:
            if process.exitcode is None:
                process.kill()
        return codes

    yield run
    if old is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = old


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def config(folder: Path, workers: int = 0, trainer: str = "") -> str:
    path = folder / "toy.yaml"
    path.write_text(CONFIG.format(workers=workers, trainer=trainer))
    return str(path)


def kill_at(step: int, name: str, while_saving: bool = False) -> str:
    saving = str(while_saving).lower()
    arguments = f"{{step: {step}, name: {name}, while_saving: {saving}}}"
    return f"callbacks: [{{class_path: kill_callbacks.SignalAt, init_args: {arguments}}}]"


def result(run: Path) -> tuple[list[dict], dict, dict]:
    """All that must be equal: the table without the clock, the last checkpoint's state, the best's weights."""
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in read_table(run / "metrics.csv")]
    last = load_checkpoint(run / "checkpoints" / "last.ckpt")
    return rows, last, load_checkpoint(run / "checkpoints" / "best.ckpt")["state_dict"]


def assert_equal_runs(run: Path, whole: Path) -> None:
    (rows, last, best), (whole_rows, whole_last, whole_best) = result(run), result(whole)
    assert rows == whole_rows
    assert len(rows) == 12
    assert "val/score" in rows[-1]
    for ours, theirs in ((last["state_dict"], whole_last["state_dict"]), (best, whole_best)):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name, theirs in whole_last["optimizer_states"][0]["state"].items():
        ours = last["optimizer_states"][0]["state"][name]
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, processes) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert processes(["--config", config(folder), "--run.dir", str(folder / "run")]) == [0]
    return folder / "run"


def killed_and_resumed(folder: Path, processes, step: int, name: str, workers: int, while_saving: bool = False) -> Path:
    run = folder / "run"
    arguments = ["--config", config(folder, workers, kill_at(step, name, while_saving)), "--run.dir", str(run)]
    (code,) = processes(arguments)
    assert code == (143 if name == "SIGTERM" else -signal.SIGKILL)
    if name == "SIGTERM":  # the step that ran was finished and kept
        assert load_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == step
    # the callback that kills stands in the run's own config; the resumed run goes without it
    assert processes(["--resume", str(run), "--trainer.callbacks", "null"]) == [0]
    return run


FEW = [(step, name, 0) for name in ("SIGTERM", "SIGKILL") for step in (1, 3, 4, 5, 8, 11)]
FEW += [(4, "SIGTERM", 2), (6, "SIGKILL", 2)]
ALL = [(step, name, workers) for step in range(1, 13) for name in ("SIGTERM", "SIGKILL") for workers in (0, 2)]


@pytest.mark.parametrize(("step", "name", "workers"), FEW)
def test_killed_and_resumed_equals_uninterrupted(tmp_path, processes, whole, step, name, workers):
    assert_equal_runs(killed_and_resumed(tmp_path, processes, step, name, workers), whole)


@pytest.mark.slow  # every step, both signals, 0 and 2 workers; 34 cases took 9 minutes beside three trainings
@pytest.mark.parametrize(("step", "name", "workers"), [case for case in ALL if case not in FEW])
def test_killed_at_every_step(tmp_path, processes, whole, step, name, workers):
    assert_equal_runs(killed_and_resumed(tmp_path, processes, step, name, workers), whole)


def test_killed_while_a_checkpoint_is_written(tmp_path, processes, whole):
    assert_equal_runs(killed_and_resumed(tmp_path, processes, 6, "SIGKILL", 0, while_saving=True), whole)


def test_two_processes_agree_and_resume_exactly(tmp_path, processes, whole):
    """DDP over gloo: ranks end with equal weights and scores, and a stop of one rank stops and resumes both."""
    two = "strategy: ddp, devices: 2, accumulate_grad_batches: 2, "
    dump = "{class_path: toy.DumpWeights, init_args: {folder: '%s'}}"

    def start(name: str, callbacks: str) -> tuple[list[int | None], Path]:
        folder = tmp_path / name
        folder.mkdir()
        file = config(folder, trainer=f"{two} callbacks: [{callbacks}]")
        return processes(["--config", file, "--run.dir", str(folder / "run")], ranks=2), folder

    codes, once = start("once", dump % (tmp_path / "once"))
    assert codes == [0, 0]
    ranks = [torch.load(once / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.equal(ranks[0]["weights"][key], value) for key, value in ranks[1]["weights"].items())
    assert ranks[0]["scores"] == ranks[1]["scores"]
    assert ranks[0]["losses"] != ranks[1]["losses"]  # each had its own samples

    codes, twice = start("twice", "{class_path: kill_callbacks.SignalAt, init_args: {step: 3, name: SIGTERM}}")
    assert codes == [143, 143]
    assert processes(["--resume", str(twice / "run"), "--trainer.callbacks", "null"], ranks=2) == [0, 0]
    (rows, last, best), (once_rows, once_last, once_best) = result(twice / "run"), result(once / "run")
    assert rows == once_rows
    assert all(torch.equal(last["state_dict"][key], value) for key, value in once_last["state_dict"].items())
    assert all(torch.equal(best[key], value) for key, value in once_best.items())

    (code,) = processes(["--resume", str(once / "run"), "--trainer.callbacks", "null", "--trainer.devices", "1"])
    assert code == 2  # another number of processes cannot be exact, and is refused


def test_an_encoder_that_starts_frozen_learns_alike_on_all_processes(tmp_path, processes, world):
    """The encoder thaws after DDP has wrapped the model; if DDP missed its gradients the ranks would drift apart."""
    dump = f"[{{class_path: toy.DumpWeights, init_args: {{folder: '{tmp_path}'}}}}]"
    options = ["--trainer.devices", "2", "--model.freeze_picture_epochs", "1", "--trainer.callbacks", dump]
    arguments = ["--config", str(find_config("avs/demo")), "--data.root", str(world), *TINY.split(), *options]
    codes = processes([*arguments, "--trainer.strategy", "ddp", "--run.dir", str(tmp_path / "refused")], ranks=2)
    assert codes == [2, 2]
    assert not (tmp_path / "refused").exists()
    strategy = ["--trainer.strategy", "ddp_find_unused_parameters_true", "--model.warmup_steps", "0"]
    assert processes([*arguments, *strategy, "--run.dir", str(tmp_path / "run")], ranks=2) == [0, 0]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)["weights"] for rank in range(2)]
    assert all(torch.equal(ranks[0][name], value) for name, value in ranks[1].items())


def test_question_answering_killed_and_resumed_equals_uninterrupted(tmp_path, processes):
    """The real task: groups of questions about a video, unique videos in a batch, a metric over the split."""
    root = avqa_toy.make_set(tmp_path / "questions")
    arguments = ["--config", str(find_config("avqa/demo_av_mamba")), "--data.root", str(root), *avqa_toy.TINY.split()]
    assert processes([*arguments, "--run.dir", str(tmp_path / "whole")]) == [0]
    killer = "[{class_path: kill_callbacks.SignalAt, init_args: {step: 5, name: SIGKILL}}]"
    killed = [*arguments, "--run.checkpoint_every", "1", "--trainer.callbacks", killer, "--run.dir"]
    assert processes([*killed, str(tmp_path / "run")]) == [-signal.SIGKILL]
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 4
    assert processes(["--resume", str(tmp_path / "run"), "--trainer.callbacks", "null"]) == [0]
    (rows, last, best), (whole_rows, whole_last, whole_best) = result(tmp_path / "run"), result(tmp_path / "whole")
    assert rows == whole_rows
    assert all(torch.equal(last["state_dict"][name], value) for name, value in whole_last["state_dict"].items())
    assert all(torch.equal(best[name], value) for name, value in whole_best.items())


def test_actions_killed_and_resumed_equals_uninterrupted(tmp_path, processes):
    """The real task: random crops of clips, questions, a metric that keeps a split's logits; and two processes."""
    root = action_toy.make_set(tmp_path / "kitchen")
    config = str(find_config("action/demo_kitchen"))
    arguments = ["--config", config, "--data.root", str(root), *action_toy.CLIPS.split()]
    assert processes([*arguments, "--run.dir", str(tmp_path / "whole")]) == [0]
    killer = "[{class_path: kill_callbacks.SignalAt, init_args: {step: 5, name: SIGKILL}}]"
    killed = [*arguments, "--run.checkpoint_every", "1", "--trainer.callbacks", killer, "--run.dir"]
    assert processes([*killed, str(tmp_path / "run")]) == [-signal.SIGKILL]
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 4
    assert processes(["--resume", str(tmp_path / "run"), "--trainer.callbacks", "null"]) == [0]
    (rows, last, best), (whole_rows, whole_last, whole_best) = result(tmp_path / "run"), result(tmp_path / "whole")
    assert rows == whole_rows
    assert all(torch.equal(last["state_dict"][name], value) for name, value in whole_last["state_dict"].items())
    assert all(torch.equal(best[name], value) for name, value in whole_best.items())

    dump = f"[{{class_path: toy.DumpWeights, init_args: {{folder: '{tmp_path}'}}}}]"
    two = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.callbacks", dump]
    assert processes([*arguments, *two, "--run.dir", str(tmp_path / "two")], ranks=2) == [0, 0]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.equal(ranks[0]["weights"][name], value) for name, value in ranks[1]["weights"].items())
    unread = ["--data.question_source", "none", "--run.dir", str(tmp_path / "refused")]
    assert processes([*arguments, *two, *unread], ranks=2) == [2, 2]


def test_the_command_itself_stops_at_sigterm(tmp_path, whole, processes):
    """The installed way of starting, `python -m crossmamba train`, with nothing forked."""
    arguments = ["--config", config(tmp_path, trainer=kill_at(7, "SIGTERM")), "--run.dir", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "crossmamba", "train", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 143
    assert f"continue with: crossmamba train --resume {tmp_path / 'run'}" in done.stderr
    assert done.stdout == ""
    assert processes(["--resume", str(tmp_path / "run"), "--trainer.callbacks", "null"]) == [0]
    assert_equal_runs(tmp_path / "run", whole)
