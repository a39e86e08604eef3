"""AVSBench (spec §2): five-second videos with a mask of what sounds for every second; S4 and MS3.

files.py         where its files lie, its index; logmel_file.py: the log-mel tensors it publishes, read safely
dataset.py       the set as a PyTorch data set
verify.py        checks a set on disk
"""
