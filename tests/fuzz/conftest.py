"""The number of cases: short in the suite; `FUZZ=long python -m pytest tests/fuzz` tries thousands of each reader."""

import os

import hypothesis

QUIET = dict(deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck))
hypothesis.settings.register_profile("short", max_examples=20, derandomize=True, **QUIET)
hypothesis.settings.register_profile("long", max_examples=3000, **QUIET)
hypothesis.settings.load_profile(os.environ.get("FUZZ", "short"))
