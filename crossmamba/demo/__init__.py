"""`crossmamba demo`: the whole path on a synthetic set, for segmentation (`avs`) and question answering (`avqa`)."""
