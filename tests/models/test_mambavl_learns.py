"""What can be learned from which side (spec §9, test 11): the video shows the verb, the questions tell the noun."""

import pytest
import torch

from crossmamba import create_model

CLASSES, WIDTH, TRAIN, TEST = 4, 16, 192, 96


@pytest.fixture(scope="module")
def clips():
    """Stored tokens (N, 6, 8), a noun question (N, 5) with one telling word, labels verb and noun (N,).

    The verb's direction is in one token of the video, at a random place; the noun's word at a random place of the
    question. The verb question is the same for all, so no text tells the verb and no video the noun.
    """
    generator = torch.Generator().manual_seed(0)
    count = TRAIN + TEST
    verb, noun = torch.randint(0, CLASSES, (2, count), generator=generator)
    video = torch.randn(count, 6, 8, generator=generator)
    place = torch.randint(0, 6, (count,), generator=generator)
    video[torch.arange(count), place] += 6 * torch.eye(8)[verb]
    asked = torch.randint(10, 20, (count, 5), generator=generator)
    asked[torch.arange(count), torch.randint(0, 5, (count,), generator=generator)] = 1 + noun
    return video, torch.full((count, 5), 9), asked, verb, noun


def accuracy(clips, fusion, *, video, text):
    """Test accuracy of (verb, noun), percent, after learning with the sides that are there."""
    torch.manual_seed(0)
    model = create_model(
        "mambavl_small", video="features", video_args=None, video_dim=8, words=20, width=WIDTH, d_state=4,
        fusion=fusion, verbs=CLASSES, nouns=CLASSES,
    )  # fmt: skip
    seen, generic, told, verb, noun = clips

    def logits(rows):
        asked = (generic[rows], told[rows]) if text else ()
        return model(seen[rows] if video else None, *asked)

    optimizer, order = torch.optim.AdamW(model.parameters(), 1e-2), torch.Generator().manual_seed(1)
    for _ in range(150):
        rows = torch.randint(0, TRAIN, (48,), generator=order)
        out = logits(rows)
        loss = torch.nn.functional.cross_entropy(out.verb, verb[rows])
        loss = loss + torch.nn.functional.cross_entropy(out.noun, noun[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        out = logits(slice(TRAIN, None))
    pairs = ((out.verb, verb), (out.noun, noun))
    return tuple(100 * (made.argmax(1) == label[TRAIN:]).double().mean().item() for made, label in pairs)


@pytest.mark.parametrize("fusion", ["shared_a", "concat"])
def test_each_side_teaches_what_it_shows(clips, fusion):
    verb, noun = accuracy(clips, fusion, video=True, text=False)
    assert verb > 85
    assert noun < 45  # chance is 25
    verb, noun = accuracy(clips, fusion, video=False, text=True)
    assert verb < 45
    assert noun > 85
    verb, noun = accuracy(clips, fusion, video=True, text=True)
    assert min(verb, noun) > 85
