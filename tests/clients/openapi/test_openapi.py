"""schemathesis makes requests from the server's own description, good and bad, and holds the answers to
it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "unsupported_method,ignored_auth"
)


def test_answers_are_as_described(server: Any, tmp_path: Path):
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {server.key}"),
        *("--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-examples", "15", "--seed", "1"),
        *("--suppress-health-check", "all", "--request-timeout", "30", "--workers", "2"),
        *("--no-color", "--continue-on-failure"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path)
    print(done.stdout[-6000:])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Tested" in done.stdout or "generated" in done.stdout
