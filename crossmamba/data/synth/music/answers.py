"""One function per template: the answer from the truth of a scene, or None where the question has no clear one.

What the words mean here, where the templates leave it open:

* "heard", "sound" in Audio questions: every voice, seen or not. "in the video" in Audio-Visual questions, and
  "sounding instrument": on the stage. An unseen voice may then play too and is not counted, it only distracts.
* first, last, before, after: by the moment of entering. At least one step (a tenth of the clip) lies between.
* loudest, lowest, louder: `LOUDER` times the loudness or more. Lowest is the softest of those on the stage that play.
* more rhythmic: `FASTER` times the strokes per second or more. Playing longer: by two steps or more.
* at the same time: two steps or more together, and no time at all together with any other kind on the stage.
* left, right of: the next column on that side, where all are of one kind. A column (`on the left`) is named where
  exactly one instrument of those meant stands in it. `What is the <LR> instrument of the <FL> sounding instrument?` is
  asked where all three columns are taken, else the picture would leave only one possibility.
* Audio comparisons: each kind has one voice. Audio-Visual comparisons that name kinds: of one of the two kinds two
  instruments on the stage play, else the places would say nothing that the names do not.
* `What kind of musical instrument is it?`, `Is this sound from the instrument in the video?`: one instrument is seen;
  for the second, all voices or none are its.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crossmamba.data.qa.templates import COUNTS, TEMPLATES, Template
from crossmamba.data.synth.music.scene import Concert, Instrument, Voice
from crossmamba.errors import UsageError

LOUDER = 1.5
FASTER = 1.5
LONGER_STEPS = 2
TOGETHER_STEPS = 2

Values = Sequence[str]
Answer = str | None
Playing = tuple[Instrument, Voice]


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _more(first: float, second: float, factor: float) -> Answer:
    """Whether the first is more, where one is `factor` times the other or more."""
    return _yes(first > second) if max(first, second) >= factor * min(first, second) else None


def _players(c: Concert) -> list[Playing]:
    """Who plays on the stage, in the order of entering."""
    pairs = [(t, v) for t, v in zip(c.stage.instruments, c.playing, strict=True) if v is not None]
    return sorted(pairs, key=lambda pair: pair[1].start)


def _heard(c: Concert, kind: str) -> list[Voice]:
    return [v for v in c.voices if v.kind == kind]


def _seen(c: Concert, kind: str) -> list[Instrument]:
    return [t for t in c.stage.instruments if t.kind == kind]


def _only(things: list[Instrument]) -> Instrument | None:
    return things[0] if len(things) == 1 else None


def _at(c: Concert, place: str, kind: str | None = None) -> tuple[Instrument, Voice | None] | None:
    """The only instrument in a column (of a kind), with its voice."""
    pairs = zip(c.stage.instruments, c.playing, strict=True)
    found = [(t, v) for t, v in pairs if t.place == place and kind in (None, t.kind)]
    return found[0] if len(found) == 1 else None


def _kind_of_all(things: Sequence[Instrument]) -> Answer:
    kinds = {t.kind for t in things}
    return kinds.pop() if len(kinds) == 1 else None


def _beside(c: Concert, thing: Instrument, side: str) -> Answer:
    """The kind of all in the next column on one side of an instrument that holds any."""
    if side not in ("left", "right"):
        return None
    towards = -1 if side == "left" else 1
    on_side = [t for t in c.stage.instruments if (t.column - thing.column) * towards > 0]
    nearest = min((abs(t.column - thing.column) for t in on_side), default=0)
    return _kind_of_all([t for t in on_side if abs(t.column - thing.column) == nearest])


def _extreme(starts: Sequence[int], which: str) -> int | None:
    """Position of the first or last to enter, where it is one alone; `starts` in order, two or more."""
    if len(starts) < 2:
        return None
    if which == "first":
        return 0 if starts[0] < starts[1] else None
    return len(starts) - 1 if starts[-1] > starts[-2] else None


# Audio


def sound_of_both(c: Concert, v: Values) -> Answer:
    """Are there <Object> and <Object> sound?"""
    return None if v[0] == v[1] else _yes(bool(_heard(c, v[0]) and _heard(c, v[1])))


def _heard_instruments(c: Concert, v: Values) -> Answer:
    return COUNTS[len(c.voices)]


def sound_of_one(c: Concert, v: Values) -> Answer:
    """Is there a <Object> sound?"""
    return _yes(bool(_heard(c, v[0])))


def _pair_heard(c: Concert, v: Values) -> tuple[Voice, Voice] | None:
    first, second = _heard(c, v[0]), _heard(c, v[1])
    return (first[0], second[0]) if v[0] != v[1] and len(first) == len(second) == 1 else None


def louder(c: Concert, v: Values) -> Answer:
    """Is the <Object> louder than the <Object>?"""
    pair = _pair_heard(c, v)
    return _more(pair[0].loudness, pair[1].loudness, LOUDER) if pair else None


def more_rhythmic(c: Concert, v: Values) -> Answer:
    """Is the <Object> more rhythmic than the <Object>?"""
    pair = _pair_heard(c, v)
    return _more(pair[0].rhythm, pair[1].rhythm, FASTER) if pair else None


def longer(c: Concert, v: Values) -> Answer:
    """Is the <Object> playing longer than the <Object>?"""
    pair = _pair_heard(c, v)
    if not pair:
        return None
    difference = (pair[0].end - pair[0].start) - (pair[1].end - pair[1].start)
    return _yes(difference > 0) if abs(difference) >= LONGER_STEPS * c.step else None


# Visual


def both_seen(c: Concert, v: Values) -> Answer:
    """Are there <Object> and <Object> instruments in the video?"""
    return None if v[0] == v[1] else _yes(bool(_seen(c, v[0]) and _seen(c, v[1])))


def number_seen(c: Concert, v: Values) -> Answer:
    """How many <Object> are in the entire video?"""
    return COUNTS[len(_seen(c, v[0]))]


def _kinds_seen(c: Concert, v: Values) -> Answer:
    return COUNTS[len({t.kind for t in c.stage.instruments})]


def one_seen(c: Concert, v: Values) -> Answer:
    """Is there a <Object> in the entire video?"""
    return _yes(bool(_seen(c, v[0])))


def _instrument_beside(c: Concert, v: Values) -> Answer:
    thing = _only(_seen(c, v[1]))
    return _beside(c, thing, v[0]) if thing else None


def _outermost(c: Concert, v: Values) -> Answer:
    columns = [t.column for t in c.stage.instruments]
    if len(set(columns)) < 2:
        return None
    edge = min(columns) if v[0] == "leftest" else max(columns)
    return _kind_of_all([t for t in c.stage.instruments if t.column == edge])


def _what_is_it(c: Concert, v: Values) -> Answer:
    thing = _only(list(c.stage.instruments))
    return thing.kind if thing else None


def _room(c: Concert, v: Values) -> Answer:
    return c.stage.room


# Audio-Visual: existential, location


def _always_playing(c: Concert, v: Values) -> Answer:
    if len(_seen(c, v[0])) != 1:
        return None
    voice = next((voice for t, voice in zip(c.stage.instruments, c.playing, strict=True) if t.kind == v[0]), None)
    return _yes(voice is not None and (voice.start, voice.end) == (0, c.seconds))


def _voiceover(c: Concert, v: Values) -> Answer:
    return _yes(bool(c.offscreen))


def _from_the_instrument(c: Concert, v: Values) -> Answer:
    if len(c.stage.instruments) != 1 or 0 < len(c.offscreen) < len(c.voices):
        return None
    return _yes(not c.offscreen)


def _first_sound_from(c: Concert, v: Values) -> Answer:
    voices = sorted(c.voices, key=lambda voice: voice.start)
    k, there = _extreme([voice.start for voice in voices], v[0]), _at(c, v[1])
    return None if k is None or there is None else _yes(there[1] is voices[k])


def _beside_first_sounding(c: Concert, v: Values) -> Answer:
    players = _players(c)
    k = _extreme([voice.start for _, voice in players], v[1])
    if k is None or len({t.column for t in c.stage.instruments}) < 3:
        return None
    return _beside(c, players[k][0], v[0])


def _where_loudest(c: Concert, v: Values) -> Answer:
    players = sorted(_players(c), key=lambda pair: pair[1].loudness, reverse=v[0] == "loudest")
    if len(players) < 2 or _more(players[0][1].loudness, players[1][1].loudness, LOUDER) is None:
        return None
    return players[0][0].place


def _at_the_same_time(c: Concert, v: Values) -> Answer:
    players = _players(c)
    own = [voice for _, voice in players if voice.kind == v[0]]
    if len(_seen(c, v[0])) != 1 or not own:
        return None
    shared: dict[str, int] = {}  # kind -> seconds together; of two of a kind the longer
    for t, voice in players:
        if t.kind != v[0]:
            overlap = min(own[0].end, voice.end) - max(own[0].start, voice.start)
            shared[t.kind] = max(shared.get(t.kind, 0), overlap)
    together = [kind for kind, time in shared.items() if time > 0]
    if len(together) != 1 or shared[together[0]] < TOGETHER_STEPS * c.step:
        return None
    return together[0]


# Audio-Visual: counting


def _sounding_instruments(c: Concert, v: Values) -> Answer:
    return COUNTS[len(_players(c))]


def _silent_instruments(c: Concert, v: Values) -> Answer:
    return COUNTS[sum(voice is None for voice in c.playing)]


def sounding_of_kind(c: Concert, v: Values) -> Answer:
    """How many sounding <Object> in the video？"""
    return COUNTS[sum(t.kind == v[0] for t, _ in _players(c))]


def _sounding_kinds(c: Concert, v: Values) -> Answer:
    return COUNTS[len({t.kind for t, _ in _players(c)})]


# Audio-Visual: comparative


def _pair_named(c: Concert, v: Values) -> tuple[Voice, Voice] | None:
    playing = [t.kind for t, _ in _players(c)]
    if v[1] == v[3] or max(playing.count(v[0]), playing.count(v[2])) < 2:
        return None
    first, second = _at(c, v[1], v[0]), _at(c, v[3], v[2])
    return _both_play(first, second)


def _pair_placed(c: Concert, v: Values) -> tuple[Voice, Voice] | None:
    return None if v[0] == v[1] else _both_play(_at(c, v[0]), _at(c, v[1]))


def _both_play(
    first: tuple[Instrument, Voice | None] | None, second: tuple[Instrument, Voice | None] | None
) -> tuple[Voice, Voice] | None:
    if first is None or second is None or first[1] is None or second[1] is None:
        return None
    return first[1], second[1]


def named_louder(c: Concert, v: Values) -> Answer:
    """Is the <Object> on the <LR> louder than the <Object> on the <LR>?"""
    pair = _pair_named(c, v)
    return _more(pair[0].loudness, pair[1].loudness, LOUDER) if pair else None


def named_more_rhythmic(c: Concert, v: Values) -> Answer:
    """Is the <Object> on the <LR> more rhythmic than the <Object> on the <LR>?"""
    pair = _pair_named(c, v)
    return _more(pair[0].rhythm, pair[1].rhythm, FASTER) if pair else None


def _placed_louder(c: Concert, v: Values) -> Answer:
    pair = _pair_placed(c, v)
    return _more(pair[0].loudness, pair[1].loudness, LOUDER) if pair else None


def _placed_more_rhythmic(c: Concert, v: Values) -> Answer:
    pair = _pair_placed(c, v)
    return _more(pair[0].rhythm, pair[1].rhythm, FASTER) if pair else None


# Audio-Visual: temporal

RANKS = ("first", "second", "third", "fourth", "fifth")


def _comes_in(c: Concert, v: Values) -> Answer:
    players = _players(c)
    rank = RANKS.index(v[0])
    starts = [voice.start for _, voice in players]
    known = starts[: rank + 2]  # all up to it, and the next, at different moments
    if len(players) < 2 or rank >= len(players) or len(set(known)) < len(known):
        return None
    return players[rank][0].kind


def _where_first(c: Concert, v: Values) -> Answer:
    players = _players(c)
    k = _extreme([voice.start for _, voice in players], v[0])
    return None if k is None else players[k][0].place


def _which_first(c: Concert, v: Values) -> Answer:
    players = [pair for pair in _players(c) if pair[0].kind == v[0]]
    if len(players) < 2 or len({t.place for t, _ in players}) < len(players):
        return None
    starts = [voice.start for _, voice in players]
    if len(set(starts)) == 1:
        return "simultaneously"
    k = _extreme(starts, v[1])
    return None if k is None else players[k][0].place


def _before_or_after(c: Concert, v: Values) -> Answer:
    players = _players(c)
    own = [voice.start for t, voice in players if t.kind == v[1]]
    others = [(t, voice.start) for t, voice in players if t.kind != v[1]]
    if len(_seen(c, v[1])) != 1 or not own or any(start == own[0] for _, start in others):
        return None
    return _kind_of_all([t for t, start in others if (start < own[0]) == (v[0] == "before")])


# fmt: off
ANSWERERS: tuple[Callable[[Concert, Values], Answer], ...] = (
    sound_of_both, _heard_instruments, sound_of_one, louder, more_rhythmic, longer, both_seen, number_seen,
    _kinds_seen, one_seen, _instrument_beside, _outermost, _what_is_it, _room, _always_playing, _voiceover,
    _from_the_instrument, _first_sound_from, _beside_first_sounding, _where_loudest, _at_the_same_time,
    _sounding_instruments, _silent_instruments, sounding_of_kind, _sounding_kinds, named_louder,
    named_more_rhythmic, _placed_louder, _placed_more_rhythmic, _comes_in, _where_first, _which_first,
    _before_or_after,
)
"""In the order of `qa.templates.TEMPLATES`."""
# fmt: on

POSITION = {template.text: k for k, template in enumerate(TEMPLATES)}


def answer(concert: Concert, template: Template | str, values: Values) -> Answer:
    """The answer of a question about a scene, None where it has no clear one.

    Args:
        concert: the truth.
        template: a template or its exact text.
        values: one a placeholder.

    Raises:
        UsageError: no such template, or another number of values.
    """
    text = template if isinstance(template, str) else template.text
    if text not in POSITION:
        raise UsageError(f"question {text!r} is none of the 33 templates.")
    slots = TEMPLATES[POSITION[text]].slots
    if len(values) != len(slots):
        raise UsageError(f"{text!r} takes {len(slots)} values, not {len(values)}: {list(values)}")
    return ANSWERERS[POSITION[text]](concert, values)
