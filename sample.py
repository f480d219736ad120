"""Writes text with a trained model.

    python sample.py --out_dir=out/demo --prompt='def '                 # the newest checkpoint of a run
    python sample.py --init_from=gpt2 --prompt='Once upon a time' --num_samples=3
    cat story.txt | python sample.py --init_from=gpt2-xl --prompt_file=-
    python sample.py --out_dir=out/demo --chat=True                     # go on writing together, line by line

Text appears as it is written. It ends at <|endoftext|>, at `stop`, or after max_new_tokens. Several texts are written as
one batch and shown one after the other. In a chat, each line of yours is added to the text so far, which the model
continues; /help lists the commands there, such as /temperature 0.7. Ctrl-C stops the text that is being written.
"""
import pathlib
import sys
import time

import torch

import pretrained
from configurator import choice, configure, optional, plain
from inference.engine import Engine, Request
from inference.sampling import check_request
from inference.text import TextStream
from runtime import hardware
from runtime.errors import BadInput, one_line_errors
from tasks.tool_use import Calculator

DEFAULTS = {
    # model
    'out_dir': 'out',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead of out_dir: a checkpoint file, Hugging Face folder, or gpt2[-medium|-large|-xl]
    # text
    'prompt': '',  # what the text begins with; empty: a new document
    'prompt_file': optional(str),  # read the prompt from this file; - reads standard input
    'num_samples': 1,  # how many texts
    'max_batch': 16,  # how many of them at once
    'max_new_tokens': 300,  # longest text, in tokens
    'temperature': 0.8,  # 0: always the likeliest token; 1: the model's own distribution
    'top_k': optional(int, 50),  # only the k likeliest tokens
    'top_p': optional(float),  # only the likeliest tokens that together have this probability
    'repetition_penalty': 1.0,  # above 1: tokens that the text already has become less likely
    'stop': optional(str),  # the text ends before these words
    'seed': optional(int),  # the same seed gives the same texts
    'calculator': False,  # put the result behind every <<48/2= that the model writes
    # chat
    'chat': False,  # read lines from the terminal and continue them, one after the other
    'template': '{}',  # what a line becomes, {} being the line; as in 'Question: {}\nAnswer:'
    # machine
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('auto', 'bfloat16', 'float16', 'float32'),  # of the weights and the arithmetic
    'compile': False,  # make one graph of a step; pays for long texts on a GPU
}
CHANGEABLE = ('max_new_tokens', 'temperature', 'top_k', 'top_p', 'repetition_penalty', 'stop', 'seed', 'template')
HELP = f"""/KEY VALUE   changes a setting: {", ".join(CHANGEABLE)}
/settings    shows them
/text        shows the text so far
/new         begins a new text
/undo        takes the last turn back
/retry       writes the last turn again
/quit        ends"""


def main(config):
    prompt, config = read_prompt(config), unescape(config)
    check(config)
    device = hardware.pick_device(config['device'])
    dtype = hardware.pick_dtype(config['dtype'], device)
    if config['compile'] and hardware.why_no_compile(device):
        raise BadInput(f'compile=True: {hardware.why_no_compile(device)}')
    model, tokenizer, source = pretrained.load(config['init_from'] or config['out_dir'])
    torch.seed()  # texts without a seed differ every time
    check_request(model.config, make_request(config, tokenizer, [tokenizer.eot]))
    engine = Engine(model.to(device, dtype), min(config['num_samples'], config['max_batch']), config['compile'])
    print(f'{source}: {model.n_params():,} parameters, {hardware.describe(device)}, {str(dtype).removeprefix("torch.")}',
          file=sys.stderr)
    calculator = Calculator(tokenizer) if config['calculator'] else None
    if config['chat']:
        Chat(engine, tokenizer, config, calculator).run(prompt)
    else:
        write_samples(engine, tokenizer, prompt, config, calculator)


def read_prompt(config):
    """The prompt from the flag, a file or standard input."""
    path = config['prompt_file']
    if path is None:
        return config['prompt']
    if config['prompt']:
        raise BadInput('--prompt and --prompt_file exclude each other')
    if path == '-' and config['chat']:
        raise BadInput('--chat reads lines from standard input, so the prompt cannot come from there; name a file')
    try:
        data = sys.stdin.buffer.read() if path == '-' else pathlib.Path(path).read_bytes()
        return data.decode('utf-8')
    except OSError as error:
        raise BadInput(f'prompt file {path}: {error.strerror}') from None
    except UnicodeDecodeError as error:
        raise BadInput(f'prompt file {path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#x}') from None


def unescape(config):
    r"""Lets people type \n for a new line in stop and template."""
    return {key: value.replace('\\n', '\n') if key in ('stop', 'template') and value else value
            for key, value in config.items()}


def check(config):
    for key in ('num_samples', 'max_batch', 'max_new_tokens'):
        if config[key] < 1:
            raise BadInput(f'{key}={config[key]} should be at least 1')
    if '{}' not in config['template']:
        raise BadInput(f'template={config["template"]!r} should have {{}} where the line goes')
    if config['stop'] == '':
        raise BadInput("stop='' would end every text at once; leave it out")


def make_request(config, tokenizer, ids, number=0, tool=None):
    """The request for sample `number` and those after it."""
    seed = None if config['seed'] is None else config['seed'] + number
    return Request(ids, config['max_new_tokens'], config['temperature'], config['top_k'], config['top_p'], seed,
                   (tokenizer.eot,), config['repetition_penalty'], tool=tool)


def start_texts(engine, tokenizer, prompt, config, calculator, number=0, n=1):
    """n texts that continue the prompt, from sample `number` on."""
    request = make_request(config, tokenizer, tokenizer.encode(prompt) or [tokenizer.eot], number, calculator)
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


def write_samples(engine, tokenizer, prompt, config, calculator=None):
    """Prints num_samples texts one after the other, written in batches."""
    started, texts, n = time.perf_counter(), [], config['num_samples']
    for number in range(n):
        if number == len(texts):  # the next batch
            texts += start_texts(engine, tokenizer, prompt, config, calculator, number, min(engine.free, n - number))
        if n > 1:
            print(f'{"" if number == 0 else chr(10)}--- {number + 1} of {n}')
        print(prompt, end='', flush=True)
        show(engine, texts, texts[number])
        print(flush=True)
    elapsed_s, n_written = time.perf_counter() - started, sum(len(text.sequence.tokens) for text in texts)
    print(f'{n_written} tokens in {elapsed_s:.1f} s, {n_written / elapsed_s:.1f} tokens/s', file=sys.stderr)


class Chat:
    """Writing in turns: each line is added to the text so far, and the model continues it."""

    def __init__(self, engine, tokenizer, config, calculator=None):
        self.engine, self.tokenizer, self.config, self.calculator = engine, tokenizer, config, calculator
        self.text = ''
        self.turns = []  # (the text before it, what the user added) of each turn

    def run(self, prompt):
        """Reads lines until Ctrl-D or /quit. In a terminal, the arrow keys edit a line and bring back earlier ones."""
        try:
            import readline  # noqa: F401  importing it is what makes input() use it
        except ImportError:  # Windows has none
            pass
        print('A line of yours is continued; /help lists what else can be typed, Ctrl-D ends.', file=sys.stderr)
        if prompt:
            self.answer(prompt)
        while True:
            try:
                line = input('> ')
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print('\n(Ctrl-D or /quit ends)', file=sys.stderr)
                continue
            if line.strip() in ('/quit', '/exit'):
                return
            if line.startswith('/'):
                name, _, value = line[1:].partition(' ')
                self.command(name, value.strip())
            else:
                self.answer(self.config['template'].replace('{}', line))

    def command(self, name, value):
        """Executes a line that begins with a slash."""
        if name in CHANGEABLE:
            self.change(name, value)
        elif name == 'help':
            print(HELP)
        elif name == 'settings':
            print('\n'.join(f'{key} = {self.config[key]!r}' for key in CHANGEABLE))
        elif name == 'text':
            print(self.text)
        elif name == 'new':
            self.turns, self.text = [], ''
            print('(a new text)')
        elif name not in ('undo', 'retry'):
            print(f'no command /{name}; /help lists them')
        elif not self.turns:
            print('(there is no turn yet)')
        else:
            self.text, added = self.turns.pop()
            if name == 'retry':
                self.answer(added)
            else:
                print('(took the last turn back)')

    def change(self, key, value):
        """Gives a setting the value that was typed, or says what is wrong with it. Shows it if none was typed."""
        default = DEFAULTS[key]
        setting = default if isinstance(default, optional) else plain(default)
        try:
            config = unescape({**self.config, key: setting.parse(value)}) if value else self.config
            check(config)
            check_request(self.engine.config, make_request(config, self.tokenizer, [self.tokenizer.eot]))
            self.config = config
            print(f'{key} = {config[key]!r}')
        except BadInput as error:
            print(error)
        except ValueError:
            print(f'{key} should be {setting.name}, not {value!r}')

    def answer(self, added):
        """Adds a turn to the text and prints how the model continues it. Ctrl-C ends it early."""
        self.turns.append((self.text, added))
        self.text += added
        (text,) = start_texts(self.engine, self.tokenizer, self.text, self.config, self.calculator)
        try:
            show(self.engine, [text], text)
        except KeyboardInterrupt:
            self.engine.remove(text.sequence)
        print(flush=True)
        self.text += text.text


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
