"""GPT-2 on one page: trains on the bytes of a text for two minutes and then writes on. docs/0_tiny_gpt.md explains each line.

    python docs/course/tiny_gpt.py input.txt

Letters in shapes: B sequences, T tokens, C = n_embd, nh = n_head, hd = C / nh, V = vocab_size.
"""
import math
import os
import sys

import torch
from torch import nn

vocab_size, block_size = 256, 64  # a token is a byte; the model sees up to 64 of them
n_layer, n_head, n_embd = 3, 4, 128
batch_size, learning_rate, warmup_steps = 16, 5e-3, 50


def read_tokens(path):
    """(training tokens, validation tokens): the first nine tenths of the bytes, and the rest."""
    with open(path, 'rb') as file:
        tokens = torch.tensor(list(file.read()))  # whole numbers from 0 to 255
    return tokens.tensor_split([len(tokens) * 9 // 10])


def get_batch(tokens):
    """Inputs and targets, (B, T) each: B windows from random positions; the target of a token is the token after it."""
    starts = torch.randint(len(tokens) - block_size, (batch_size,)).tolist()
    x = torch.stack([tokens[i:i + block_size] for i in starts])
    y = torch.stack([tokens[i + 1:i + 1 + block_size] for i in starts])
    return x, y


def cross_entropy(logits, targets):
    """The mean of -ln p(target) in nats. logits: (B, T, V); targets: (B, T)."""
    log_probs = logits - logits.logsumexp(dim=-1, keepdim=True)  # ln softmax(logits)
    return -log_probs.gather(-1, targets[..., None]).mean()


class LayerNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(n_embd)), nn.Parameter(torch.zeros(n_embd))

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        centered = x - x.mean(dim=-1, keepdim=True)
        variance = centered.square().mean(dim=-1, keepdim=True)  # (B, T, 1)
        return centered / (variance + 1e-5).sqrt() * self.weight + self.bias


class CausalSelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)  # query, key and value of a token in one product
        self.c_proj = nn.Linear(n_embd, n_embd)

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        B, T, C = x.shape
        q, k, v = (part.view(B, T, n_head, C // n_head).transpose(1, 2)  # (B, nh, T, hd) each
                   for part in self.c_attn(x).split(C, dim=-1))
        scores = q @ k.transpose(-2, -1) / math.sqrt(C // n_head)  # (B, nh, T, T): row i is the query of token i
        is_later = torch.ones(T, T, dtype=torch.bool).triu(diagonal=1)  # (T, T): True where the key is after the query
        weights = scores.masked_fill(is_later, -math.inf).softmax(dim=-1)  # (B, nh, T, T): rows that add up to 1
        y = weights @ v  # (B, nh, T, hd): averages of the values
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))  # heads side by side, then mixed


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_fc = nn.Linear(n_embd, 4 * n_embd)
        self.c_proj = nn.Linear(4 * n_embd, n_embd)

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        return self.c_proj(nn.functional.gelu(self.c_fc(x), approximate='tanh'))  # (B, T, 4C) between the two


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = LayerNorm(), CausalSelfAttention(), LayerNorm(), MLP()

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        x = x + self.attn(self.ln_1(x))  # what other tokens know
        return x + self.mlp(self.ln_2(x))  # what follows from it


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(vocab_size, n_embd),  # a vector for each token
            wpe=nn.Embedding(block_size, n_embd),  # a vector for each position
            h=nn.ModuleList(Block() for _ in range(n_layer)),
            ln_f=LayerNorm()))
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:  # all matrices; those that add to the stream 2 n_layer times start smaller
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * n_layer) if name.endswith('c_proj.weight') else 1))
            elif name.endswith('bias'):
                nn.init.zeros_(parameter)

    def forward(self, tokens):  # (B, T) -> logits (B, T, V)
        x = self.transformer.wte(tokens) + self.transformer.wpe.weight[:tokens.size(1)]  # (B, T, C)
        for block in self.transformer.h:
            x = block(x)
        return self.transformer.ln_f(x) @ self.transformer.wte.weight.T  # the head is the same table: it is tied


def train(model, train_tokens, val_tokens, max_steps):
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(max_steps + 1):
        if step % 250 == 0 or step == max_steps:
            loss = validation_loss(model, val_tokens)
            print(f'step {step:4}: validation loss {loss:.3f} nats per byte, perplexity {math.exp(loss):.2f}, '
                  f'{loss / math.log(2):.3f} bits per byte', flush=True)
        if step < max_steps:
            share = min((step + 1) / warmup_steps, 1 - step / max_steps)  # of the learning rate: up, then down to 0
            optimizer.param_groups[0]['lr'] = learning_rate * share
            x, y = get_batch(train_tokens)
            cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


@torch.no_grad()
def validation_loss(model, tokens):
    """The loss on 50 batches of text that is not trained on, the same ones each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sum(cross_entropy(model(x), y).item() for x, y in (get_batch(tokens) for _ in range(50))) / 50


@torch.no_grad()
def generate(model, prompt, n_bytes):
    tokens = torch.tensor([list(prompt)])  # (1, T)
    for _ in range(n_bytes):
        probabilities = model(tokens[:, -block_size:])[:, -1].softmax(dim=-1)  # (1, V), of the next token
        tokens = torch.cat([tokens, torch.multinomial(probabilities, 1)], dim=1)
    return bytes(tokens[0].tolist())


if __name__ == '__main__':
    if len(sys.argv) < 2 or not os.path.isfile(sys.argv[1]):
        print('tiny_gpt.py needs a text file of a megabyte or so: python docs/course/tiny_gpt.py input.txt', file=sys.stderr)
        sys.exit(2)
    torch.manual_seed(1337)
    model = GPT()
    train(model, *read_tokens(sys.argv[1]), max_steps=int(sys.argv[2]) if len(sys.argv) > 2 else 2000)
    print(generate(model, b'\n', 500).decode(errors='replace'))
