"""Loads one model of the sample in a process of its own, so that nothing of it is known yet.

`python -m fusemount.bench.loader MODEL FOLDER` prints one JSON line. It times itself after its
libraries are imported.
"""

import json
import sys
import time

from fusemount.errors import UsageError
from fusemount.sample import require_libraries
from fusemount.sample_loading import SAMPLE_MODELS


def main() -> None:
    """Load what the command line names."""
    name, folder = sys.argv[1:]
    model = next(model for model in SAMPLE_MODELS if model.name == name)
    try:
        require_libraries()
        started = time.perf_counter()
        loaded = model.load(folder)
        seconds = time.perf_counter() - started
    except (OSError, UsageError) as error:
        sys.exit(f"{folder}: {error}")
    print(
        json.dumps(
            {
                "seconds": seconds,
                "loaded_bytes": loaded.size_bytes,
                "checksum": f"{loaded.checksum:08x}",
            }
        )
    )


if __name__ == "__main__":
    main()
