"""`train FILE.yaml ...`: leaves the log that the test wrote; STAND_IN=fails ends with an
error, STAND_IN=on-a-gpu may not be told to use the CPU. There alone bitsandbytes may repack
weights."""

import os
import shutil
import sys
from pathlib import Path

from bitsandbytes.nn import modules

from llamafactory.hparams import get_train_args

assert sys.argv.pop(1) == "train"
config = get_train_args()[0]
if os.environ.get("STAND_IN") == "fails":
    sys.exit("CUDA out of memory, says the stand-in")
assert os.environ["RECORD_VRAM"] == "1"
is_on_cpu = os.environ.get("STAND_IN") != "on-a-gpu"
assert hasattr(config, "use_cpu") is is_on_cpu
assert modules.has_avx512bf16() is not is_on_cpu
Path(config.output_dir).mkdir(parents=True, exist_ok=True)
shutil.copy(os.environ["STAND_IN_LOG"], Path(config.output_dir, "trainer_log.jsonl"))
