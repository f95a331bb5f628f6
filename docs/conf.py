"""How the documentation is built: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from tcae_cli import __version__

project = "tcae"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "generated"]
exclude_patterns = ["_ext"]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3
smartquotes = False  # they would make a dash of an option's two hyphens
default_role = "code"  # docstrings use single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"tcae {release}"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
