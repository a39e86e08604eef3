"""Questions about music videos: MUSIC-AVQA and its relatives, and AVQA (spec §3).

templates.py     the 33 question templates, the 42 answers, how a template is filled
vocabulary.py    the 93 words, questions as word numbers
rows.py          one row of a MUSIC-AVQA annotation file
annotations.py   whole files: versions, duplicate ids, subsets; keys.py: ids of predictions, head and tail
splits.py        splits by video, videos that splits share
features.py      stored features, which seconds a model sees; h5.py: AVQA's .h5 files; raw.py: raw videos
inputs.py        sound and pictures of a video from any of these
music_avqa.py    MUSIC-AVQA as a data set; avqa.py, avqa_rows.py: AVQA; base.py: what both share
verify.py        checks a set on disk
"""
