"""A sweep whose two members sleep for an hour: `sleeping_sweep.py FOLDER`. Each first writes its environment to a file
of FOLDER that is named after its process id."""

import sys

from mfa_train import config as configs
from mfa_train.launch.sweep import _Sweep

folder = sys.argv[1]
sleeper = f"import os, time; open('{folder}/' + str(os.getpid()), 'w').write(str(dict(os.environ))); time.sleep(3600)"
members = configs.members(["seed=1,2", "sweep.parallel=2", f"runs_dir={folder}/runs"])
_Sweep(members, [sys.executable, "-c", sleeper]).run()
