"""Rates and groups of MambaVL's recipes (the spec's acceptance test 9), and mixing of clips."""

import itertools

import pytest
import torch
from torch import nn

from crossmamba.errors import UsageError
from crossmamba.models import create_model
from crossmamba.tasks.action_optim import RateSchedule, action_groups, scheduled
from crossmamba.tasks.mixing import mix
from crossmamba.tasks.optim import build_optimizer

RECIPE = {"decay": "cosine", "epochs": 100, "warmup_epochs": 2, "warmup_start": 3e-6, "final_rate": 3e-5}
BASE, SCANS = 1e-3, 3e-3


def test_the_recipes_rates():
    ours = RateSchedule(**RECIPE)
    for peak in (BASE, SCANS):
        assert ours.rate(0, peak, BASE) == pytest.approx(3e-6)
        assert ours.rate(1, peak, BASE) == pytest.approx((3e-6 + peak) / 2)
        assert ours.rate(2, peak, BASE) == pytest.approx(peak)
        assert ours.rate(100, peak, BASE) == pytest.approx(3e-5)
        rates = [ours.rate(epoch / 10, peak, BASE) for epoch in range(1001)]
        assert max(abs(b - a) for a, b in itertools.pairwise(rates)) < peak / 10  # no jump anywhere


def test_the_official_jump_is_in_official_mode_alone():
    official, ours = RateSchedule(**RECIPE, official=True), RateSchedule(**RECIPE)
    assert official.rate(0, SCANS, BASE) == pytest.approx(3e-6)
    before, after = official.rate(2 - 1e-9, SCANS, BASE), official.rate(2, SCANS, BASE)
    assert before == pytest.approx(9.99e-4, rel=1e-3)
    assert after == pytest.approx(3.0e-3, rel=2e-3)
    assert ours.rate(2 - 1e-9, SCANS, BASE) == pytest.approx(ours.rate(2, SCANS, BASE))
    assert official.rate(2, BASE, BASE) == pytest.approx(9.99e-4, rel=1e-3)  # the cosine counts from the start
    assert official.rate(100, SCANS, BASE) == pytest.approx(3e-5)


def test_steps_and_a_low_peak():
    steps = RateSchedule(decay="step", epochs=50, drop_epochs=(19, 40))
    assert [steps.rate(epoch, 2e-5, 2e-5) for epoch in (0, 18.9, 19, 39, 40, 50)] == pytest.approx(
        [2e-5, 2e-5, 2e-6, 2e-6, 2e-7, 2e-7]
    )
    low = RateSchedule(**RECIPE)
    assert low.rate(100, 1e-5, BASE) == pytest.approx(1e-5)  # its peak is below the end's rate
    assert RateSchedule(decay="none", epochs=1).rate(0.5, 0.3, 1) == 0.3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"decay": "cosin"}, "cosin"), ({"warmup_epochs": -1}, "negative"), ({"drop_epochs": (4, 2)}, "must ascend")],
)
def test_wrong_schedules(wrong, words):
    with pytest.raises(UsageError, match=words):
        RateSchedule(**wrong)


def model(**options):
    return create_model("mambavl_small", video="features", video_dim=64, words=20, verbs=3, nouns=4, **options)


def groups(mambavl, optimization="ours", **changes):
    options = {"learning_rate": 1.0, "encoder_lr_scale": 0.5, "fusion_lr_scale": 3.0, "weight_decay": 0.1}
    made = action_groups(mambavl, **{**options, **changes}, optimization=optimization)
    names = {id(parameter): name for name, parameter in mambavl.named_parameters()}
    return {g["name"]: (g["lr"], g["weight_decay"], {names[id(p)] for p in g["params"]}) for g in made}


def test_groups_of_ours_and_of_the_released_code():
    mambavl = model()
    everything = {name for name, _ in mambavl.named_parameters()}
    ours, official = groups(mambavl), groups(mambavl, "official")
    for found in (ours, official):
        members = [name for _, _, part in found.values() for name in part]
        assert sorted(members) == sorted(everything)
    assert ours["fusion, no decay"][:2] == (3.0, 0.0)
    assert {"fusion.A_log", "fusion.branches.video.D"} & everything <= ours["fusion, no decay"][2]
    assert all(mambavl.get_parameter(name).ndim > 1 for name in ours["fusion"][2] | ours["rest"][2])
    assert "verb_head.bias" in ours["rest, no decay"][2]
    assert set(official) == {"fusion", "rest"}  # all decayed
    assert "fusion.A_log" in official["rest"][2]
    assert official["rest"][:2] == (1.0, 0.1)
    whole = create_model("mambavl_small", words=20, verbs=3, nouns=4)
    assert groups(whole)["encoder"][0] == 0.5
    whole.encoder.set_frozen(True)
    assert not any(name.startswith("encoder") for name in groups(whole))
    with pytest.raises(UsageError, match="oficial"):
        groups(mambavl, "oficial")


def test_every_group_follows_its_own_rate():
    mambavl = model()
    made = action_groups(
        mambavl, learning_rate=BASE, encoder_lr_scale=1, fusion_lr_scale=3, weight_decay=0, optimization="ours"
    )
    optimizer = build_optimizer("sgd", made)
    rates = scheduled(optimizer, RateSchedule(**RECIPE), base=BASE, steps_per_epoch=5)
    for _ in range(10):
        optimizer.step()
        rates.step()
    now = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert now["fusion, no decay"] == pytest.approx(SCANS)
    assert now["rest, no decay"] == pytest.approx(BASE)


def test_sgd_is_nesterovs():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = build_optimizer("sgd", [{"params": [parameter], "lr": 0.1, "weight_decay": 0.0}])
    for _ in range(2):
        optimizer.zero_grad()
        parameter.sum().backward()
        optimizer.step()
    assert parameter.item() == pytest.approx(1 - 0.1 * 1.9 - 0.1 * (1 + 0.9 * 1.9))


def test_mixup_and_cutmix_share_out_clips_and_labels():
    torch.manual_seed(0)
    clips = torch.arange(4.0).reshape(4, 1, 1, 1, 1).expand(4, 3, 2, 16, 16)
    mixed, how = mix(clips, mixup=0.8, cutmix=0)
    expected = how.share * clips + (1 - how.share) * clips[how.partner]
    torch.testing.assert_close(mixed, expected)
    for _ in range(10):
        cut, how = mix(clips, mixup=0, cutmix=1.0)
        own = torch.arange(4.0)
        kept = (cut == clips).float().mean(dim=(1, 2, 3, 4))[how.partner != own]
        torch.testing.assert_close(kept, torch.full_like(kept, how.share))
    tokens = torch.randn(4, 5, 8)
    assert mix(tokens, mixup=0.8, cutmix=0)[0].shape == tokens.shape
    with pytest.raises(UsageError, match="cutmix"):
        mix(tokens, mixup=0, cutmix=1)
