"""For environments in which torchvision's build does not match torch's, as with torch for the CPU from some indexes."""

import importlib.util
import re
from pathlib import Path

import torch


def stub_torchvision():
    """Define torchvision's operators when its build does not match torch's: importing needs their names, no more."""
    found = importlib.util.find_spec("torchvision")
    if found is None:
        return None
    text = (Path(found.submodule_search_locations[0]) / "_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in sorted(set(re.findall(r"""register_(?:meta|fake)\("(?:torchvision::)?(\w+)"\)""", text))):
        try:
            library.define(f"{name}(Tensor picture) -> Tensor")
        except RuntimeError:
            continue  # a torchvision that matches has defined it
    return library  # the definitions live as long as it does
