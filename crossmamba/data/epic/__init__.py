"""EPIC-KITCHENS-100 (spec §3): kitchen videos seen from the cook's head, cut into actions, a verb and a noun each.

annotations.py   rows of the csv files; classes.py: verb and noun classes, tail classes, unseen participants, actions
frames.py        from seconds to numbers of extracted pictures
sampling.py      which pictures of a segment, or before it, a model sees
layouts.py       extracted pictures, whole videos, cut clips; tars.py, chunks.py (parts of 15 s), features.py (tokens)
video.py         pictures of a video file at given times; pictures.py: one picture file; crops.py: the square of them;
                 randaug.py: random picture operations
dataset.py       the set as a PyTorch data set
verify.py        checks a set on disk; verify_media.py: its pictures
"""
