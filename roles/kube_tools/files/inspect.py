# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of the directories (arguments before "--") and links (after it) are there. Links that lead nowhere are not."""

import importlib.util
import json
import os
import platform
import sys

cut = sys.argv.index("--")
directories = [path for path in sys.argv[1:cut] if os.path.isdir(path)]
links = [os.readlink(path) for path in sys.argv[cut + 1 :] if os.path.islink(path) and os.path.exists(path)]
print(
    json.dumps(
        {
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "machine": platform.machine(),
            "ensurepip": importlib.util.find_spec("ensurepip") is not None,
            "directories": directories,
            "links": links,
        }
    )
)
