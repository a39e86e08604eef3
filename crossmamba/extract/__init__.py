"""Features of videos and questions by trained encoders, in MUSIC-AVQA's published folders (spec §3.3).

recipes.py     every feature: its folder, encoder and input        transforms.py  from a picture to an encoder's input
reading.py     one pass over a video, second by second             encoders.py    building, loading and running encoders
videos.py      one video to all its missing features               texts.py       questions and choices by CLIP
store.py       files that appear whole or not at all               manifest.py    how a folder's files were made
run.py         which items are whose, the report
segments.py    tokens of EPIC-KITCHENS-100's segments                run_segments.py  every split by every encoder
"""
