"""Writes what was found: reproduction.json for programs."""

import json
from dataclasses import asdict
from pathlib import Path

from features.files import write_durably
from pipeline.reproduce.finding import Finding
from pipeline.reproduce.study import Study


def write(out: Path, study: Study, findings: list[Finding]) -> None:
    """Write reproduction.json into a folder."""
    told = [
        asdict(finding) | {"rows": [asdict(row) | {"verdict": row.verdict, "words": row.words} for row in finding.rows]}
        for finding in findings
    ]
    write_durably(out / "reproduction.json", json.dumps({"findings": told}, indent=1).encode())
