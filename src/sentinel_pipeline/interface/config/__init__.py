"""The configuration file: read, checked and translated into values of the domain; nothing behind it sees YAML.

``load_config`` is the way in; ``load_api`` and ``load_outbox`` read one section, for who asks a running program. A file
becomes a tree that knows its lines (``reading``, ``tree``, ``substitution``), is validated by the models
(``root_section`` and the sections below it) and by checks across sections (``references``, ``combinations``,
``unsupported``), and is translated (``translate``).
"""

from sentinel_pipeline.interface.config.loading import Config, load_api, load_config, load_outbox
from sentinel_pipeline.interface.config.problems import ConfigProblems, Problem, format_problems
from sentinel_pipeline.interface.config.schema import json_schema

__all__ = [
    "Config",
    "ConfigProblems",
    "Problem",
    "format_problems",
    "json_schema",
    "load_api",
    "load_config",
    "load_outbox",
]
