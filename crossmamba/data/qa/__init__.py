"""Questions about music videos: MUSIC-AVQA and its relatives, and AVQA (spec §3).

templates.py     the 33 question templates, the 42 answers, how a template is filled
vocabulary.py    the 93 words, questions as word numbers
"""
