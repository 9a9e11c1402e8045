"""Where a run goes on, and what may have changed since."""
