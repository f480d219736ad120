"""Values that a user can type and no script can use: each ends with exit code 2 and one line that names the key.

A new key gets its extremes here; `python -m pytest tests/test_extreme_flags.py -k SCRIPT` runs those of one script.
"""
import os

import pytest
from conftest import run_script

BIG = '1' + '0' * 23  # beyond 64 bits
TRAIN = f"""
    --seed={BIG} --seed=-{BIG} --seed=1.5 --seed=nan --seed=
    --block_size=0 --block_size=-5 --block_size=1e12 --block_size={BIG} --n_layer=-1 --n_layer=1e9 --n_head=0 --n_head=-1 --n_head=7 --n_head=1e18
    --n_embd=0 --n_embd=-16 --n_embd=1e9 --n_embd=1000000007 --dropout=1 --dropout=-0.1 --dropout=nan --dropout=2
    --total_batch_tokens=0 --total_batch_tokens=-1 --total_batch_tokens=1 --micro_batch=-1 --max_steps=0 --max_steps=-1 --max_steps={BIG} --max_steps=inf
    --learning_rate=0 --learning_rate=-1 --learning_rate=nan --learning_rate=inf --learning_rate=1e999 --min_lr=-1 --min_lr=nan
    --muon_lr=0 --muon_lr=-0.1 --warmup_steps=-1 --warmup_steps=0.5 --wsd_decay=-1 --wsd_decay=2 --wsd_decay=nan
    --weight_decay=-1 --weight_decay=inf --beta1=2 --beta1=1 --beta1=-0.1 --beta1=nan --beta2=1 --beta2=-1 --grad_clip=-1 --grad_clip=nan
    --eval_interval=-1 --eval_tokens=-1 --eval_tokens=0 --patience=-1 --eval_tasks_interval=-1 --eval_tasks_limit=0 --eval_tasks_limit=-1 --eval_tasks=x
    --sample_interval=-1 --sample_tokens=-1 --checkpoint_interval=-1 --log_interval=0 --log_interval=-1
    --threads=-1 --timeout_s=0 --timeout_s=-5 --n_embd=1048576
    --device=tpu --device=cuda:999 --device=cuda:{BIG} --dtype=float8 --compile=maybe --optimizer=sgd --schedule=linear
"""
REFUSED = {
    'train.py': TRAIN,
    'corpus.py': f"""--num_samples=-1 --num_samples={BIG} --num_samples=0.5 --val_fraction=0 --val_fraction=1 --val_fraction=-1 --val_fraction=nan
        --val_fraction=2 --vocab_size=-1 --vocab_size=1 --vocab_size=256 --vocab_size=65537 --vocab_size={BIG} --shard_tokens=0 --shard_tokens=-1
        --shard_tokens=2147483648 --shard_tokens=1e18 --shard_tokens=inf --workers=-1 --workers=1e6 --workers={BIG} --max_expansion=-1 --max_expansion=
        --encoding= --encoding=latin-99 --encoding=bz2 --encoding=idna --encoding=hex --encoding=punycode --verbose=2""",
    'wikitext.py': f"""--size=3 --size= --vocab_size=-5 --vocab_size=100 --vocab_size=1e9 --shard_tokens=0 --shard_tokens={BIG} --workers=-1
        --workers=1e9""",
    'fineweb.py': f"""--part=0/1 --part=2/1 --part=1/0 --part=-1/2 --part=1/{BIG} --part=x --part= --part=1 --shard_tokens=0 --shard_tokens=-7
        --shard_tokens=1e10 --max_shards=-1 --max_shards={BIG} --workers=-1 --workers=5000 --retries=-1 --retries=nan --max_expansion=-2 --sample=5BT""",
    'evaluate.py': f"""--batch_size=0 --batch_size=-1 --batch_size={BIG} --stride=0 --stride=-1 --stride=1.5 --stride=nan --protocol=x --shots=-1 --shots=101 --limit=0
        --limit=-1 --tasks= --tasks=x --tasks=piqa@ --compare=x --compare=,
        --device=gpu --device=cuda:{BIG} --dtype=int8 --split= --encoding=rot13""",
    'hellaswag.py': f'--batch_size=0 --batch_size=-3 --limit=0 --limit=-1 --limit={BIG} --limit=inf --protocol= --protocol=both',
    'export.py': '--dtype=int8 --dtype= --to= --to=None',
    'bpe.py': '--tokenizer= --tokenizer=nowhere',
    'tasks.prepare_problems': f"""--n_problems=0 --n_problems=-1 --n_problems=1e12 --n_problems={BIG} --n_val=0 --n_val=-1 --n_val=1e9 --seed=-1
        --seed={BIG} --vocab_size=0 --vocab_size=-1 --vocab_size=256 --vocab_size=65537""",
    'tasks.solve': f'--max_new_tokens=0 --max_new_tokens=-1 --max_new_tokens={BIG} --calculator=2 --device=cuda:x --dtype=float64',
    'tasks.solve_rate': f"""--limit=-1 --limit=1e9 --max_new_tokens=0 --votes=-1 --votes=1e6 --temperature=-1 --temperature=nan --temperature=inf --seed=-1
        --seed={BIG} --batch_size=0 --batch_size=-1 --batch_size=1e9""",
    'sample.py': f"""--max_new_tokens=0 --max_new_tokens=-1 --max_new_tokens={BIG} --temperature=-1 --temperature=nan --temperature=inf --top_k=0
        --top_k=-1 --top_p=-1 --top_p=2 --top_p=nan --repetition_penalty=0 --repetition_penalty=-1 --num_samples=0 --num_samples=-1
        --seed={BIG} --device=cuda:999 --dtype=int8""",
    'serve.py': f"""--port=-1 --port=65536 --port={BIG} --max_batch=0 --max_batch=-1 --max_waiting=0 --max_new_tokens=0 --max_body_bytes=0
        --max_prompt_tokens=0 --max_connections=0 --header_timeout_s=-1 --body_timeout_s=nan --timeout_s=-1 --write_timeout_s=-1 --grace_s=-1
        --device=cuda:999""",
    'plot.py': '--out_dir= --out_dir=nowhere',
    'bench': f'--turns=0 --turns=-1 --turns={BIG} --preset=big --device=tpu --device=cuda:999',
    'tasks.word_problems': f'--n=0 --n=-1 --n={BIG} --seed={BIG} --split=val',
}


def arguments(script, flag, data_dir, tmp_path):
    """What makes a script quick, should it take the flag."""
    if script == 'train.py':
        tiny = ('--n_layer=1 --n_head=1 --n_embd=16 --block_size=16 --total_batch_tokens=32 --micro_batch=1 --max_steps=1 --eval_tokens=64 '
                '--eval_interval=1 --sample_interval=1 --sample_tokens=2 --checkpoint_interval=1 --warmup_steps=0 --device=cpu --dtype=float32')
        return [*tiny.split(), f'--data_dir={data_dir}', f'--out_dir={tmp_path / "out"}', flag]
    if script in ('corpus.py', 'wikitext.py', 'fineweb.py', 'tasks.prepare_problems'):
        return [f'--out_dir={tmp_path / "out"}', flag]
    if script == 'tasks.solve':
        return ['--question=1+1?', flag]
    return [flag]


CASES = [pytest.param(script, flag, id=f'{script}{flag[1:]}')
         for script, flags in REFUSED.items() for flag in flags.split()]


def test_183_flags_are_tried():
    assert len(CASES) == len({case.id for case in CASES}) >= 183


@pytest.mark.parametrize('script, flag', CASES)
def test_a_flag_that_cannot_be_is_refused_in_one_line_that_names_it(script, flag, data_dir, tmp_path, capsys):
    try:
        code = run_script(script, *arguments(script, flag, data_dir, tmp_path))
    finally:
        written = capsys.readouterr().err
    key, value = flag.removeprefix('--').split('=')
    assert code == 2 and written.count('\n') == 1 and len(written) < 500
    assert key in written or value == 'nowhere' and value in written or script == 'bpe.py' and f'no file {value};' in written
    assert not os.path.exists(tmp_path / 'out'), 'nothing is written before the check'
