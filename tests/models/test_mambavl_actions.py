"""MambaVL's head over actions: shapes, what it reads, its table in files, and that without it nothing changes."""

import pytest
import torch

from crossmamba import create_model, from_pretrained, save_pretrained
from crossmamba.errors import UsageError
from crossmamba.models.mambavl_actions import ActionHead, known_actions
from crossmamba.models.mambavl_stream import MambaVLStream

ACTIONS = [(0, 1), (2, 0), (2, 3)]


def small(**overrides):
    torch.manual_seed(0)
    options = {"video": "features", "video_dim": 8, "words": 20, "width": 8, "d_state": 4, "verbs": 3, "nouns": 4}
    return create_model("mambavl_small", **{**options, **overrides}).double().eval()


def inputs(batch=3):
    random = torch.Generator().manual_seed(1)
    video = torch.randn(batch, 5, 8, generator=random, dtype=torch.float64)
    return video, *torch.randint(1, 20, (2, batch, 6), generator=random)


def test_without_the_head_there_is_nothing_of_it():
    plain, same = small(), small(action_classes=0)
    assert plain(*inputs()).action is None
    assert known_actions(plain) == []
    assert plain.state_dict().keys() == same.state_dict().keys()
    assert not [key for key in plain.state_dict() if "action" in key]
    with_head = small(action_classes=7)
    more = sum(p.numel() for p in with_head.parameters()) - sum(p.numel() for p in plain.parameters())
    assert more == 7 * (2 * 8 + 1)
    for key, value in plain.state_dict().items():  # made last: the same seed gives the same model besides
        torch.testing.assert_close(with_head.state_dict()[key], value, rtol=0, atol=0)
    for slot in ("verb", "noun"):
        torch.testing.assert_close(getattr(plain(*inputs()), slot), getattr(with_head(*inputs()), slot))


@pytest.mark.parametrize("fusion", ["shared_a", "concat", "mlp", "cm_mamba", "none"])
def test_shapes(fusion):
    model = small(fusion=fusion, action_classes=7)
    video, verb, noun = inputs()
    output = model(video, *(() if fusion == "none" else (verb, noun)))
    assert (output.verb.shape, output.noun.shape, output.action.shape) == ((3, 3), (3, 4), (3, 7))


def test_it_reads_both_questions():
    model = small(action_classes=7)
    video, verb, noun = inputs()
    first = model(video, verb, noun)
    for other in (model(video, noun, noun), model(video, verb, verb)):
        assert (first.action - other.action).abs().max() > 1e-6


def test_it_can_be_the_product_of_the_other_two():
    model = small(action_classes=3)
    head = model.action_head
    head.learn(ACTIONS)
    verbs, nouns = (torch.tensor(slot) for slot in zip(*ACTIONS, strict=True))
    with torch.no_grad():
        rows = model.verb_head.weight[verbs], model.noun_head.weight[nouns]
        head.linear.weight.copy_(torch.cat(rows, dim=1))
        head.linear.bias.copy_(model.verb_head.bias[verbs] + model.noun_head.bias[nouns])
    output = model(*inputs())
    torch.testing.assert_close(output.action, output.verb[:, verbs] + output.noun[:, nouns])


def test_logits_of_the_papers_fusion_stay_additive():
    """g(video) + h(questions) + b: the second difference is 0 (spec 1.3)."""
    model = small(action_classes=7)
    video, verb, noun = inputs()
    both = [model(v, q, p).action for v in (video, video.flip(0)) for q, p in ((verb, noun), (noun, verb))]
    torch.testing.assert_close(both[0] - both[1], both[2] - both[3], rtol=0, atol=1e-12)


def test_a_stream_says_actions_too():
    model = small(action_classes=7)
    video, verb, noun = inputs()
    stream = MambaVLStream(model)
    stream.start(verb, noun)
    for token in video.split(1, dim=1):
        output = stream.step(token)
    torch.testing.assert_close(output.action, model(video, verb, noun).action)


def test_the_table_of_actions_is_in_the_file(tmp_path):
    model = small(action_classes=5).float()
    assert known_actions(model) == []
    model.action_head.learn(ACTIONS)
    save_pretrained(model, tmp_path, preprocessing={})
    again = from_pretrained(tmp_path)
    assert known_actions(again) == ACTIONS
    assert again.action_head.pairs[3:].tolist() == [[-1, -1], [-1, -1]]
    save_pretrained(small().float(), tmp_path / "plain", preprocessing={})  # as files from before there was a head
    assert from_pretrained(tmp_path / "plain").action_head is None


def test_what_does_not_fit():
    head = ActionHead(4, 2)
    with pytest.raises(UsageError, match=r"has 3 actions.*action_classes 3"):
        head.learn(ACTIONS)
    with pytest.raises(UsageError, match="action_classes is -1"):
        small(action_classes=-1)
