"""A page of `qctrun report` as a test looks at it: its tags, texts and pictures; and a browser, if there is one."""

import base64
import io
import os
import re
import shutil
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

VOID = {"meta", "img", "source", "br", "hr", "link", "input"}
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)


class Parsed(HTMLParser):
    """A page in pieces; unbalanced tags are noted in `faults`."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.faults, self._open = [], [], [], []
        self.feed(html)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self._open]

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if not self._open or self._open[-1] != tag:
            self.faults.append(f"</{tag}> after {self._open[-3:]}")
        else:
            self._open.pop()

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        """The attributes of every such tag."""
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def ids(self):
        return [attrs["id"] for _, attrs in self.tags if "id" in attrs]

    @property
    def words(self):
        """All text that is read, with single blanks."""
        return re.sub(r"\s+", " ", " ".join(self.texts))

    @property
    def sources(self):
        """Everything that a browser might fetch."""
        names = ("src", "srcset", "href", "action", "data", "poster")
        return [attrs[name] for _, attrs in self.tags for name in names if name in attrs]


def decoded(source):
    """The bytes of a picture in a data URI."""
    assert source.startswith("data:image/png;base64,")
    return base64.b64decode(source.split(",", 1)[1], validate=True)


def pixels(png):
    """The picture as an array (row, column, colour)."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def colours(picture):
    """How many different colours a picture has."""
    return len(np.unique(picture.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)))


def browse(page, *switches):
    """Open a page in a browser without a window; what it prints. Skipped where there is none."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here to open the page in")
    with tempfile.TemporaryDirectory() as profile:
        words = [browser, *SWITCHES, f"--user-data-dir={profile}", *switches, page.resolve().as_uri()]
        environment = {**os.environ, "HOME": profile}
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=120, env=environment, check=False
        )
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


def screenshot(page, width, height, *switches):
    """The page as a browser draws it, as an array (row, column, colour)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shot.png"
        browse(page, f"--window-size={width},{height}", f"--screenshot={path}", *switches)
        return pixels(path.read_bytes())
