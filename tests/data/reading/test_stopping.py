"""A process that fails ends the others, and then by its own error."""

import subprocess
import sys

PROGRAM = """
import subprocess, sys, time
from types import SimpleNamespace
from lightning.fabric.strategies.launchers import subprocess_script
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from tst_lightning.data.reading.stopping import end_waiting_processes

defaults = list(subprocess_script._ChildProcessObserver.__init__.__defaults__)
assert defaults == [5], "seconds between two looks of Lightning's observer"
subprocess_script._ChildProcessObserver.__init__.__defaults__ = (0.2,)
launcher = _SubprocessScriptLauncher(None, 2, 1)
launcher.procs = children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])]
children = list(children)
subprocess_script._launch_process_observer(launcher.procs)
time.sleep(0.5)
assert children[0].poll() is None
end_waiting_processes(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher)))
print(children[0].wait(5), flush=True)
time.sleep(1.0)  # as an interpreter with much to take down
sys.exit(2)
"""


def test_a_process_that_has_ended_the_others_keeps_its_own_status():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (2, "-9"), done.stderr
    assert "zombies" not in done.stderr
