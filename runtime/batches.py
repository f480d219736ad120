"""Batches on the device, the next one ready before it is needed. Knows a loader only by `next`, `seek` and its position."""
import torch


class DeviceBatches:
    """What a shards.BatchLoader gives, moved to the device. The position is the loader's own, and `prefetch` leaves it."""

    def __init__(self, loader, device: torch.device):
        self.loader, self.device, self.ahead = loader, device, None

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(x, y), (B, T) int64 each."""
        if self.ahead and self.ahead[0] == (self.loader.sequence_index, self.loader.batch_size):
            _, after, batch = self.ahead
            self.loader.seek(after)
        else:
            batch = self.load()
        self.ahead = None
        return batch

    def prefetch(self):
        """Reads the next batch and starts its copy, while the device still computes what it was given before."""
        before = self.loader.sequence_index
        batch = self.load()
        self.ahead = (before, self.loader.batch_size), self.loader.sequence_index, batch
        self.loader.seek(before)

    def load(self):
        x, y = self.loader.next()
        if self.device.type == 'cuda':
            x, y = x.pin_memory(), y.pin_memory()
        return x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
