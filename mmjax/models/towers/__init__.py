"""Towers, a file a kind: what an image or a text is stays here and in its modality."""

PAIR = ("image", "text")  # the parts that joints, objectives and evaluators are of by default
