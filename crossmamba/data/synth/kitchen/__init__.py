"""The kitchen world: long egocentric videos of a hand acting on things, in the layout of EPIC-KITCHENS-100.

The rules
---------
* 12 verbs are movements (`motions.py`), 16 nouns are things (`looks.py`), 67 actions are possible pairs. Take and put,
  open and close, turn-on and turn-off are each other's movement played backwards, picture by picture: one frame cannot
  tell them apart. Wash, mix and cut are paths of a hand over a thing at rest; shake, pour and squeeze move, tilt or
  press it.
* 3 to 8 things are on the table, three of them fixed. The noun is the one the hand acts on; the others are there to
  distract. A thing taken is gone until it is put back; lids stay open and lamps stay on until somebody changes that.
* The next action depends on the table and the last action by a law that is known exactly (`chain.py`): three of four
  follow one of eight activities (tea, salad, washing up ...), the others a skewed base law. So classes are as unequal
  as real ones, there are tail classes, and the best possible anticipation can be computed (`ceilings.py`).
* Told times lie around the true ones, so segments overlap or leave gaps; a told start is never after the true one, and
  one second before it nothing of the action is seen.
* Participants differ in skin, sleeve, table, hue and fixed things; of val and test about a third of the videos are of
  participants who are not in train. Video ids of two digits count frames at 60 a second, ids of three at 50, whatever
  the video's own rate, as in the real set.
* A narrator says the class's key in 7 of 10 cases, otherwise another of its words ("mug", "pick up"); one in four
  tellings of a put names a neighbour too, so `all_nouns` may have two.

How hard it is (default set, one seed, val split): the small video encoder with a short convolution over the time of 8
frames and two linear heads tells 77 % of the verbs and 51 % of the nouns after 10 epochs, a minute of one core; with
eight copies of the middle frame in place of the eight, 44 % of the verbs after 15, and take from put no better than by
chance. The train split's commonest verb is right in 21 %.

What a score here means: that a model found what a drawn hand does with which of some drawn things, and the chain it
follows. It says nothing of real kitchens. Ids, instances and numbers of classes are this world's, not the official
ones.

classes.py  verbs and nouns     chain.py   what comes next        motions.py      verbs as movements
looks.py    drawings            plan.py    who, when, what words  render.py       pictures
annotations.py  csv files       truth.py   truth/*.json           ceilings.py     reference scores
synthesize.py   whole sets      sheet.py   a picture of a few segments
"""

from crossmamba.data.synth.kitchen.ceilings import kitchen_ceilings
from crossmamba.data.synth.kitchen.chain import Kitchen
from crossmamba.data.synth.kitchen.classes import ACTIONS, NOUNS, VERBS
from crossmamba.data.synth.kitchen.plan import Video, draw_participant, plan_video
from crossmamba.data.synth.kitchen.render import KitchenPicture
from crossmamba.data.synth.kitchen.sheet import draw_kitchen_sheet
from crossmamba.data.synth.kitchen.synthesize import summarize_epic100, synthesize_epic100
from crossmamba.data.synth.kitchen.truth import read_truth

__all__ = [
    "ACTIONS",
    "NOUNS",
    "VERBS",
    "Kitchen",
    "KitchenPicture",
    "Video",
    "draw_kitchen_sheet",
    "draw_participant",
    "kitchen_ceilings",
    "plan_video",
    "read_truth",
    "summarize_epic100",
    "synthesize_epic100",
]
