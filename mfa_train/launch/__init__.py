"""From a config to processes: on this machine, through SLURM, on hosts over ssh; one run or a sweep of them."""
