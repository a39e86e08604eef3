"""Exact resume on a toy run of 3 epochs x 4 steps, stopped inside the process. Killed processes: test_killed.py."""

import pytest
import torch
from toy import StopAt, ToyData, fit, same_weights

from crossmamba.errors import CheckpointError, UsageError
from crossmamba.tasks.checkpoints import TrainingStopped
from crossmamba.tasks.resume import AtomicCheckpointIO, EpochSampler, load_checkpoint

VARIANTS = {
    "plain": {},
    "workers": {"data": {"num_workers": 2}},
    "accumulation": {
        "accumulate_grad_batches": 2,
        "data": {"batch_size": 2, "size": 12},
    },  # 3 steps an epoch
    "ragged accumulation": {"accumulate_grad_batches": 3},  # 4 batches: steps of 3 and 1
    "limited": {"limit_train_batches": 3},
    "max_steps": {"max_steps": 9, "epochs": 5},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run of each variant, made once."""
    done = {}

    def get(variant):
        if variant not in done:
            done[variant] = fit(tmp_path_factory.mktemp("whole"), **VARIANTS[variant])
        return done[variant]

    return get


def stop_and_resume(folder, stop, variant):
    """Runs until `stop`, then resumes; returns the second part."""
    if stop.how == "term":
        with pytest.raises(TrainingStopped) as stopped:
            fit(folder, stop=stop, **VARIANTS[variant])
        assert (stopped.value.step, stopped.value.exit_code) == (stop.step, 143)
    else:
        fit(folder, stop=stop, **VARIANTS[variant])
    return fit(folder, resume=True, **VARIANTS[variant])


CASES = [("plain", how, step) for how in ("kill", "term") for step in (1, 3, 4, 5, 8, 10)]
CASES += [("plain", "kill in validation", 4), ("plain", "kill in validation", 8), ("plain", "kill in validation", 12)]
CASES += [("workers", "kill", 5), ("workers", "term", 4), ("accumulation", "kill", 4), ("accumulation", "term", 2)]
CASES += [("ragged accumulation", "kill", 3), ("ragged accumulation", "term", 5), ("limited", "term", 5)]
CASES += [("limited", "kill", 6), ("max_steps", "kill", 7), ("max_steps", "term", 8)]


@pytest.mark.parametrize(("variant", "how", "step"), CASES)
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, whole, variant, how, step):
    reference = whole(variant)
    resumed = stop_and_resume(tmp_path, StopAt(step, how), variant)
    first_step = resumed.losses[0][0]
    assert first_step == step if how == "term" else first_step <= step
    assert resumed.losses == [entry for entry in reference.losses if entry[0] >= first_step]
    assert resumed.scores == [entry for entry in reference.scores if entry[0] > first_step]
    assert same_weights(resumed, reference)
    assert resumed.checkpoints.state_dict() == reference.checkpoints.state_dict()


def test_the_comparison_can_fail(tmp_path, whole):
    other = fit(tmp_path, data={"seed": 6})
    assert other.losses != whole("plain").losses
    assert not same_weights(other, whole("plain"))


def test_resume_with_other_settings_is_refused(tmp_path):
    fit(tmp_path, stop=StopAt(3, "kill"))
    with pytest.raises(UsageError, match=r"data\.batch_size: 3 then, 2 now"):
        fit(tmp_path, resume=True, data={"batch_size": 2})


def test_a_finished_run_resumed_does_nothing(tmp_path, whole):
    fit(tmp_path)
    again = fit(tmp_path, resume=True)
    assert again.losses == []
    assert same_weights(again, whole("plain"))


def test_more_epochs_continue_a_finished_run(tmp_path):
    fit(tmp_path, epochs=1)
    assert [step for step, _ in fit(tmp_path, resume=True, epochs=2).losses] == [4, 5, 6, 7]


def test_a_write_cut_short_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"step": 1}, path)

    def broken(_, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        io.save_checkpoint({"step": 2}, path)
    assert load_checkpoint(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_checkpoints_that_run_code_or_are_broken_are_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save({"module": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(CheckpointError, match=r"x\.ckpt"):
        load_checkpoint(path)
    path.write_bytes(b"PK\x03\x04 no")
    with pytest.raises(CheckpointError, match=r"x\.ckpt"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.parametrize("world", [1, 2, 3])
def test_sampler_covers_the_set_and_skips_without_shortening(world):
    ranks = [EpochSampler(10, seed=1, epoch=2, shuffle=True, rank=r, world=world) for r in range(world)]
    assert {index for rank in ranks for index in rank} == set(range(10))
    assert len({len(rank) for rank in ranks}) == 1
    later = EpochSampler(10, seed=1, epoch=2, shuffle=True, rank=0, world=world, skip=2)
    assert list(later) == list(ranks[0])[2:]
    assert len(later) == len(ranks[0])
    assert list(EpochSampler(10, seed=1, epoch=3, shuffle=True, world=world)) != list(ranks[0])
    exact = [index for r in range(world) for index in EpochSampler(10, rank=r, world=world, even=False)]
    assert sorted(exact) == list(range(10))


def test_empty_training_set_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"0 samples. gives no batch"):
        fit(tmp_path, data={"size": 0})


def test_batch_size_is_checked():
    with pytest.raises(UsageError, match="batch_size is 0"):
        ToyData(batch_size=0)
