"""A sweep in few steps, and its report as tests read it."""

from __future__ import annotations

import json
from html.parser import HTMLParser

PROMPTS = ["a red circle moves to the right", "a <b>blue</b> \"square\" & 'more'\nmoves down"]
SEEDS = (0, 1, 7)
FEW = {"num_frames": 5, "num_inference_steps": 1, "video_num_inference_steps": 1, "scale": 2}
OPTIONS = ["--num-frames", "5", "--num-inference-steps", "1", "--video-num-inference-steps", "1"]
OPTIONS += ["--scale", "2", "--quiet", "--device", "cpu"]


class Page(HTMLParser):
    """The page's elements, and its text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text, self.rows = [], "", []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append(dict(attributes))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def tree_of(folder):
    return json.loads((folder / "report" / "measures.json").read_text())
