"""notebooks/tour.ipynb: that it runs from nothing, shows what it says, and lies in the repo as it was run."""
import base64
import getpass
import importlib
import io
import itertools
import json
import math
import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest
import torch

import pretrained
import shards
from configurator import configure
from runtime.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.long]

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOUR = ROOT / 'notebooks' / 'tour.ipynb'
PICTURES = {'1': 4, '2': 2, '3': 4, '4': 3, '5': 4}  # at least, by the number of the section
KINDS = 'image/png', 'text/html'
CELL_TIMEOUT_S = 240
NO_NETWORK = '''
import sys

def refuse(event, arguments):
    if event == 'socket.getaddrinfo' and arguments[0] not in (None, 'localhost', '127.0.0.1', '::1'):
        raise OSError(f'the notebook reached for the network: {arguments[0]}')

sys.addaudithook(refuse)
'''
WHAT_WAS_SEEN = '''
np.savez('seen.npz', ids=ids, weights=weights[:, 0], weights_val=weights_val[:, :2], val_loss=val_loss, grid=grid,
         unigram_loss=unigram_loss, sizes=np.array(bytes_per_token), entropies=np.array(list(entropies.values())))
print(OUT, Path.cwd())
'''


def load_tour():
    nbformat = pytest.importorskip('nbformat', reason='needs nbformat: pip install -r requirements-dev.txt')
    return nbformat.read(TOUR, as_version=4)


def execute(notebook, folder, monkeypatch, scratch, **settings):
    """Runs a notebook in a fresh kernel that starts in `folder`."""
    nbclient = pytest.importorskip('nbclient', reason='needs nbclient: pip install -r requirements-dev.txt')
    pytest.importorskip('ipykernel', reason='needs ipykernel: pip install -r requirements-dev.txt')
    (scratch / 'guard').mkdir()
    (scratch / 'guard' / 'sitecustomize.py').write_text(NO_NETWORK)
    settings |= {'PYTHONPATH': str(scratch / 'guard'),
                 'IPYTHONDIR': str(scratch / 'ipython'), 'JUPYTER_RUNTIME_DIR': str(scratch / 'jupyter')}
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    client = nbclient.NotebookClient(notebook, timeout=CELL_TIMEOUT_S, kernel_name='python3',
                                     resources={'metadata': {'path': str(folder)}})
    client.execute()  # raises CellExecutionError if a cell fails
    return notebook


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """(notebook, folder): the tour run where there is neither data nor a model, with a shorter training."""
    notebook = load_tour()
    notebook.cells.append(importlib.import_module('nbformat.v4').new_code_cell(WHAT_WAS_SEEN))
    folder, scratch = tmp_path_factory.mktemp('tour'), tmp_path_factory.mktemp('scratch')
    with pytest.MonkeyPatch.context() as monkeypatch:
        execute(notebook, TOUR.parent, monkeypatch, scratch, SCRATCHGPT_TOUR_DIR=str(folder), SCRATCHGPT_TOUR_STEPS='40')
    return notebook, folder


@pytest.fixture(scope='module')
def seen(run):
    """What the notebook had computed at its end."""
    return np.load(run[1] / 'seen.npz')


def pictures(notebook):
    """{number of a section: [(kind, data)]} of what is shown there and is no text."""
    shown, section = {}, None
    for cell in notebook.cells:
        if cell['cell_type'] == 'markdown' and (heading := re.match(r'## (\d)\.', cell['source'])):
            section = heading[1]
        for output in cell.get('outputs', []):
            data = output.get('data', {})
            shown.setdefault(section, []).extend((kind, data[kind]) for kind in KINDS if kind in data)
    return shown


def printed(notebook):
    return ''.join(output['text'] for cell in notebook.cells for output in cell.get('outputs', [])
                   if output['output_type'] == 'stream')


def assert_pictures_are_there(notebook):
    import matplotlib.image
    shown = pictures(notebook)
    for section, at_least in PICTURES.items():
        assert len(shown[section]) >= at_least, section
        for kind, data in shown[section]:
            if kind == 'image/png':
                pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)))
                assert pixels.std() > 0.01, f'a picture of section {section} is empty'
    kind, samples = shown['5'][-1]
    texts = re.findall(r'<pre[^>]*>(.*?)</pre>', samples, re.S)
    assert kind == 'text/html' and len(set(texts)) == 4 and all(text.startswith('def parse_') for text in texts)


def test_the_tour_runs_from_nothing_and_shows_a_picture_for_each_thing_it_explains(run):
    notebook, folder = run
    assert_pictures_are_there(notebook)
    assert f'out/tour {folder}' in printed(notebook)
    assert {path.name for path in folder.iterdir()} == {'data', 'out', 'seen.npz'}
    assert (folder / 'out' / 'tour' / 'ckpt_0000040.pt').exists()


def test_a_finished_demo_is_taken_and_not_trained_again(run, tmp_path_factory):
    _, folder = run
    demo, scratch = tmp_path_factory.mktemp('demo'), tmp_path_factory.mktemp('scratch')
    shutil.copytree(folder / 'data', demo / 'data')
    shutil.copytree(folder / 'out' / 'tour', demo / 'out' / 'demo')
    notebook = load_tour()
    loads_the_model = next(i for i, cell in enumerate(notebook.cells) if 'pretrained.load(OUT)' in cell['source'])
    notebook.cells = notebook.cells[:loads_the_model + 1]
    with pytest.MonkeyPatch.context() as monkeypatch:
        execute(notebook, TOUR.parent, monkeypatch, scratch, SCRATCHGPT_TOUR_DIR=str(demo), SCRATCHGPT_TOUR_STEPS='40')
    assert 'out/demo/ckpt_0000040.pt: ' in printed(notebook) and not (demo / 'out' / 'tour').exists()


def test_its_attention_maps_are_the_weights_that_the_model_has(run, seen):
    model, _, _ = pretrained.load(str(run[1] / 'out' / 'tour'))
    kept = []
    for block in model.transformer.h:
        block.attn.c_attn.register_forward_hook(lambda module, inputs, output: kept.append(output.double()))
    ids = torch.from_numpy(seen['ids'])[None]
    with torch.no_grad():
        model.eval()(ids)
    nh, T = model.config.n_head, ids.size(1)
    for layer, qkv in enumerate(kept):
        q, k, _ = (part.view(T, nh, -1).transpose(0, 1) for part in qkv[0].chunk(3, dim=-1))  # (nh, T, hd)
        scores = q @ k.transpose(1, 2) / math.sqrt(q.size(-1))
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
        np.testing.assert_allclose(seen['weights'][layer], scores.softmax(-1).numpy(), atol=1e-4)


def test_every_row_of_a_map_sums_to_one_and_sees_nothing_that_comes_later(seen):
    for weights in (seen['weights'], seen['weights_val']):  # (..., T, T)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
        assert weights.min() >= 0 and np.triu(weights, 1).max() == 0


def test_the_loss_it_draws_is_that_of_the_run_and_below_what_token_counts_alone_give(run, seen):
    data_dir, out_dir = (str(run[1] / name) for name in ('data/stdlib', 'out/tour'))
    streams = {split: [t for path in shards.find_shards(data_dir, split) for t in shards.read_shard(path).tolist()]
               for split in ('train', 'val')}
    vocab_size = shards.load_meta(data_dir)['vocab_size']
    counts = np.ones(vocab_size)
    np.add.at(counts, streams['train'], 1)
    unigram = np.mean([math.log(counts.sum() / counts[token]) for token in streams['val']])
    assert seen['unigram_loss'] == pytest.approx(unigram, abs=1e-6)
    last = read_metrics(out_dir)[-1]['val_loss']  # in bfloat16, where the CPU is fast at it
    assert seen['val_loss'] == pytest.approx(last, abs=0.03)
    assert seen['val_loss'] < unigram < math.log(vocab_size)


def test_entropy_grows_with_temperature_up_to_that_of_the_vocabulary(run, seen):
    from scipy.stats import entropy
    curves = seen['entropies']  # (prompts, temperatures)
    assert (np.diff(curves, axis=1) >= -1e-5).all() and (curves[:, -1] > curves[:, 0] + 1).all()
    model, tokenizer, _ = pretrained.load(str(run[1] / 'out' / 'tour'))
    with torch.no_grad():
        logits = model.eval()(torch.tensor([tokenizer.encode('def __init__(')]))[0, -1].double().numpy()
    expected = [entropy(np.exp((logits - logits.max()) / t), base=2) for t in seen['grid']]
    np.testing.assert_allclose(curves[0], expected, atol=0.01)
    assert curves.max() < math.log2(tokenizer.vocab_size)


def test_tokens_are_bytes_without_merges_and_stand_for_more_the_more_there_are(seen):
    assert seen['sizes'][0] == 1 and (np.diff(seen['sizes']) > 0).all()


def test_it_finds_the_repo_from_the_root_too(tmp_path, monkeypatch):
    notebook = load_tour()
    settings = next(cell for cell in notebook.cells if cell['cell_type'] == 'code')
    settings['source'] += '\nprint(Path.cwd().samefile(ROOT), (ROOT / "model.py").exists())'
    notebook.cells = [settings]
    monkeypatch.delenv('SCRATCHGPT_TOUR_DIR', raising=False)
    assert printed(execute(notebook, ROOT, monkeypatch, tmp_path)).strip() == 'True True'


def test_the_committed_notebook_is_as_it_was_run_with_the_demo_model():
    notebook = load_tour()
    importlib.import_module('nbformat').validate(notebook)
    code = [cell for cell in notebook.cells if cell['cell_type'] == 'code']
    assert [cell['execution_count'] for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell['outputs'] if output['output_type'] == 'error']
    assert_pictures_are_there(notebook)
    assert 'out/demo/ckpt_0000800.pt' in printed(notebook)
    assert notebook.metadata['kernelspec']['name'] == 'python3'


def test_the_committed_notebook_tells_nothing_of_the_machine_it_was_run_on():
    notebook = load_tour()
    for output in itertools.chain.from_iterable(cell.get('outputs', []) for cell in notebook.cells):
        output.get('data', {}).pop('image/png', None)  # whose base64 may spell anything
    text = json.dumps(notebook)
    assert not re.search(r'(?<![\w.:/])/(?:home|root|tmp|work|usr|opt|var|Users|mnt)\b|[A-Z]:\\\\', text)
    assert getpass.getuser() + '@' not in text and str(ROOT) not in text
    assert '\\r' not in text and 'iopub' not in text  # no redrawn progress bars, no times of execution
    assert TOUR.stat().st_size < 1_500_000


def prose():
    cells = json.loads(TOUR.read_text(encoding='utf-8'))['cells']
    return [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'markdown']


@pytest.mark.parametrize('command', re.findall(r'`python ([^`]+)`', '\n'.join(prose())))
def test_every_command_it_names_has_flags_and_configs_that_exist(command):
    script, *arguments = shlex.split(command)
    module = importlib.import_module(script.removesuffix('.py'))
    configure(module.DEFAULTS, [str(ROOT / a) if a.startswith('config/') else a for a in arguments])


def test_every_link_of_it_leads_to_a_file():
    links = [link for text in prose() for link in re.findall(r'\]\(([^)#]+)', text) if '://' not in link]
    assert links
    for link in links:
        assert (TOUR.parent / link).exists(), link
