"""The concert world: procedural performances with all 33 questions of MUSIC-AVQA, and exact truth.

The rules
---------
* 22 kinds of instrument with MUSIC-AVQA's names, 8 of them by default. A kind has a look (shape x hue x texture) and a
  voice (pitch x partials x stroke). Each comes large and small: large ones are drawn larger and sound deeper.
* 1 to 4 instruments stand left, in the middle and right, in front of a wall (indoor) or a meadow (outdoor). Often two
  are of one kind, then one is large and one small: who of the two plays is told by the pitch.
* Each plays or stays silent; some clips have no sound from the stage at all ("foreign"). Up to two voices come from
  off-screen, always of kinds that are not seen.
* A voice sounds once: from the beginning to the end, or from one whole second to another. It has one loudness (three
  levels, factors of 2) and one rhythm (1.5, 3 or 6 strokes a second), each drawn alone and a little off.
* The picture is drawn first, without a sign of who plays (all sway alike); the sound is drawn given it, without a sign
  of who stands where. Only kind and size join them. So an answer to an audio-visual question needs both.
* Questions are asked only where their answer is clear, with margins (`answers.py`), and chosen so that no answer is
  more frequent than its cap (`questions.py`). What question, picture or sound alone can answer is computed
  (`ceilings.py`).

What a score here means: that a model found who plays, where and when, among invented objects that two colours and two
partials tell apart. It is no recording, and a model trained on it knows nothing of real instruments.

instruments.py  looks and voices        scene.py     who, where, when       render.py      pictures and sound
answers.py      33 answer functions     questions.py which are asked        posterior.py   what could have been
truth.py        scene_truth/*.json      ceilings.py  reference scores       synthesize.py  whole sets on disk
candidates.py   with which values        sheet.py    a picture of a few videos
"""

from crossmamba.data.synth.music.answers import answer
from crossmamba.data.synth.music.ceilings import music_ceilings
from crossmamba.data.synth.music.instruments import KINDS, SIZES, kinds_of_world
from crossmamba.data.synth.music.scene import PLACES, Concert, plan_concert
from crossmamba.data.synth.music.sheet import draw_concert_sheet
from crossmamba.data.synth.music.synthesize import summarize_music_avqa, synthesize_music_avqa
from crossmamba.data.synth.music.truth import ConcertTruth, read_truth

__all__ = [
    "KINDS",
    "PLACES",
    "SIZES",
    "Concert",
    "ConcertTruth",
    "answer",
    "draw_concert_sheet",
    "kinds_of_world",
    "music_ceilings",
    "plan_concert",
    "read_truth",
    "summarize_music_avqa",
    "synthesize_music_avqa",
]
