"""lm-evaluation-harness on rows of our own: its task code and its model, without the hub.

    theirs = harness.run('piqa', rows, model_folder, tmp_path)      # needs pip install lm-eval accelerate
    theirs.samples[0]['resps'], theirs.scores['acc,none']
"""
import json
import pathlib
import re
import shutil
import types

import pytest

TASK_FILES = {  # our name: the harness's
    'hellaswag': 'hellaswag/hellaswag.yaml', 'piqa': 'piqa/piqa.yaml', 'siqa': 'siqa/siqa.yaml', 'winogrande': 'winogrande/default.yaml',
    'arc_easy': 'arc/arc_easy.yaml', 'openbookqa': 'openbookqa/openbookqa.yaml', 'boolq': 'super_glue/boolq/default.yaml',
    'copa': 'super_glue/copa/default.yaml', 'lambada': 'lambada/lambada_openai.yaml', 'lambada_standard': 'lambada/lambada_standard.yaml',
    'wikitext2': 'wikitext/wikitext.yaml'}
WHERE_DATA_IS = 'dataset_path|dataset_name|training_split|validation_split|test_split|fewshot_split|dataset_kwargs|task|metadata'


def write_task(name: str, rows: list[dict], folder: pathlib.Path) -> str:
    """The harness's task on rows in a file, both in a folder; its name. All metrics of multiple choice are scored."""
    import lm_eval
    source = pathlib.Path(lm_eval.__file__).parent / 'tasks' / TASK_FILES[name]
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.parent.glob('*.py'):
        shutil.copy(path, folder)
    (folder / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    settings = re.sub(rf'^({WHERE_DATA_IS}):.*\n', '', source.read_text(), flags=re.MULTILINE)
    settings = re.sub(r'^(tag:\n(  - .*\n)+|  version: .*\n)', '', settings, flags=re.MULTILINE)
    if 'multiple_choice' in settings and name != 'winogrande':
        settings = settings[:settings.index('metric_list:')] + 'metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_bytes}]\n'
    (folder / 'task.yaml').write_text(f'task: ours_{name}\ndataset_path: json\ntest_split: train\nfewshot_split: train\n'
                                      f'dataset_kwargs: {{data_files: {folder / "rows.jsonl"}}}\n' + settings)
    return f'ours_{name}'


def load_model(folder: str, batch_size=8):
    HFLM = pytest.importorskip('lm_eval.models.huggingface', reason='pip install lm-eval accelerate').HFLM
    return HFLM(pretrained=folder, device='cpu', dtype='float32', batch_size=batch_size)


def run(name: str, rows: list[dict], model, tmp_path: pathlib.Path, shots: int = 0):
    """(samples in the order of the rows, scores) of a task with `model`, from `load_model` or another of the harness's."""
    import lm_eval
    from lm_eval.tasks import TaskManager
    folder = tmp_path / f'harness_{name}_{shots}'
    task = write_task(name, rows, folder)
    results = lm_eval.simple_evaluate(model, tasks=[task], num_fewshot=shots, log_samples=True, bootstrap_iters=100,
                                      task_manager=TaskManager(include_path=str(folder), include_defaults=False))
    samples = sorted(results['samples'][task], key=lambda sample: sample['doc_id'])
    return types.SimpleNamespace(samples=samples, scores=results['results'][task])


def logprobs(sample):
    """The log-probability of each ending in nats."""
    return [float(answer[0][0] if isinstance(answer[0], (list, tuple)) else answer[0]) for answer in sample['resps']]
