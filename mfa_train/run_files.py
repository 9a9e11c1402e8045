"""Folders in a run's folder that are there before the run is."""

LAUNCH = "launch"
"""The job as it was launched; see `mfa_train.launch.job`."""
LOGS = "logs"
"""What each rank said; see `mfa_train.launch.output`."""
