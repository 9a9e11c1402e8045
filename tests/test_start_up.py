"""Nothing is imported before it is needed: seconds of every start, told by what is there, not by a clock."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.end_to_end.conftest import SHORT


def imported(code: str, *names: str) -> set[str]:
    """Those of `names` that a new Python has imported where `code` calls `tell()`, which ends it."""
    code = (
        "import os, sys\n"
        "def tell(*_):\n"
        f"    print(*({set(names)} & set(sys.modules)), flush=True)\n"
        "    os._exit(0)\n" + code
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_doors_open_without_torch():
    assert imported("import train, mfa_train.cli; tell()", "numpy", "torch", "mfa_train.cli") == {"mfa_train.cli"}


@pytest.mark.real_command
def test_the_first_step_is_taken_without_what_it_does_not_use(prepared_data, tmp_path):
    """Inductor compiles, and W&B's public API is read by those who look for runs."""
    words = ["train.py", *SHORT, f"data_dir={prepared_data}", f"runs_dir={tmp_path}", "tracking.wandb=offline"]
    code = (
        f"sys.argv = {words}; import train; from mfa_train.tracking.run_log import RunLog\n"
        "RunLog.advance = tell; train.main()"
    )
    unused = ("torch._inductor.compile_fx", "wandb.apis.public", "datasets", "transformers", "pyarrow", "scipy")
    assert imported(code, *unused, "pandas", "matplotlib", "triton", "deepspeed", "wandb") == {"deepspeed", "wandb"}


def test_text_is_generated_without_a_compiler_and_without_deepspeed():
    unused = ("torch._dynamo", "deepspeed", "wandb", "transformers")
    assert imported("import mfa_train.training.closing_sample; tell()", *unused, "torch") == {"torch"}
