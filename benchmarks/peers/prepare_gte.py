"""Makes the input of gte-runtime.

python -m peers.prepare_gte checkpoint TOKENIZER CONFIG TARGET
python -m peers.prepare_gte bundle CHECKPOINT TARGET VARIANT...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    kind, *rest = sys.argv[1:]
    if kind == "checkpoint":
        from gte_export.random_checkpoint import write_random_checkpoint

        tokenizer, config, target = map(Path, rest)
        write_random_checkpoint(target, json.loads(config.read_text()), tokenizer=tokenizer)
    else:
        from gte_runtime.building.build import build

        build(Path(rest[0]), Path(rest[1]), variants=rest[2:])


if __name__ == "__main__":
    main()
