"""EPIC-KITCHENS-100 (spec §3): kitchen videos seen from the cook's head, cut into actions, a verb and a noun each.

annotations.py  rows of the csv files
classes.py      verb and noun classes, tail classes, unseen participants, the list of actions
frames.py       from seconds to numbers of extracted pictures
"""
