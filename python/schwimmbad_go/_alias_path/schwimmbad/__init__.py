"""Stands in PYTHONPATH of interpreters started under the alias; see `schwimmbad_go._alias`."""

import sys
from pathlib import Path

try:
    import schwimmbad_go._alias
except ModuleNotFoundError:
    # The parent found the package on its own sys.path. Last, as that directory may hold many others.
    sys.path.append(str(Path(__file__).resolve().parents[3]))
    import schwimmbad_go._alias

# This very module is what the path finder is about to hand out as "schwimmbad": it makes room for the package,
# which the import system then takes from sys.modules.
del sys.modules[__name__]
schwimmbad_go._alias.install()
sys.modules[__name__] = schwimmbad_go
