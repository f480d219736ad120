"""sample.py --chat=True with a model that was trained on conversations, in a terminal and from a pipe."""
import os
import signal

import pytest
from conftest import run_script
from test_chat_serve import ask, chat_folder, export_chat_model, reference, served  # noqa: F401, the fixtures too
from test_sample import Terminal, folder, run_sample  # noqa: F401, the fixture too

import sample
from chat_template import encode_prompt, encode_with_room


def user(text):
    return {'role': 'user', 'content': text}


def assistant(text):
    return {'role': 'assistant', 'content': text}


def greedy(served, messages, n=12):
    return ask(served, messages, temperature=0, max_tokens=n).choices[0].message.content


@pytest.mark.slow
def test_answers_are_those_of_the_server_turn_after_turn(chat_folder, served):
    lines = ['Hi', 'What is it?', 'Say it again']
    result = run_sample(chat_folder, '--chat=True', '--temperature=0', '--max_new_tokens=12', '--system=Be\\nkind.', input='\n'.join(lines))
    messages = [{'role': 'system', 'content': 'Be\nkind.'}]
    for line in lines:
        messages.append(user(line))
        messages.append(assistant(greedy(served, messages)))
    said = ''.join(f'> {message["content"]}\n' for message in messages if message['role'] == 'assistant')
    assert result.returncode == 0 and result.stdout == said + '> \n' and 'context' not in result.stderr
    first = run_sample(chat_folder, '--chat=True', '--temperature=0', '--max_new_tokens=12', '--system=Be\\nkind.', '--prompt=Hi',
                       input='\n'.join(lines[1:]))
    assert first.stdout == said.removeprefix('> ') + '> \n'


@pytest.mark.slow
def test_the_oldest_turns_are_left_out_when_the_context_is_full_which_is_said_once(chat_folder, served, reference):
    lines = [f'Say {i} {i} {i}' for i in range(8)]
    result = run_sample(chat_folder, '--chat=True', '--temperature=0', '--max_new_tokens=8', '--system=Be kind.',
                        input='\n'.join([*lines, '/history', 'x' * 200, 'Hi']))
    assert result.stderr.count('the context of 96 tokens is full: the model no longer sees the oldest turns') == 1
    assert 'the last message and the system message have' in result.stdout and 'more than the 96' in result.stdout
    system, said = [{'role': 'system', 'content': 'Be kind.'}], []
    for line in lines:
        ids = encode_with_room([*system, *said, user(line)], reference[1], 96, 8)
        assert len(ids) <= 88
        text = served.client.completions.create(model='chatty', prompt=ids, temperature=0, max_tokens=8).choices[0].text.split('<|')[0]
        said += [user(line), assistant(text)] if text.strip() else []
        assert f'> {text}\n' in result.stdout
    history = ''.join(f'{message["role"]}: {message["content"]}\n' for message in [*system, *said])
    assert f'> {history}> ' in result.stdout
    assert len(encode_prompt([*system, *said[:-1]], reference[1])) > 96


@pytest.fixture
def terminal(chat_folder):
    terminal = Terminal(chat_folder, '--temperature=0')
    yield terminal
    terminal.close()


@pytest.mark.slow
def test_a_chat_carries_out_commands(terminal, served):
    terminal.until('\n> ')
    hi = greedy(served, [user('Hi')], 5)
    assert f'{hi}\n> ' in terminal.type('Hi')
    again = greedy(served, [user('Hi'), assistant(hi), user('Say it')], 5)
    assert f'{again}\n> ' in terminal.type('Say it')
    assert f'user: Hi\nassistant: {hi}\nuser: Say it\nassistant: {again}\n> ' in terminal.type('/history')
    assert f'user: Hi\nassistant: {hi}\n> ' in terminal.type('/undo')
    assert f'{again}\n> ' in terminal.type('Say it')
    assert "system = 'Be kind.'" in terminal.type('/system Be kind.')
    kind = greedy(served, [{'role': 'system', 'content': 'Be kind.'}, user('Hi'), assistant(hi), user('Say it'), assistant(again), user('Why?')], 5)
    assert f'{kind}\n> ' in terminal.type('Why?')
    assert 'system = None' in terminal.type('/system none')
    assert 'a new conversation' in terminal.type('/reset') and 'nothing was said yet' in terminal.type('/history')
    assert f'{hi}\n> ' in terminal.type('Hi')
    assert 'temperature = 0.7' in terminal.type('/temperature 0.7') and 'max_new_tokens = 5' in terminal.type('/max_new_tokens')
    assert 'no command /text' in terminal.type('/text') and '/history' in terminal.type('/help')
    assert terminal.type('') == '\n> '
    os.write(terminal.master, b'\x04')
    assert terminal.process.wait(300) == 0


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_whose_beginning_stays(tmp_path, data_dir):
    terminal = Terminal(export_chat_model(tmp_path, data_dir, ends=False), '--max_new_tokens=1000000')
    try:
        terminal.until('\n> ')
        os.write(terminal.master, b'What is it?\n')
        terminal.until('it?\r\n')
        written = ''
        while len(written) < 500:
            written += os.read(terminal.master, 4096).decode(errors='replace')
        os.killpg(terminal.process.pid, signal.SIGINT)
        terminal.until('\n> ')
        assert 'max_new_tokens = 1000000' in terminal.type('/max_new_tokens')
        assert f'user: What is it?\nassistant: {written[:100]}'.replace('\r', '') in terminal.type('/history')
    finally:
        terminal.close()


@pytest.mark.slow
def test_an_answer_without_text_is_no_turn(chat_folder, capsys, monkeypatch):
    lines = iter(['Hi', '/history'])
    monkeypatch.setattr(sample, 'read_lines', lambda: lines)
    monkeypatch.setattr(sample, 'continue_text', lambda *arguments: ' ')
    from configurator import configure
    sample.main(configure(sample.DEFAULTS, [f'--init_from={chat_folder}', '--chat=True', '--device=cpu', '--calculator=True']))
    assert capsys.readouterr().out == '(the model said nothing)\n(nothing was said yet)\n'


@pytest.mark.slow
def test_a_system_message_needs_a_conversation(folder, chat_folder, capsys):
    for model, flags, words in ((chat_folder, [], 'needs --chat=True'), (folder, ['--chat=True'], 'was not trained on conversations')):
        assert run_script('sample.py', f'--init_from={model}', '--system=Be kind.', '--device=cpu', *flags) == 2
        out, err = capsys.readouterr()
        assert words in err and not out


@pytest.mark.slow
def test_a_model_without_the_tokens_continues_lines_as_ever(folder):
    result = run_sample(folder, '--chat=True', '--max_new_tokens=3', input="one\n/text\n/history")
    assert 'one' in result.stdout and 'no command /history' in result.stdout
