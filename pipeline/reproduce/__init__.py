"""The evidence: every table and figure of the papers, trained, measured and judged by one command, `semid reproduce`."""
