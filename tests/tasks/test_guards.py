import pytest
import torch
from toy import ToyData, ToyDataset, ToyTask, trainer

from crossmamba.errors import DataError, UsageError
from crossmamba.tasks.guards import BadSampleCount, NonFiniteError, NonFiniteGuard, SubstituteBadSamples, parse_policy
from crossmamba.tasks.resume import ExactResume


class PoisonedData(ToyData):
    """Sample 7 holds an infinite input."""

    def train_dataset(self):
        dataset = super().train_dataset()
        clean = dataset.__class__.__getitem__

        class Poisoned(ToyDataset):
            def __getitem__(self, index):
                item = clean(self, index)
                return {**item, "x": item["x"] / 0} if index == 7 else item

        return Poisoned(self.size, self.seed)


class Overflow(torch.nn.Module):
    def forward(self, x):
        return torch.where(x.abs().amax() > 0, x / 0, x)


def run(folder, task, data, guard, **options):
    engine = trainer(folder, epochs=1, **options)
    engine.callbacks.append(guard)
    engine.fit(task, datamodule=data)
    return engine


def guard_with_repeat(policy="stop", folder=None):
    return NonFiniteGuard(policy, repeat=ExactResume(5).seed_batch, folder=folder)


def test_names_step_samples_and_module_and_saves_the_batch(tmp_path):
    with pytest.raises(NonFiniteError, match=r"step \d .*c7.*model\.0 \(Linear\), whose input is not finite") as error:
        run(tmp_path, ToyTask(), PoisonedData(), guard_with_repeat(folder=tmp_path))
    saved = torch.load(next(tmp_path.glob("nonfinite_step_*_rank_0.pt")), weights_only=True)
    assert "c7" in saved["clip_id"]
    assert not torch.isfinite(saved["x"]).all()
    assert "skip:N" in str(error.value)


def test_names_the_innermost_module_where_it_arises(tmp_path):
    task = ToyTask()
    task.model[3] = Overflow()
    with pytest.raises(NonFiniteError, match=r"arises in model\.3 \(Overflow\);|arises in model\.3 \(Overflow\)\."):
        run(tmp_path, task, ToyData(), guard_with_repeat())


def test_infinite_loss_with_finite_modules_counts(tmp_path):
    class Task(ToyTask):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + torch.inf

    with pytest.raises(NonFiniteError, match="arises in the loss"):
        run(tmp_path, Task(), ToyData(), guard_with_repeat())


def test_bad_gradient_of_a_finite_loss_counts(tmp_path):
    class Task(ToyTask):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + (self.model[0].bias * 0).abs().sqrt().sum()

    with pytest.raises(NonFiniteError, match=r"the gradient is not finite .*model\.0\.bias"):
        run(tmp_path, Task(), ToyData(), guard_with_repeat())


def test_skip_policy_leaves_the_weights_alone_and_counts(tmp_path):
    guard = guard_with_repeat("skip:1")
    task = ToyTask()
    with pytest.warns(UserWarning, match="step skipped"):
        run(tmp_path, task, PoisonedData(), guard)
    assert guard.skipped == 1
    # BatchNorm's running statistics are not part of the step; the weights are.
    assert all(torch.isfinite(parameter).all() for parameter in task.parameters())
    assert len(task.losses) == 4


def test_policy_is_parsed():
    assert (parse_policy("stop"), parse_policy("skip:3")) == (0, 3)
    with pytest.raises(UsageError, match="'ignore' is unknown"):
        parse_policy("ignore")


class BrokenSamples(ToyDataset):
    broken: frozenset[int] = frozenset({2})

    def __getitem__(self, index):
        if index in self.broken:
            raise DataError(f"frame {index}.png is empty")
        return super().__getitem__(index)


class BrokenData(ToyData):
    def train_dataset(self):
        return SubstituteBadSamples(BrokenSamples(self.size, self.seed), seed=self.seed)


def test_bad_samples_are_replaced_by_a_rule_and_counted(tmp_path):
    counter = BadSampleCount(limit=0.001)
    with pytest.warns(UserWarning, match=r"sample 2: frame 2\.png is empty"):
        run(tmp_path, ToyTask(), BrokenData(), counter)
    assert counter.table_values() == {"bad_samples": 1}
    one, two = (SubstituteBadSamples(BrokenSamples(11, 5), seed=5) for _ in range(2))
    chosen = []
    for epoch in range(6):
        one.set_epoch(epoch)
        two.set_epoch(epoch)
        assert one[2]["index"] == two[2]["index"] != 2
        chosen.append(one[2]["index"])
    assert len(set(chosen)) > 1


def test_too_many_bad_samples_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(BrokenSamples, "broken", frozenset({2, 3}))
    with pytest.raises(DataError, match="2 of 11 training samples cannot be read, more than the 1 allowed"):
        run(tmp_path, ToyTask(), BrokenData(), BadSampleCount(limit=0.001))
    monkeypatch.setattr(BrokenSamples, "broken", frozenset(range(11)))
    with pytest.raises(DataError, match="9 samples in a row"):
        SubstituteBadSamples(BrokenSamples(11, 5), seed=5)[0]
