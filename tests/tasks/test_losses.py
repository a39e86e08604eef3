from types import SimpleNamespace

import pytest
import torch

from crossmamba.errors import UsageError
from crossmamba.tasks.losses import LOSSES, dice_per_frame, segmentation_loss


def frames(seed=0, batch=2, frames=3, side=8):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, frames, 1, side, side, generator=generator)
    masks = (torch.rand(batch, frames, 1, side, side, generator=generator) > 0.6).float()
    return logits, masks


def test_dice_is_the_published_formula():
    logits, masks = frames()
    p, g = torch.sigmoid(logits[1, 2, 0]).double(), masks[1, 2, 0].double()
    expected = 1 - 2 * (p * g).sum() / (((p * p).sum() + 0.001) + ((g * g).sum() + 0.001))
    assert dice_per_frame(logits, masks)[1, 2].double() == pytest.approx(expected.item(), abs=1e-6)


def test_black_frames_teach_nothing_under_dice_and_something_under_dice_bce():
    logits, masks = frames()
    masks[:, 1] = 0
    for name, teaches in (("dice", False), ("dice_bce", True)):
        leaf = logits.clone().requires_grad_()
        per_frame = LOSSES[name](leaf, masks)
        if not teaches:
            assert torch.equal(per_frame[:, 1], torch.ones(2))
        per_frame.sum().backward()
        assert bool(leaf.grad[:, 1].abs().any()) is teaches
        assert leaf.grad[:, 0].abs().any()


def test_only_annotated_frames_count():
    logits, masks = frames()
    annotated = torch.tensor([[True, False, False]] * 2)
    output = SimpleNamespace(logits=logits.requires_grad_(), intermediate=())
    loss = segmentation_loss("dice", output, masks, annotated)["loss"]
    assert loss.item() == pytest.approx(dice_per_frame(logits, masks)[:, 0].mean().item())
    loss.backward()
    assert logits.grad[:, 0].abs().any()
    assert not logits.grad[:, 1:].any()


def test_intermediate_outputs_are_weighted_and_summed():
    logits, masks = frames()
    other = frames(seed=1)[0]
    annotated = torch.ones(2, 3, dtype=torch.bool)
    output = SimpleNamespace(logits=logits, intermediate=(other, logits))
    parts = segmentation_loss("dice_bce", output, masks, annotated, intermediate_weight=0.5)
    single = [LOSSES["dice_bce"](x, masks).mean() for x in (logits, other)]
    assert parts["loss"].item() == pytest.approx((single[0] + 0.5 * (single[0] + single[1])).item(), rel=1e-6)
    assert segmentation_loss("dice", output, masks, annotated, 0.0).keys() == {"loss", "final"}


def test_softmax_ce_over_classes():
    logits = torch.randn(2, 3, 5, 4, 4)
    labels = torch.randint(0, 5, (2, 3, 1, 4, 4))
    got = LOSSES["softmax_ce"](logits, labels)
    log_p = logits[1, 2].log_softmax(0)
    expected = -log_p.gather(0, labels[1, 2]).mean()
    assert got[1, 2].item() == pytest.approx(expected.item(), rel=1e-5)


def test_unknown_loss_is_named():
    with pytest.raises(UsageError, match=r"focal.*dice_bce"):
        segmentation_loss("focal", SimpleNamespace(logits=None, intermediate=()), None, None)
