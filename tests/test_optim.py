"""AdamW and Muon against PyTorch's own, in one process and in several."""
import collections
import multiprocessing
import os

import pytest
import torch
from conftest import free_port
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import muon
import pretrained
import train
from configurator import configure
from model import GPT
from muon import Muon, make_batches, orthogonalize
from optim import Optimizers
from runtime.process import Process

TINY = {**configure(train.DEFAULTS, []), 'n_layer': 3, 'n_head': 2, 'n_embd': 32, 'block_size': 32, 'vocab_size': 300,
        'optimizer': 'muon', 'device': 'cpu', 'dtype': 'float32'}
LR, DECAY = 0.02, 0.1
VIEWS = {'select', 'transpose', 'unbind', 'view', 'slice', 'detach'}


def block_weights(width, n_layer):
    """(c_attn weights, the other matrices) of blocks, drawn like a model's, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda rows, cols: torch.nn.Parameter(torch.randn(rows, cols, generator=generator) * 0.02)  # noqa: E731
    qkv = [draw(3 * width, width) for _ in range(n_layer)]
    return qkv, [draw(*shape) for _ in range(n_layer) for shape in ((width, width), (4 * width, width), (width, 4 * width))]


def set_gradients(params, step):
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator) * 1e-3


def build_muon(qkv, others, process=None, **settings):
    """process: None for one that is alone."""
    if process:
        settings.update(rank=process.rank, world_size=process.world_size)
    return Muon([{'params': qkv, 'n_stacked': 3, 'lr': LR, 'weight_decay': DECAY},
                 {'params': others, 'lr': LR, 'weight_decay': DECAY}], **settings)


def stepped(width, n_layer, n_steps, **settings):
    """The weights after steps of our Muon."""
    qkv, others = block_weights(width, n_layer)
    optimizer = build_muon(qkv, others, **settings)
    for step in range(n_steps):
        set_gradients(qkv + others, step)
        optimizer.step()
    return [p.detach() for p in qkv + others]


def stepped_by_torch(width, n_layer, n_steps, dtype, ns_steps=5):
    """The weights after steps of torch.optim.Muon, matrix by matrix, with its iteration in another type."""
    qkv, others = block_weights(width, n_layer)
    parts = [[torch.nn.Parameter(rows.clone()) for rows in p.detach().chunk(3 if i < n_layer else 1)]
             for i, p in enumerate(qkv + others)]
    optimizer = torch.optim.Muon([part for of_one in parts for part in of_one], lr=LR, weight_decay=DECAY, ns_steps=ns_steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, 'bfloat16', lambda self: self.to(dtype, copy=True))  # what its iteration begins with
        for step in range(n_steps):
            set_gradients(qkv + others, step)
            for p, of_one in zip(qkv + others, parts):
                for part, grad in zip(of_one, p.grad.chunk(len(of_one))):
                    part.grad = grad
            optimizer.step()
    return [torch.cat([part.detach() for part in of_one]) for of_one in parts]


def largest_difference(first, second):
    return max((a - b).abs().max().item() for a, b in zip(first, second, strict=True))


@pytest.fixture(scope='module')
def in_processes(tmp_path_factory):
    """in_processes(n, function, ...) -> what function(process, ...) returned in each of n processes, by rank."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['train'])

    def in_processes(world_size, function, *arguments):
        folder = tmp_path_factory.mktemp('ranks')
        torch.save(arguments, folder / 'arguments')  # by a file, as tensors sent between processes share their memory
        port = free_port()
        children = [context.Process(target=in_child, args=(rank, world_size, port, folder, function)) for rank in range(world_size)]
        for child in children:
            child.start()
        for child in children:
            child.join(300)
        codes = [child.exitcode for child in children]
        for child in children:
            child.kill()
        assert codes == [0] * world_size
        return [torch.load(folder / str(rank)) for rank in range(world_size)]
    return in_processes


def in_child(rank, world_size, port, folder, function):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size),
                      MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    process = Process(TINY, float32_precision='highest')
    torch.save(function(process, *torch.load(folder / 'arguments')), folder / str(rank))
    process.end()


# Width and layers, and iterations: fewer than 5, for the sake of time.
SHAPES_OF_GPT2 = {'124M': (768, 2, 3), 'xl': (1600, 1, 1)}


@pytest.fixture(scope='module')
def torchs_steps(tmp_path_factory):
    """A file with the weights of each size after a step of torch.optim.Muon."""
    path = tmp_path_factory.mktemp('expected') / 'weights'
    torch.save({size: stepped_by_torch(width, n_layer, 1, torch.float32, iterations)
                for size, (width, n_layer, iterations) in SHAPES_OF_GPT2.items()}, path)
    return str(path)


def differences_from_torch(process, path):
    expected, differences = torch.load(path, mmap=True), {}
    for size, (width, n_layer, muon.ITERATIONS) in SHAPES_OF_GPT2.items():
        weights = stepped(width, n_layer, 1, process=process, dtype=torch.float32)
        differences[size] = largest_difference(weights, expected[size])
    return differences


@pytest.mark.slow
@pytest.mark.parametrize('world_size', [1, 2])
def test_on_the_shapes_of_gpt2_any_number_of_processes_makes_the_step_of_torchs_muon(in_processes, torchs_steps, world_size):
    for differences in in_processes(world_size, differences_from_torch, torchs_steps):
        assert differences.keys() == SHAPES_OF_GPT2.keys()
        assert max(differences.values()) < 1e-6


def stepped_in_child(process, *arguments):
    return stepped(*arguments, process=process, dtype=torch.float32)


@pytest.mark.slow
def test_processes_that_own_unequal_shares_end_with_the_same_weights_bit_for_bit(in_processes):
    ranks = in_processes(3, stepped_in_child, 32, 5, 3)
    assert largest_difference(ranks[0], stepped(32, 5, 3, dtype=torch.float32)) < 1e-6
    for weights in ranks[1:]:
        assert all(torch.equal(a, b) for a, b in zip(ranks[0], weights))


def test_several_steps_of_several_layers_are_those_of_torchs_muon():
    assert largest_difference(stepped(48, 4, 5, dtype=torch.float32), stepped_by_torch(48, 4, 5, torch.float32)) < 1e-6


def test_in_bfloat16_a_step_is_as_near_to_torchs_as_bfloat16_is_to_float32():
    ours, torchs, exact = stepped(96, 2, 1), stepped_by_torch(96, 2, 1, torch.bfloat16), stepped_by_torch(96, 2, 1, torch.float64)
    for mine, its, target in zip(ours, torchs, exact):
        rounding = (its - target).norm()
        assert rounding > 0 and (mine - its).norm() < rounding and (mine - target).norm() < 1.5 * rounding


@pytest.mark.parametrize('rows, cols', [(64, 64), (128, 32), (32, 128)])
def test_an_orthogonalized_matrix_keeps_its_singular_vectors_and_has_singular_values_near_one(rows, cols):
    matrices = torch.randn(3, rows, cols, dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    diagonal = left.mT @ orthogonalize(matrices) @ right.mT
    values = diagonal.diagonal(dim1=1, dim2=2)
    assert (diagonal - torch.diag_embed(values)).abs().max() < 1e-10
    assert values[:, :min(rows, cols) // 2].min() > 0.6 and values.max() < 1.3


def test_batches_of_any_size_give_the_same_weights(monkeypatch):
    whole = stepped(32, 5, 2, dtype=torch.float32)
    monkeypatch.setattr(muon, 'MAX_NUMEL', 2 * 32 * 32)
    assert largest_difference(stepped(32, 5, 2, dtype=torch.float32), whole) < 1e-6


def test_every_process_owns_about_as_much_of_gpt2_as_the_others():
    shapes = [[(2304, 768)] * 12, [(768, 768), (3072, 768), (768, 3072)] * 12]
    groups = [{'params': [torch.empty(shape, device='meta') for shape in of_group]} for of_group in shapes]
    for world_size in (2, 4, 8):
        owned = collections.Counter()
        for batch in make_batches(groups, world_size):
            for i, p in enumerate(batch.params):
                owned[(batch.first_owner + i) % world_size] += p.numel()
        assert max(owned.values()) < 1.1 * sum(owned.values()) / world_size


class CountOperations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function.__name__.split('.')[0]] += 1
        return function(*args, **(kwargs or {}))


def test_a_step_of_the_72_matrices_of_gpt2_takes_few_operations_and_waits_for_none():
    qkv, others = block_weights(16, 12)
    optimizer = build_muon(qkv, others)
    set_gradients(qkv + others, 0)
    with CountOperations() as mode:
        optimizer.step()
    assert sum(count for name, count in mode.counts.items() if name not in VIEWS) < 120
    assert mode.counts['bmm'] == 4 * 5  # 4 shapes or groups, 5 iterations
    assert not mode.counts.keys() & {'_local_scalar_dense', 'nonzero', 'is_nonzero', 'equal'}


@pytest.fixture
def model_and_optimizers():
    torch.manual_seed(0)
    model = GPT(pretrained.model_config(TINY))
    return model, Optimizers(model, TINY, Process(TINY))


def test_weight_decay_is_for_matrices_alone_and_muon_for_those_of_the_blocks(model_and_optimizers):
    model, optimizers = model_and_optimizers
    names = {p: name for name, p in model.named_parameters()}
    (embeddings, vectors), (qkv, others) = [[{names[p] for p in group['params']} for group in optimizer.param_groups]
                                            for optimizer in optimizers.list]
    assert [group['weight_decay'] for optimizer in optimizers.list for group in optimizer.param_groups] == [0.1, 0.0, 0.1, 0.1]
    assert embeddings == {'transformer.wpe.weight', 'transformer.wte.weight'}
    assert all(name.endswith('bias') or '.ln_' in name for name in vectors)
    assert qkv == {f'transformer.h.{i}.attn.c_attn.weight' for i in range(3)}
    assert all('.h.' in name and name.endswith('.weight') for name in others)
    assert embeddings | vectors | qkv | others == set(names.values())


def test_no_gradient_outlives_zero_grad(model_and_optimizers):
    model, optimizers = model_and_optimizers
    model(torch.randint(300, (4, 32)), torch.randint(300, (4, 32))).backward()
    gradients = [StorageWeakRef(p.grad.untyped_storage()) for p in model.parameters()]
    optimizers.unscale_gradients()
    optimizers.step()
    assert not any(gradient.expired() for gradient in gradients)
    model.zero_grad(set_to_none=True)
    assert all(gradient.expired() for gradient in gradients)


def test_a_loss_scaled_for_float16_gives_the_unscaled_step_and_an_overflow_gives_none():
    qkv, others = block_weights(32, 2)
    params, optimizer = qkv + others, build_muon(qkv, others)
    scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)
    scaler.scale(torch.zeros(()))  # the scale becomes a tensor with the first loss
    for step in range(2):
        set_gradients(params, step)
        torch._foreach_mul_([p.grad for p in params], 1024.0)
        if step:
            others[0].grad[0, 0] = float('inf')
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 512.0
    assert all(torch.equal(a, b) for a, b in zip(params, stepped(32, 2, 1)))


def test_a_resumed_run_takes_its_own_learning_rates_and_weight_decay(model_and_optimizers):
    model, optimizers = model_and_optimizers
    set_gradients(list(model.parameters()), 0)
    optimizers.step()
    config = {**TINY, 'learning_rate': 1e-3, 'muon_lr': 0.5, 'weight_decay': 0.3}
    resumed = Optimizers(model, config, Process(config))
    resumed.load_state_dict(optimizers.state_dict())
    resumed.set_learning_rate(0.5)
    assert [[(group['lr'], group['weight_decay']) for group in optimizer.param_groups] for optimizer in resumed.list] == [
        [(5e-4, 0.3), (5e-4, 0.0)], [(0.25, 0.3), (0.25, 0.3)]]


def trained(process, zero, first_step, last_step, saved):
    """Steps of all optimizers -> (weights, a checkpoint's states, numbers that this process keeps as Muon's momentum)."""
    torch.manual_seed(0)
    config = {**TINY, 'zero': zero}
    model = GPT(pretrained.model_config(config))
    optimizers = Optimizers(model, config, process)
    optimizers.list[1].dtype = torch.float32  # so that rounding does not hide a wrong momentum
    if saved:
        model.load_state_dict(saved[0])
        optimizers.load_state_dict(saved[1])
    for step in range(first_step, last_step):
        set_gradients(list(model.parameters()), step)
        optimizers.set_learning_rate(1.0)
        optimizers.step()
    n_kept = sum(state['momentum_buffer'].numel() for state in optimizers.list[1].state.values())
    return model.state_dict(), optimizers.state_dict(), n_kept


@pytest.mark.slow
@pytest.mark.parametrize('zero', [False, True])
def test_a_checkpoint_goes_on_on_another_number_of_processes(in_processes, zero):
    expected, _, n_weights = in_processes(1, trained, zero, 0, 3, None)[0]
    saved, n_steps = None, 0
    for world_size in (2, 4, 1):
        ranks = in_processes(world_size, trained, zero, n_steps, n_steps + 1, saved)
        saved, n_steps = ranks[0], n_steps + 1
        assert sum(n_kept for _, _, n_kept in ranks) == n_weights
        assert all(states == {} for _, states, _ in ranks[1:])
        if world_size > 1:
            assert max(n_kept for _, _, n_kept in ranks) < n_weights
    assert largest_difference(saved[0].values(), expected.values()) < 1e-6
