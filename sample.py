"""Writes text with a trained model.

    python sample.py --out_dir=out/demo --prompt='def '                 # the newest checkpoint of a run
    python sample.py --init_from=gpt2 --prompt='Once upon a time' --num_samples=3
    cat story.txt | python sample.py --init_from=gpt2-xl --prompt_file=-
    python sample.py --out_dir=out/demo --chat=True                     # go on writing together, line by line
    python sample.py --out_dir=out/chat --chat=True --system='Answer in one sentence.'    # talk, if it was trained to

Text appears as it is written. It ends at <|endoftext|>, at `stop`, or after max_new_tokens. Several texts are written as
one batch and shown one after the other. In a chat, a model that was trained on conversations answers what you say, as far
back as its context reaches; with any other, each line of yours is added to the text so far, which the model continues.
/help lists the commands there, such as /temperature 0.7. Ctrl-C stops the text that is being written.
"""
import runtime.waiting  # noqa: F401  before torch

# isort: split
import sys
import time

from chat_template import encode_prompt, encode_with_room, has_chat_tokens, need_chat_tokens, stop_tokens
from configurator import as_settings, check_bounds, choice, configure, optional, read_flag
from inference import may_compile, open_model
from inference.engine import Engine, Request
from inference.text import TextStream
from runtime.errors import BadInput, one_line_errors, warn_once
from runtime.words import plural
from tasks.tool_use import Calculator

DEFAULTS = {
    # model
    'out_dir': 'out',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead of out_dir: a checkpoint file, Hugging Face folder, or gpt2[-medium|-large|-xl]
    # text
    'prompt': '',  # what the text begins with, \n being a line end; empty: a new document
    'prompt_file': optional(str),  # read the prompt from this file as it is; - reads standard input
    'num_samples': 1,  # how many texts
    'max_batch': 16,  # how many of them at once
    'max_new_tokens': 300,  # longest text, in tokens
    'temperature': 0.8,  # 0: always the likeliest token; 1: the model's own distribution
    'top_k': optional(int, 50),  # only the k likeliest tokens
    'top_p': optional(float),  # only the likeliest tokens that together have this probability
    'repetition_penalty': 1.0,  # above 1: tokens that the text already has become less likely
    'stop': optional(str),  # the text ends before these words, \n being a line end
    'seed': optional(int),  # the same seed gives the same texts
    'calculator': False,  # put the result behind every <<48/2= that the model writes
    # chat
    'chat': False,  # read lines from the terminal and answer them, or continue them, one after the other
    'system': optional(str),  # what a conversation begins with: how to answer
    'template': '{}',  # what a line becomes, {} being the line; as in 'Question: {}\nAnswer:'
    # machine
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('auto', 'bfloat16', 'float16', 'float32'),  # of the weights and the arithmetic
    'weights': choice('auto', 'int8', 'int4'),  # on a CPU: weights rounded to 8 or 4 bits, which are read faster
    'compile': optional(bool),  # None: on a GPU yes, on a CPU no; the first steps are slow, as they compile, then all are fast
}
REQUEST_SETTINGS = ('max_new_tokens', 'temperature', 'top_k', 'top_p', 'repetition_penalty', 'seed')
CHANGEABLE = (*REQUEST_SETTINGS, 'stop', 'template')  # in a chat
HELP = f"""/KEY VALUE  changes a setting, /KEY shows it: {", ".join(CHANGEABLE)}
/text       shows the text so far
/new        begins a new text
/undo       takes the last turn back, and shows what is left
/quit or Ctrl-D ends"""
ENDS = '/quit', '/exit'
HELP_TO_TALK = f"""/KEY VALUE  changes a setting, /KEY shows it: {", ".join((*CHANGEABLE, "system"))}
/history    shows the conversation
/new        begins a new one
/undo       takes the last turn back, and shows what is left
/quit or Ctrl-D ends"""


def main(config):
    config = unescape(config)
    prompt = read_prompt(config)
    check(config)
    model, tokenizer, source = open_model(config)
    if config['system'] is not None:
        need_chat_tokens(tokenizer, source)
    compile = may_compile(config['compile'], model.transformer.wte.weight.device)
    engine = Engine(model, min(config['num_samples'], config['max_batch']), compile, config['weights'])
    calculator = Calculator(tokenizer) if config['calculator'] else None
    write = write_samples if not config['chat'] else converse if has_chat_tokens(tokenizer) else chat
    write(engine, tokenizer, prompt, config, calculator)


def read_prompt(config):
    """The prompt from the flag, a file or standard input. Of a file, line ends are one character, as in texts to train on."""
    path = config['prompt_file']
    if path is None:
        return config['prompt']
    if config['prompt']:
        raise BadInput('give --prompt or --prompt_file, not both')
    if path == '-' and config['chat']:
        raise BadInput('--chat reads lines from standard input, so the prompt cannot come from there; name a file')
    try:
        with open(sys.stdin.fileno() if path == '-' else path, encoding='utf-8-sig', newline='') as file:
            return file.read().replace('\r\n', '\n')
    except OSError as error:
        raise BadInput(f'prompt_file={path} cannot be read ({error.strerror}); name a file, or - for standard input') from None
    except UnicodeDecodeError as error:
        raise BadInput(f'prompt_file={path} should be text in UTF-8, but byte {error.start:,} is none; for latin-1: '
                       f'iconv -f latin1 -t utf-8') from None


def unescape(config):
    r"""Lets people type \n for a line end in prompt, stop, system and template."""
    return {key: value.replace('\\n', '\n') if key in ('prompt', 'stop', 'system', 'template') and value else value
            for key, value in config.items()}


def check(config):
    check_bounds(config, 'num_samples', 'max_batch', 'max_new_tokens', at_least=1)
    if '{}' not in config['template']:
        raise BadInput(f'template={config["template"]!r} should have {{}} where the line goes')
    if config['stop'] == '':
        raise BadInput("stop='' would end every text at once; leave it out")
    if config['system'] is not None and not config['chat']:
        raise BadInput('--system begins a conversation, so it needs --chat=True')
    make_request(config, [0])  # checks the other settings


def make_request(config, ids, **more):
    return Request(ids, **{key: config[key] for key in REQUEST_SETTINGS}, **more)


def start_texts(engine, tokenizer, prompt, config, calculator, n=1):
    """n texts that continue the prompt, a text or the token ids of a conversation."""
    ids = (tokenizer.encode(prompt) or [tokenizer.eot]) if isinstance(prompt, str) else prompt
    if len(ids) > engine.config.block_size:
        warn_once(f'the prompt has {plural(len(ids), "token")}, more than the context of {engine.config.block_size}: '
                  'the model reads its end alone')
    stops = stop_tokens(tokenizer) if config['chat'] and has_chat_tokens(tokenizer) else (tokenizer.eot,)
    request = make_request(config, ids, stop_tokens=stops, tool=calculator)
    stops = () if config['stop'] is None else (config['stop'],)
    return [TextStream(sequence, tokenizer, stops) for sequence in engine.add(request, n)]


def show(engine, texts, current):
    """Prints one text as it is written, up to its end. Those beside it in the batch are written further."""
    n_shown = 0
    while True:
        print(current.text[n_shown:], end='', flush=True)
        n_shown = len(current.text)
        if current.finish_reason is not None:
            return
        engine.step()
        for text in texts:
            text.read()
            if text.finish_reason is not None:
                engine.remove(text.sequence)


def write_samples(engine, tokenizer, prompt, config, calculator):
    """Prints num_samples texts one after the other, written in batches."""
    started, texts, n = time.perf_counter(), [], config['num_samples']
    for number in range(n):
        if number == len(texts):  # the next batch
            seed = None if config['seed'] is None else config['seed'] + number
            texts += start_texts(engine, tokenizer, prompt, {**config, 'seed': seed}, calculator, min(engine.free, n - number))
        if n > 1:
            print(f'{"" if number == 0 else chr(10)}--- {number + 1} of {n}')
        print(prompt, end='', flush=True)
        show(engine, texts, texts[number])
        print(flush=True)
    elapsed_s, n_written = time.perf_counter() - started, sum(len(text.sequence.tokens) for text in texts)
    print(f'{n_written} tokens in {elapsed_s:.1f} s, {n_written / elapsed_s:.1f} tokens/s', file=sys.stderr)


def chat(engine, tokenizer, prompt, config, calculator):
    """Adds each line that is read to the text, and prints how the model continues it."""
    print('A line of yours is continued; /help lists what else can be typed, Ctrl-D ends', file=sys.stderr)
    texts = ['']  # after each turn
    if prompt:
        texts.append(prompt + continue_text(engine, tokenizer, prompt, config, calculator))
    for line in read_lines():
        command, _, value = line.partition(' ')
        if command == '/help':
            print(HELP)
        elif command == '/text':
            print(texts[-1])
        elif command == '/undo':
            texts = texts[:-1] or ['']
            print(texts[-1])
        elif command in ('/new', '/reset'):
            texts = ['']
            print('(a new text)')
        elif command.startswith('/'):
            config = change_setting(config, command[1:], value.strip())
        else:
            prompt = texts[-1] + config['template'].replace('{}', line)
            texts.append(prompt + continue_text(engine, tokenizer, prompt, config, calculator))


def converse(engine, tokenizer, prompt, config, calculator):
    """Answers each line that is read, after the turns before it."""
    print('What you say is answered; /help lists what else can be typed, Ctrl-D ends', file=sys.stderr)
    messages = answer(engine, tokenizer, [], prompt, config, calculator) if prompt else []
    for line in read_lines():
        command, _, value = line.partition(' ')
        if command == '/help':
            print(HELP_TO_TALK)
        elif command in ('/history', '/undo'):
            messages = messages[:-2] if command == '/undo' else messages
            lines = [f'{message["role"]}: {message["content"]}' for message in as_conversation(messages, config)]
            print('\n'.join(lines) or '(nothing was said yet)')
        elif command in ('/new', '/reset'):
            messages = []
            print('(a new conversation)')
        elif command.startswith('/'):
            config = change_setting(config, command[1:], value.strip(), (*CHANGEABLE, 'system'))
        elif line.strip():
            messages = answer(engine, tokenizer, messages, config['template'].replace('{}', line), config, calculator)


def as_conversation(messages, config):
    return [{'role': 'system', 'content': config['system']}] * bool(config['system']) + messages


def answer(engine, tokenizer, messages, question, config, calculator):
    """Prints what the model answers, and returns the messages with this turn, or as they were if there is no answer."""
    asked = [*messages, {'role': 'user', 'content': question}]
    conversation, block_size = as_conversation(asked, config), engine.config.block_size
    try:
        ids = encode_with_room(conversation, tokenizer, block_size, config['max_new_tokens'])
    except ValueError as error:
        print(error)
        return messages
    if len(ids) < len(encode_prompt(conversation, tokenizer)):
        warn_once(f'the context of {block_size} tokens is full: the model no longer sees the oldest turns')
    text = continue_text(engine, tokenizer, ids, config, calculator)
    if not text.strip():
        print('(the model said nothing)')
        return messages
    return [*asked, {'role': 'assistant', 'content': text}]


def read_lines():
    """Yields what is typed, up to Ctrl-D or /quit. In a terminal, the arrow keys edit a line and bring back earlier ones."""
    try:
        import readline  # noqa: F401  importing it is what makes input() use it
    except ImportError:  # Windows has none
        pass
    while True:
        try:
            line = input('> ')
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print('\n(Ctrl-D ends)', file=sys.stderr)
            continue
        if line.partition(' ')[0] in ENDS:
            return
        yield line


def change_setting(config, key, value, changeable=CHANGEABLE):
    """The config with the value that was typed, or as it was, after saying what is wrong with it."""
    if key not in changeable:
        print(f'no command /{key}; /help lists them')
        return config
    try:
        if value:
            changed = unescape({**config, key: read_flag(f'--{key}={value}', as_settings(DEFAULTS))[1]})
            check(changed)
            config = changed
        print(f'{key} = {config[key]!r}')
    except BadInput as error:
        print(error)
    return config


def continue_text(engine, tokenizer, prompt, config, calculator):
    """Prints and returns how the model continues a text, or the token ids of a conversation. Ctrl-C ends it early."""
    (text,) = start_texts(engine, tokenizer, prompt, config, calculator)
    try:
        show(engine, [text], text)
    except KeyboardInterrupt:
        engine.remove(text.sequence)
    print(flush=True)
    return text.text


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
