"""How the threads of a CPU wait for each other. To be imported before torch, whose threads read it when they are loaded.

A thread that has done its part of a product spins until the others have done theirs: GNU's OpenMP, with which PyTorch is
built for Linux, spins for milliseconds by default, since waking up a thread costs more time than the next product takes.
But where another program keeps one of the cores busy, the thread that is waited for may not be running, and the one that spins
keeps its core from it: training then falls to a twentieth of its speed. So threads spin here for so long as the next
product is usually away, and sleep after that. OMP_WAIT_POLICY or GOMP_SPINCOUNT of the environment are left as they are.
"""
import os

SPINS = 2000  # turns of a loop of some nanoseconds; fewer are faster beside a busy program, and slower on an idle machine

if not {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'} & os.environ.keys():
    os.environ['GOMP_SPINCOUNT'] = str(SPINS)
