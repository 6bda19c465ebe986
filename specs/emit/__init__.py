"""The C that specs/ stands for: one module for each side of it, one function for each file.

Imports the loader from the tree that this package is in, whatever else is installed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
