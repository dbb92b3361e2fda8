"""Settings of all tests: hypothesis without a deadline, because these machines are shared, and one thread per process."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
settings.register_profile("semid", deadline=None, print_blob=True)
settings.load_profile("semid")
