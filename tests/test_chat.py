"""Conversations: their tokens beside those of transformers' chat templates, their shapes, the shards that they become."""
import json
import re

import numpy as np
import pytest
import torch
from conftest import ROOT, run_script
from hypothesis import given
from hypothesis import strategies as st

import export
import pretrained
import shards
import train
from bpe import Tokenizer
from chat_template import CHAT_TOKENS, encode_conversation, encode_prompt, stop_tokens, with_chat_tokens
from configurator import configure
from model import GPT, GPTConfig
from runtime.errors import BadInput
from tasks import chat
from tasks.conversations import SHAPES, read_conversations, read_preferences, shape_of, to_messages
from tasks.instructions import generate_conversations

HI = [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
TWO_TURNS = [*HI, {'role': 'user', 'content': 'What is 2+3?'}, {'role': 'assistant', 'content': '<<2+3=5>>5'}]


def prepare(**settings):
    chat.main(configure(chat.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))


def write_rows(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return str(path)


def many(n=40):
    return [{'prompt': f'Say {i}', 'completion': f'{i}'} for i in range(n)]


@pytest.fixture(scope='module')
def small():
    return with_chat_tokens(Tokenizer.train(['Hello there'], 257, progress=False))


@pytest.fixture(scope='module')
def exported(tmp_path_factory, test_data):
    """export.py's folder of a tiny random model with GPT-2's vocabulary and the tokens of a conversation."""
    torch.manual_seed(0)
    tokenizer = with_chat_tokens(Tokenizer.gpt2())
    model = GPT(GPTConfig(block_size=256, vocab_size=tokenizer.vocab_size, n_layer=1, n_head=2, n_embd=16))
    folder = str(tmp_path_factory.mktemp('exported'))
    export.export(model, tokenizer, folder)
    return folder


# ---------------------------------------------------------------------------- tokens

def real_and_generated_conversations(test_data, n=250):
    real = list(read_conversations(str(test_data / 'instruct' / 'instruct.jsonl')))[:n]
    generated = [conversation['messages'] for conversation, _ in zip(generate_conversations('train', 5), range(4 * n))]
    several_turns = [messages for messages in generated if len(messages) > 2][:n]
    return real + several_turns


def test_tokens_and_targets_are_those_of_transformers_chat_template(exported, test_data):
    from transformers import AutoTokenizer
    theirs, ours = AutoTokenizer.from_pretrained(exported), pretrained.load_tokenizer(exported)
    conversations = real_and_generated_conversations(test_data)
    assert len(conversations) == 500
    for messages in conversations:
        expected = theirs.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
        ids, counted = encode_conversation(messages, ours)
        assert ids.tolist() == expected['input_ids']
        assert counted.astype(int).tolist() == expected['assistant_masks']
        prompt = theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)['input_ids']
        assert encode_prompt(messages[:-1], ours) == prompt


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=6), st.booleans())
def test_only_what_the_assistant_says_and_its_end_count(small, contents, has_system):
    roles = ['system'] * has_system + ['user', 'assistant'] * 3
    messages = [{'role': role, 'content': content} for role, content in zip(roles, contents)]
    if messages[-1]['role'] == 'system':
        return
    ids, counted = encode_conversation(messages, small)
    end = small.special_tokens['<|end|>']
    spoken = [message['content'].encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') for message in messages
              if message['role'] == 'assistant']
    assert small.decode(ids[counted]) == ''.join(f'{content}<|end|>' for content in spoken)
    assert (ids == end).sum() == len(messages)


@pytest.mark.parametrize('text', ['<|end|>', 'a<|assistant|>b', '<|endoftext|>', '<|user|>'])
def test_text_that_spells_a_special_token_stays_text(small, text):
    ids, _ = encode_conversation([{'role': 'user', 'content': text}, {'role': 'assistant', 'content': text}], small)
    special = set(small.special_tokens.values())
    assert [small.decode([i]) for i in ids.tolist() if i in special] == [
        '<|endoftext|>', '<|user|>', '<|end|>', '<|assistant|>', '<|end|>']
    assert small.decode(ids).count(text) >= 2


def test_a_prompt_drops_its_oldest_turns_but_keeps_the_system_message(small):
    messages = [{'role': 'system', 'content': 'Be kind.'}, *TWO_TURNS, {'role': 'user', 'content': 'And now?'}]
    whole = encode_prompt(messages, small)
    assert encode_prompt(messages, small, most=len(whole)) == whole
    assert encode_prompt(messages, small, most=len(whole) - 1) == encode_prompt([messages[0], *messages[3:]], small)
    shortest = encode_prompt([messages[0], messages[-1]], small)
    assert encode_prompt(messages, small, most=len(shortest)) == shortest
    with pytest.raises(ValueError, match='more than'):
        encode_prompt(messages, small, most=len(shortest) - 1)


@pytest.mark.parametrize('roles, word', [
    ([], 'no messages'), (['assistant'], 'message 0 has the role assistant as the first'), (['user', 'user'], 'message 1'),
    (['user', 'system'], 'message 1'), (['system', 'system'], 'message 1'), (['tool'], "'tool'"),
    (['user', 'assistant'], 'the last message has the role assistant'), (['system'], 'the last message has the role system')])
def test_roles_out_of_order_are_named(small, roles, word):
    with pytest.raises(ValueError, match=word):
        encode_prompt([{'role': role, 'content': 'x'} for role in roles], small)


def test_answers_end_at_every_token_that_only_a_conversation_has(small):
    assert {small.decode([i]) for i in stop_tokens(small)} == {*CHAT_TOKENS, '<|endoftext|>'}


# ---------------------------------------------------------------------------- shapes

@pytest.mark.parametrize('row, expected', [
    ({'messages': HI}, HI),
    ({'messages': [{'role': 'user', 'content': [{'type': 'text', 'text': 'H'}, {'type': 'text', 'text': 'i'}]}, HI[1]]}, HI),
    ({'messages': [{'role': 'developer', 'content': 'Be kind.'}, *HI]}, [{'role': 'system', 'content': 'Be kind.'}, *HI]),
    ({'id': 3, 'conversations': [{'from': 'human', 'value': 'Hi'}, {'from': 'gpt', 'value': 'Hello'}]}, HI),
    ({'instruction': 'Hi', 'input': '', 'output': 'Hello'}, HI), ({'instruction': 'Hi', 'output': 'Hello', 'chosen': 'x'}, HI),
    ({'instruction': 'Sort.', 'input': '2 1', 'output': '1 2'},
     [{'role': 'user', 'content': 'Sort.\n\n2 1'}, {'role': 'assistant', 'content': '1 2'}]),
    ({'prompt': 'Hi', 'completion': 'Hello'}, HI), ({'question': 'Hi', 'answer': 'Hello'}, HI)])
def test_every_shape_becomes_messages(row, expected):
    assert to_messages(row, shape_of(row), 'here') == expected


def test_every_shape_has_an_example_that_it_recognizes():
    for name, (_, example) in SHAPES.items():
        row = json.loads(example)
        assert shape_of(row) == name and len(to_messages(row, name, 'here')) == 2


@pytest.mark.parametrize('kind', ['jsonl', 'json', 'parquet', 'csv', 'jsonl.gz'])
def test_tables_of_every_kind_give_the_same_conversations(tmp_path, kind):
    import gzip

    import pandas
    rows = many(5)
    path = tmp_path / f'chats.{kind}'
    if kind == 'parquet':
        pandas.DataFrame(rows).to_parquet(path)
    elif kind == 'csv':
        pandas.DataFrame(rows).to_csv(path, index=False)
    elif kind == 'json':
        path.write_text(json.dumps(rows, indent=1))
    elif kind == 'jsonl':
        write_rows(path, rows)
    else:
        path.write_bytes(gzip.compress(''.join(json.dumps(row) + '\n' for row in rows).encode()))
    conversations = list(read_conversations(str(path)))
    assert conversations == [[{'role': 'user', 'content': f'Say {i}'}, {'role': 'assistant', 'content': f'{i}'}] for i in range(5)]


def test_messages_in_parquet_are_read(tmp_path):
    import pandas
    pandas.DataFrame({'messages': [TWO_TURNS, HI]}).to_parquet(tmp_path / 'chats.parquet')
    assert list(read_conversations(str(tmp_path / 'chats.parquet'))) == [TWO_TURNS, HI]


@pytest.mark.parametrize('rows, word', [
    ([{'text': 'Hi'}], 'line 1|row 1'), ([{'messages': HI}, {'prompt': 'Hi', 'completion': 'x'}], 'row 2'), ([[1]], 'row 1'),
    ([{'messages': 'Hi'}], 'list of messages'), ([{'messages': [{'role': 3}]}], 'role'),
    ([{'prompt': 5, 'completion': 'x'}], 'prompt should be text'), ([{'messages': [{'role': 'user', 'content': {}}]}], 'text')])
def test_rows_of_no_known_shape_give_a_line_that_names_them(tmp_path, rows, word):
    with pytest.raises(BadInput, match=word) as caught:
        prepare(source=write_rows(tmp_path / 'bad.jsonl', rows), out_dir=tmp_path / 'data', vocab_size=257)
    assert '\n' not in str(caught.value) and not (tmp_path / 'data').exists()


def test_an_unknown_shape_shows_those_that_are_known(tmp_path, capsys):
    assert run_script('tasks.chat', f'--source={write_rows(tmp_path / "bad.jsonl", [{"text": "Hi"}])}',
                      f'--out_dir={tmp_path / "data"}') == 2
    said = capsys.readouterr().err
    assert all(example in said for _, (_, example) in SHAPES.items())


def test_rows_that_are_no_conversation_are_left_out_and_counted(tmp_path, capsys):
    rows = [{'messages': TWO_TURNS}, {'messages': [HI[1], HI[0]]}, {'messages': [HI[0], {'role': 'assistant', 'content': None}]},
            {'messages': [*HI, {'role': 'user', 'content': 'Bye'}]}, {'messages': []}, {'messages': [{'role': 'system', 'content': 'Be kind.'}]}]
    path = write_rows(tmp_path / 'some.jsonl', rows)
    assert list(read_conversations(path)) == [TWO_TURNS, HI]
    assert 'left out 4 rows of 6' in capsys.readouterr().err
    with pytest.raises(BadInput, match='no conversation'):
        list(read_conversations(write_rows(tmp_path / 'none.jsonl', rows[1:2])))


# ---------------------------------------------------------------------------- shards

def test_conversations_become_masked_shards_with_a_tokenizer_of_their_own(tmp_path):
    path = write_rows(tmp_path / 'chats.jsonl', many())
    prepare(source=path, out_dir=tmp_path / 'data', vocab_size=257, val_fraction=0.2, system='Be kind.', block_size=100)
    tokenizer, meta = shards.load_tokenizer(str(tmp_path / 'data')), shards.load_meta(str(tmp_path / 'data'))
    assert tokenizer.vocab_size == 261 and meta['train_documents'] + meta['val_documents'] == 40
    path = str(tmp_path / 'data' / 'data_train_000001.bin')
    tokens = shards.read_shard(path)
    mask = np.unpackbits(shards.read_mask(path), count=len(tokens), bitorder='little')
    learned = tokenizer.decode(tokens[mask == 1]).split('<|end|>')[:-1]
    read = re.findall(r'<\|endoftext\|><\|system\|>Be kind.<\|end\|><\|user\|>Say (\d+)<\|end\|><\|assistant\|>',
                      tokenizer.decode(tokens))
    assert learned == read and len(learned) == meta['train_documents'] and shards.check_folder(str(tmp_path / 'data'))


def test_no_window_of_training_or_validation_cuts_a_conversation(tmp_path):
    rows = [{'prompt': f'Say {i}', 'completion': f'{i}' * (1 + i % 30)} for i in range(300)]
    prepare(source=write_rows(tmp_path / 'chats.jsonl', rows), out_dir=tmp_path / 'data', vocab_size=257, val_fraction=0.2,
            block_size=128)
    tokenizer = shards.load_tokenizer(str(tmp_path / 'data'))
    answers = set()
    for split in ('train', 'val'):
        loader = shards.BatchLoader(str(tmp_path / 'data'), split, 128, 1, seed=3)
        for _ in range(3 * loader.n_sequences):
            x, y = loader.next()
            assert x[0, 0] == tokenizer.eot
            found = re.findall(r'<\|user\|>Say (\d+)<\|end\|><\|assistant\|>(\d+)<\|end\|>', tokenizer.decode(x[0].tolist()))
            learned = tokenizer.decode(y[0][y[0] != -1].tolist())
            assert learned == ''.join(f'{answer}<|end|>' for _, answer in found) and found
            answers.update(found)
        n_used = sum(len(shards.read_shard(path)) for path in shards.find_shards(str(tmp_path / 'data'), split))
        assert n_used % 128 == 0 and (shards.read_shard(shards.find_shards(str(tmp_path / 'data'), split)[0]) != tokenizer.eot).mean() > 0.8
    assert {(row['prompt'].split()[1], row['completion']) for row in rows} >= answers and len(answers) > 290


def test_long_conversations_are_cut_between_turns_and_keep_their_system_message(small):
    system = [{'role': 'system', 'content': 'Be kind.'}]
    turns = [[{'role': 'user', 'content': f'{i}' * 10}, {'role': 'assistant', 'content': f'{i}' * n}] for i, n in enumerate((10, 10, 90, 10))]
    counts = {'too long': 0}
    parts = list(chat.cut_at_turns(system + [message for turn in turns for message in turn], small, 70, counts))
    assert parts == [system + turns[0] + turns[1], system + turns[3]] and counts == {'too long': 1}
    assert all(len(encode_conversation(part, small)[0]) <= 70 for part in parts)


def test_a_conversation_is_shown_with_what_is_learned(tmp_path, capsys, test_data):
    path = write_rows(tmp_path / 'chats.jsonl', [{'messages': TWO_TURNS}])
    prepare(source=path, show=True)
    assert capsys.readouterr().out.splitlines() == [
        'read    <|endoftext|>|<|user|>|Hi|<|end|>|<|assistant|>', 'learned Hello|<|end|>',
        'read    <|user|>|What| is| 2|+|3|?|<|end|>|<|assistant|>', 'learned <<|2|+|3|=|5|>>|5|<|end|>',
        '25 tokens, of which 11 count as targets']


def test_other_input_does_not_end_up_in_the_same_folder(tmp_path, capsys):
    path = write_rows(tmp_path / 'chats.jsonl', many())
    settings = {'source': path, 'out_dir': tmp_path / 'data', 'vocab_size': 257}
    prepare(**settings)
    prepare(**settings)
    assert 'already made' in capsys.readouterr().out
    write_rows(tmp_path / 'chats.jsonl', many(50))
    with pytest.raises(BadInput, match='other input files'):
        prepare(**settings)


# ---------------------------------------------------------------------------- training

def test_the_table_of_gpt2_xls_memory_is_what_follows_from_its_sizes():
    with torch.device('meta'):
        model = GPT(GPTConfig(n_layer=48, n_head=25, n_embd=1600, vocab_size=50261))
    matrices = sum(p.numel() for p in model.transformer.h.parameters() if p.dim() == 2)
    n_params = sum(p.numel() for p in model.parameters())
    sizes = [4 * n_params, 4 * n_params, 4 * matrices, 8 * (n_params - matrices), 2 * n_params, 2 * 48 * 1024 * 1600]
    page = (ROOT / 'docs' / '9_chat.md').read_text()
    table = re.findall(r'^\| [^|]+ \| (?:float32|bfloat16)? \| ([\d.]+) \|$', page, re.M)
    assert [float(size) for size in table[:-1]] == [round(size / 1e9, 2) for size in sizes]
    assert float(table[-1]) == round(sum(sizes) / 1e9, 1) < 24 and f'{n_params / 1e6:,.0f} million parameters' in page


def test_pretrained_weights_get_rows_for_the_new_tokens_at_the_mean(tmp_path, exported, capsys):
    torch.manual_seed(1)
    plain = Tokenizer.train(['Hello there'], 257, progress=False)
    model = GPT(GPTConfig(block_size=32, vocab_size=257, n_layer=1, n_head=2, n_embd=8))
    export.export(model, plain, str(tmp_path / 'plain'))
    prepare(source=write_rows(tmp_path / 'chats.jsonl', many()), out_dir=tmp_path / 'data', val_fraction=0.2, block_size=32,
            tokenizer=tmp_path / 'plain' / 'tokenizer.json')
    settings = {'init_from': tmp_path / 'plain', 'data_dir': tmp_path / 'data', 'out_dir': tmp_path / 'out', 'max_steps': 1,
                'total_batch_tokens': 64, 'micro_batch': 2, 'learning_rate': 1e-30, 'eval_tokens': 64, 'sample_interval': 0,
                'device': 'cpu', 'dtype': 'float32'}
    train.main(configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))
    assert f'try it: python sample.py --out_dir={tmp_path / "out"} --chat=True' in capsys.readouterr().out
    tuned, tokenizer, _ = pretrained.load(str(tmp_path / 'out'))
    weight = tuned.transformer.wte.weight
    assert tokenizer.vocab_size == tuned.config.vocab_size == 261 and tuned.config.block_size == 32
    before = model.transformer.wte.weight[:257]
    torch.testing.assert_close(weight[:257], before)
    torch.testing.assert_close(weight[257:261], before.mean(dim=0).expand(4, -1))
    assert not weight[261:].any()


def test_preferences_of_every_shape_are_read(tmp_path):
    rows = [{'prompt': 'Hi', 'chosen': 'Hello', 'rejected': 'What'}, {'instruction': 'Hi', 'chosen': 'Hello', 'rejected': 'What'},
            {'chosen': HI, 'rejected': [HI[0], {'role': 'assistant', 'content': 'What'}]},
            {'prompt': [HI[0]], 'chosen': [HI[1]], 'rejected': [{'role': 'assistant', 'content': 'What'}]}]
    assert read_preferences(write_rows(tmp_path / 'pairs.jsonl', rows)) == [([HI[0]], 'Hello', 'What')] * 4


@pytest.mark.parametrize('row, word', [({'prompt': 'Hi', 'chosen': 'x'}, 'keys prompt, chosen'),
                                       ({'prompt': 'Hi', 'chosen': '', 'rejected': 'x'}, 'empty'),
                                       ({'prompt': 3, 'chosen': 'a', 'rejected': 'x'}, 'should be text'),
                                       ({'prompt': 'a', 'chosen': [], 'rejected': 'x'}, 'of role assistant'),
                                       ({'prompt': HI, 'chosen': [HI[0]], 'rejected': [HI[0]]}, 'of role assistant')])
def test_rows_without_two_answers_are_named(tmp_path, row, word):
    with pytest.raises(BadInput, match=word):
        read_preferences(write_rows(tmp_path / 'pairs.jsonl', [row]))
