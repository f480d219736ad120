"""This process among those that torchrun started, or the only one: rank, device, number format, sums over all.

Training and evaluation run the same under `python` and under `torchrun --nproc_per_node=N`. This file knows nothing
about models or data.
"""
import contextlib
import datetime
import gc
import importlib
import os
import platform

import torch
import torch.distributed as dist
from tqdm import tqdm

from runtime import hardware
from runtime.errors import BadInput, ProcessesLost, first_line, raised_by_all


class Process:
    """rank, world_size, is_first, device and dtype of this process, by the keys `device` and `dtype` of a config."""

    def __init__(self, config, float32_precision='high'):
        """float32_precision: of products that stay in float32, 'high' (TF32 on GPUs that have it) or 'highest'.

        With the key `deterministic` or `reproducible`, operations that would add up in an order that changes are replaced or
        raise an error. `reproducible` also makes 1 the default of `threads`: a product on two threads may be rounded in
        another way than on one.
        """
        self.rank = int(os.environ.get('RANK', 0))
        self.world_size = int(os.environ.get('WORLD_SIZE', 1))
        self.is_first = self.rank == 0
        self.timeout_s = config.get('timeout_s', 600)  # a process that waits longer for the others ends with an error
        self.device = hardware.pick_device(config['device'], int(os.environ.get('LOCAL_RANK', 0)))
        self.dtype = hardware.pick_dtype(config['dtype'], self.device)
        threads = config.get('threads') or (1 if config.get('reproducible') else 0)
        hardware.set_threads(self.device, int(os.environ.get('LOCAL_WORLD_SIZE', 1)), threads)
        hardware.keep_freed_memory(self.device)
        torch.set_float32_matmul_precision(float32_precision)
        if config.get('deterministic') or config.get('reproducible'):
            os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # cuBLAS reads it when it is first used
            os.environ.setdefault('TORCHINDUCTOR_DETERMINISTIC', '1')  # else compiled sums are chosen by their speed
            torch.use_deterministic_algorithms(True)
        if self.device.type == 'cuda':
            torch.cuda.set_device(self.device)
        if self.world_size > 1:
            # DDP and ZeRO import these. Imported later, they keep the group of processes for ever: its threads then outlive
            # `end`, and one that runs while Python's exit takes everything down may abort the process.
            for name in ('torch._dynamo', 'torch.distributed.optim'):
                importlib.import_module(name)
            # Workers that torchrun starts again would find the addresses of the dead ones in its store, and wait for them.
            store, rank, world_size = next(dist.rendezvous('env://'))
            store = dist.PrefixStore(f'start {os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}', store)
            on_gpu = self.device.type == 'cuda'
            dist.init_process_group('nccl' if on_gpu else 'gloo', store=store, rank=rank, world_size=world_size,
                                    timeout=datetime.timedelta(seconds=self.timeout_s),
                                    device_id=self.device if on_gpu else None)

    def sum(self, values):
        """The sums over all processes of a tensor, or of a list of numbers and tensors of any shape, as a list of floats."""
        dtype = torch.float32 if self.device.type == 'mps' else torch.float64
        values = [values] if isinstance(values, torch.Tensor) else values
        values = torch.cat([torch.as_tensor(value).to(self.device, dtype).flatten() for value in values])
        if self.world_size > 1:
            dist.all_reduce(values)
        return values.tolist()

    def gather(self, value):
        """A number of each process, by rank, as a list of floats on every process."""
        return self.sum([value if rank == self.rank else 0 for rank in range(self.world_size)])

    @raised_by_all()
    def check_same_step(self, step):
        """Raises BadInput, in all processes, if they do not all resume at the same step."""
        steps = self.gather(step)
        if min(steps) != max(steps):
            raise BadInput(f'the processes found different checkpoints (steps {min(steps):,.0f} to {max(steps):,.0f}): '
                           f'out_dir must be a folder that all machines share')

    @raised_by_all()
    def on_first(self, work):
        """Calls work() on the first process alone. If it fails, all raise BadInput, so that none waits for the others."""
        problem = None
        if self.is_first:
            try:
                work()
            except BadInput as error:
                problem = str(error)
            except OSError as error:
                problem = first_line(error)
        if self.world_size > 1:
            shared = [problem]
            dist.broadcast_object_list(shared, src=0)
            problem = shared[0]
        if problem is not None:
            raise BadInput(problem)

    def autocast(self):
        return hardware.autocast(self.device, self.dtype)

    @contextlib.contextmanager
    def lost_in_one_line(self):
        """Makes of an error of the exchange between processes a ProcessesLost. NCCL ends a process by itself, with a log."""
        try:
            yield
        except RuntimeError as error:  # gloo's errors have no type of their own, but begin with the place in its code
            if self.world_size == 1 or not isinstance(error, dist.DistError) and 'gloo' not in str(error):
                raise
            raise ProcessesLost(f'process {self.rank} of {self.world_size} on {platform.node()} lost the others, whose output '
                                f'may say why: {first_line(error)}. The same command resumes from the newest checkpoint'
                                ) from error

    def print0(self, message):
        if self.is_first:
            tqdm.write(message)

    def end(self):
        """Closes the connections to the other processes, if nothing that uses them is left: no model in DDP, no optimizer."""
        if self.world_size > 1:
            gc.collect()
            dist.destroy_process_group()
