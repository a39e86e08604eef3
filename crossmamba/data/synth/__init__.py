"""The procedural world of sounding objects: numpy only, exact truth, official layouts.

worlds.py      settings                        scene.py   who, where, when (the plan of a clip)
looks.py       shape x hue x texture           render.py  plan -> pictures, sound, truth
voices.py      band x rhythm                   truth.py   the truth as json
schedule.py    the law of who sounds           ceiling.py reference scores from the truth
layout.py      paths of AVSBench S4 and MS3    synthesize.py, files.py  whole sets on disk
sheet.py       a picture of a few clips
"""

from crossmamba.data.synth.ceiling import reference_scores
from crossmamba.data.synth.render import Scene, render_plan, render_scene, render_video_frames, render_waveform
from crossmamba.data.synth.scene import ScenePlan, plan_scene
from crossmamba.data.synth.sheet import draw_contact_sheet
from crossmamba.data.synth.synthesize import synthesize
from crossmamba.data.synth.truth import SceneTruth
from crossmamba.data.synth.worlds import CLASS_NAMES, WORLDS, World, describe_world, get_world, single_source

__all__ = [
    "CLASS_NAMES",
    "WORLDS",
    "Scene",
    "ScenePlan",
    "SceneTruth",
    "World",
    "describe_world",
    "draw_contact_sheet",
    "get_world",
    "plan_scene",
    "reference_scores",
    "render_plan",
    "render_scene",
    "render_video_frames",
    "render_waveform",
    "single_source",
    "synthesize",
]
