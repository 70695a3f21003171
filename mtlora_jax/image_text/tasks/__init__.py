"""The image-text tasks by name, in the order of the published task ids 0 to 3."""

PREFIXES = {"vqa": "vqa: ", "gqa": "gpa: ", "nlvr": "nlvr: ", "caption": "caption: "}
