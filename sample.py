"""Writes text with a trained model.

    python sample.py --out_dir=out/demo --prompt='def '                 # the newest checkpoint of a run
    python sample.py --init_from=gpt2 --prompt='Once upon a time' --num_samples=3
    cat story.txt | python sample.py --init_from=gpt2-xl --prompt_file=-
    python sample.py --out_dir=out/demo --chat=True                     # go on writing together, line by line

Text appears as it is made. It ends at <|endoftext|>, at `stop`, or after max_new_tokens. Several texts are written as
one batch and shown one after the other. In a chat, each line of yours is added to the text so far, which the model
continues; /help lists the commands there, such as /temperature 0.7. Ctrl-C stops the text that is being written.
"""
import codecs
import sys
import time

import torch

import pretrained
from runtime import hardware
from configurator import accept_as, choice, configure, optional
from runtime.errors import BadInput, one_line_errors
from inference.engine import Engine, Request, check_request
from tasks.tool_use import Calculator

DEFAULTS = {
    # model
    'out_dir': 'out',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead of out_dir: a checkpoint file, a folder in Hugging Face's layout, or gpt2[-medium|-large|-xl]
    # text
    'prompt': '',  # what the text begins with; empty: a new document
    'prompt_file': optional(str),  # read the prompt from this file; - reads standard input
    'num_samples': 1,  # how many texts
    'max_batch': 16,  # how many of them at once
    'max_new_tokens': 300,  # longest text, in tokens
    'temperature': 0.8,  # 0: always the likeliest token; 1: the model's own distribution
    'top_k': optional(int, 50),  # only the k likeliest tokens
    'top_p': optional(float),  # only the likeliest tokens that together have this probability
    'repetition_penalty': 1.0,  # above 1: tokens that are there already become less likely
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


def main(config):
    prompt = read_prompt(config)
    config = {**config, **{key: unescape(config[key]) for key in ('stop', 'template')}}
    check(config)
    device = hardware.pick_device(config['device'])
    dtype = hardware.pick_dtype(config['dtype'], device)
    if config['compile'] and hardware.why_no_compile(device):
        raise BadInput(f'compile=True: {hardware.why_no_compile(device)}')
    model, tokenizer, source = pretrained.load(config['init_from'] or config['out_dir'])
    torch.seed()  # texts without a seed are others every time
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
        data = sys.stdin.buffer.read() if path == '-' else open(path, 'rb').read()
        return data.decode('utf-8')
    except OSError as error:
        raise BadInput(f'prompt file {path}: {error.strerror}') from None
    except UnicodeDecodeError as error:
        raise BadInput(f'prompt file {path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#x}') from None


def check(config):
    for key in ('num_samples', 'max_batch', 'max_new_tokens'):
        if config[key] < 1:
            raise BadInput(f'{key}={config[key]} should be at least 1')
    if '{}' not in config['template']:
        raise BadInput(f'template={config["template"]!r} should have {{}} where the line goes')
    if config['stop'] == '':
        raise BadInput("stop='' would end every text at once; leave it out")


def unescape(text):
    r"""Lets people type \n for a new line."""
    return text.replace('\\n', '\n') if isinstance(text, str) else text


def make_request(config, tokenizer, ids, calculator=None):
    return Request(ids, config['max_new_tokens'], config['temperature'], config['top_k'], config['top_p'], config['seed'],
                   (tokenizer.eot,), config['repetition_penalty'], tool=calculator)


def write_samples(engine, tokenizer, prompt, config, calculator=None):
    """Prints num_samples texts: the one at hand as it is made, while those after it are made beside it."""
    request = make_request(config, tokenizer, tokenizer.encode(prompt) or [tokenizer.eot], calculator)
    started, texts = time.perf_counter(), []
    for number in range(config['num_samples']):
        if number == len(texts):  # the next batch
            n = min(engine.free, config['num_samples'] - number)
            if config['seed'] is not None:
                request.seed = config['seed'] + number
            texts += [Text(sequence, tokenizer, config['stop']) for sequence in engine.add(request, n)]
        if config['num_samples'] > 1:
            print(f'{"" if number == 0 else chr(10)}--- {number + 1} of {config["num_samples"]}')
        print(prompt, end='', flush=True)
        while not texts[number].ended:
            print(texts[number].new(), end='', flush=True)
            step(engine, texts)
        print(texts[number].new(), flush=True)
    elapsed_s, n_written = time.perf_counter() - started, sum(len(text.sequence.tokens) for text in texts)
    print(f'{n_written} tokens in {elapsed_s:.1f} s, {n_written / elapsed_s:.1f} tokens/s', file=sys.stderr)


def step(engine, texts):
    """One more token for each text that goes on; a text that has reached its stop words leaves the engine."""
    engine.step()
    for text in texts:
        if not text.ended and text.read() and text.sequence.finish_reason is None:
            engine.remove(text.sequence)


class Text:
    """The characters of a sequence that may be shown already: whole ones, and none that may begin the stop words."""

    def __init__(self, sequence, tokenizer, stop):
        self.sequence, self.tokenizer, self.stop = sequence, tokenizer, stop
        self.decoder = codecs.getincrementaldecoder('utf-8')(errors='replace')  # a character may take several tokens
        self.n_read, self.text, self.n_shown, self.ended = 0, '', 0, False

    def read(self):
        """Decodes what is new; returns whether the text has ended."""
        for token in self.sequence.tokens[self.n_read:]:
            if token != self.tokenizer.eot:
                self.text += self.decoder.decode(self.tokenizer.token_bytes(token))
        self.n_read = len(self.sequence.tokens)
        self.ended = self.sequence.finish_reason is not None
        if self.ended:
            self.text += self.decoder.decode(b'', final=True)
        if self.stop is not None and self.stop in self.text:
            self.text, self.ended = self.text[:self.text.index(self.stop)], True
        return self.ended

    def new(self):
        """What may be shown since the last call."""
        end = len(self.text)
        if self.stop is not None and not self.ended:
            end -= next(n for n in range(len(self.stop) - 1, -1, -1) if self.text.endswith(self.stop[:n]))
        shown, self.n_shown = self.text[self.n_shown:end], max(self.n_shown, end)
        return shown


class Chat:
    """Writing in turns: each line is added to the text so far, and the model continues it."""

    def __init__(self, engine, tokenizer, config, calculator=None):
        self.engine, self.tokenizer, self.config, self.calculator = engine, tokenizer, dict(config), calculator
        self.turns = []  # the text before each turn, for /undo
        self.text = ''

    def run(self, prompt):
        """Reads lines until Ctrl-D or /quit. With a terminal, the arrow keys edit a line and bring back earlier ones."""
        try:
            import readline  # noqa: F401  input() uses it once it is there
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
                self.command(*line[1:].partition(' ')[::2])
            else:
                self.answer(self.config['template'].replace('{}', line))

    def command(self, name, value):
        """Carries out a line that begins with a slash."""
        if name in CHANGEABLE:
            self.change(name, value.strip())
        elif name == 'help':
            print(f'/KEY VALUE   changes a setting: {", ".join(CHANGEABLE)}\n'
                  '/settings    shows them\n/text        shows the text so far\n/new         begins a new text\n'
                  '/undo        takes the last turn back\n/retry       writes the last turn again\n/quit        ends')
        elif name == 'settings':
            print('\n'.join(f'{key} = {self.config[key]!r}' for key in CHANGEABLE))
        elif name == 'text':
            print(self.text)
        elif name == 'new':
            self.turns, self.text = [], ''
            print('(a new text)')
        elif name in ('undo', 'retry'):
            if not self.turns:
                print('(there is no turn yet)')
                return
            self.text, added = self.turns.pop()
            if name == 'retry':
                self.answer(added)
            else:
                print('(took the last turn back)')
        else:
            print(f'no command /{name}; /help lists them')

    def change(self, key, value):
        """Sets a setting to the value of a text, or says what is wrong with it."""
        default = DEFAULTS[key]
        if not value:
            print(f'{key} = {self.config[key]!r}')
            return
        try:
            changed = default.parse(value) if isinstance(default, optional) else accept_as(type(default), type(default)(value))
        except ValueError:
            kind = default.name if isinstance(default, optional) else type(default).__name__
            print(f'{key} should be {kind}, not {value!r}')
            return
        config = {**self.config, key: unescape(changed)}
        try:
            check(config)
            check_request(self.engine.config, make_request(config, self.tokenizer, [self.tokenizer.eot]))
        except BadInput as error:
            print(error)
            return
        self.config = config
        print(f'{key} = {config[key]!r}')

    def answer(self, added):
        """Adds a turn of the user's to the text and prints how the model goes on. Ctrl-C ends it early."""
        self.turns.append((self.text, added))
        self.text += added
        (sequence,) = self.engine.add(make_request(self.config, self.tokenizer,
                                                   self.tokenizer.encode(self.text) or [self.tokenizer.eot], self.calculator))
        text = Text(sequence, self.tokenizer, self.config['stop'])
        try:
            while not text.ended:
                step(self.engine, [text])
                print(text.new(), end='', flush=True)
        except KeyboardInterrupt:
            if sequence.finish_reason is None and sequence in self.engine.running:
                self.engine.remove(sequence)
        print(flush=True)
        self.text += text.text


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
