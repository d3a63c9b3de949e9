"""Text as small bitmaps, in any script for which the machine has a font.

OpenCV's own fonts know Latin letters only, and drawing letters costs more than copying them: a label stays the same
for many pictures.
"""

from __future__ import annotations

import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np
import structlog
from PIL import Image, ImageDraw, ImageFont

from sentinel_pipeline.domain.frame import Pixels

log = structlog.get_logger(__name__)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_LONGEST = 80  # characters
_BUILT_IN_LAST = 0x7E  # the built-in font (Aileron) is asked for ASCII only
_SCRIPTS = (  # first letter, last letter, letters that only a font for this script has
    ("\u00a0", "\u024f", "é"),
    ("\u0370", "\u03ff", "Ω"),
    ("\u0400", "\u04ff", "Ж"),
    ("\u2000", "\u206f", "…"),
    ("\u3040", "\u30ff", "あア"),
    ("\u4e00", "\u9fff", "中"),
    ("\uac00", "\ud7a3", "가힣"),
)
# Where fontconfig is missing (slim containers): the usual names of fonts with Korean, Chinese and Japanese letters.
_KNOWN = ("NanumGothic*.ttf", "NotoSansCJK*.ttc", "NotoSansKR*.?tf", "wqy-microhei.ttc", "DejaVuSans.ttf")
_FONT_DIRS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path.home() / ".local/share/fonts")


@lru_cache(maxsize=512)
def text_mask(text: str, size: int) -> Pixels:
    """Return how much of each pixel ``text`` covers, (H, W) uint8, read-only. ``size``: letter height in pixels.

    H depends on ``size`` only, so that labels line up. Control characters become spaces, several spaces one; very long
    texts are cut.
    """
    clean = "".join(c if c.isprintable() else " " for c in text[:_LONGEST])
    # Word by word: of "person 12 83%" only the last changes from look to look, and drawing letters takes the time.
    words = [_word(word, size) for word in clean.split()] or [_word(" ", size)]
    space = np.zeros((words[0].shape[0], max(1, round(0.28 * size))), np.uint8)
    mask = np.hstack([part for word in words for part in (space, word)][1:])
    mask.flags.writeable = False
    return mask


@lru_cache(maxsize=512)
def _word(word: str, size: int) -> Pixels:
    font = _font_for(frozenset(c for c in word if ord(c) > _BUILT_IN_LAST), size)
    left, _, right, _ = font.getbbox(word)
    height = round(size * 1.4)
    image = Image.new("L", (max(1, round(right - left)), height))
    # "lm": left, vertically in the middle, whatever letters the text has.
    ImageDraw.Draw(image).text((-left, height / 2), word, fill=255, font=font, anchor="lm")
    return np.asarray(image).copy()


@lru_cache(maxsize=64)
def _font_for(letters: frozenset[str], size: int) -> Font:
    path = _system_font(_sample(letters)) if letters else None
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


def _sample(letters: frozenset[str]) -> str:
    """Return letters that stand for those of a text, so that each script is looked for once, not each word."""
    samples = {next((s for first, last, s in _SCRIPTS if first <= letter <= last), letter) for letter in letters}
    return "".join(sorted(samples))


@lru_cache(maxsize=64)
def _system_font(letters: str) -> str | None:
    """Return the file of a font that has all ``letters``, None when there is none (told once)."""
    found = _by_fontconfig(letters) if shutil.which("fc-list") else _by_name()
    usable = [path for path in found if path.lower().endswith((".ttf", ".otf", ".ttc"))]
    if usable:
        return min(usable, key=_plainness)
    log.warning(
        "no font has these letters, they are drawn as boxes", letters=letters, remedy="apt-get install fonts-nanum"
    )
    return None


def _by_fontconfig(letters: str) -> list[str]:
    charset = " ".join(f"{ord(c):x}" for c in letters)
    try:
        answer = subprocess.run(
            ["fc-list", "--format", "%{file}\n", f":charset={charset}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.splitlines()


def _by_name() -> list[str]:
    return [str(path) for name in _KNOWN for folder in _FONT_DIRS for path in sorted(folder.rglob(name))][:1]


def _plainness(path: str) -> tuple[bool, bool, str]:
    """Order fonts: upright sans-serif before the rest, then by name, so that the choice is always the same."""
    name = Path(path).stem.lower()
    fancy = any(word in name for word in ("italic", "oblique", "serif", "mono", "myeongjo", "light", "brush", "pen"))
    return (fancy, "bold" in name, path)
