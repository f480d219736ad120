"""Puts a server under load and checks every answer: many clients on this machine, against serve.py in a process of its own.

    python tests/load_serve.py --out_dir=out/demo                    # about two minutes; exit code 1 if anything is wrong
    python tests/load_serve.py --init_from=gpt2 --seconds=20 --new_tokens=64

One after the other: tokens/s of one client and of 16; 64 clients at once for `seconds`, every greedy answer compared with
that of the same request alone, memory watched; 200 clients that disconnect in the middle of their streams.
"""
import asyncio
import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter

import httpx

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from configurator import configure, optional  # noqa: E402
from runtime.errors import one_line_errors  # noqa: E402

DEFAULTS = {
    'out_dir': 'out/demo',  # a run's folder
    'init_from': optional(str),  # instead of out_dir: as for serve.py
    'seconds': 60.0,  # how long 64 clients stay
    'rate_seconds': 10.0,  # how long tokens/s are measured for
    'new_tokens': 100,  # longest answer
    'stream': False,  # measure tokens/s with streams instead of whole answers
    'max_batch': 16,  # of the server
}
PROMPTS = ['def ', 'import ', 'class Parser', '    def __init__(self, ', 'The quick brown fox', '"""Return a list of ',
           'for i in range(10):\n    ', 'if __name__ ==', 'try:\n    import json\nexcept', '# Copyright (c) ' * 8]


def main(config):
    command = [sys.executable, os.path.join(sys.path[0], 'serve.py'), '--port=0', f'--max_batch={config["max_batch"]}',
               f'--out_dir={config["out_dir"]}', *([f'--init_from={config["init_from"]}'] if config['init_from'] else [])]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            print(line.rstrip())
            found = re.search(r' at (http://\S+/),', line)
            if found:
                break
        else:
            raise SystemExit('the server did not start')
        wrong = asyncio.run(measure(config, found.group(1), server.pid))
    finally:
        server.terminate()
    print(f'the server ended with exit code {server.wait(60)}')
    sys.exit(1 if wrong else 0)


async def measure(config, url, pid):
    """Runs all parts; returns how many things were wrong."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        bodies = make_bodies(config['new_tokens'])
        alone = [await ask(client, body) for body in bodies]  # one after the other, nothing else running
        one = await rate(client, config, 1)
        sixteen = await rate(client, config, 16)
        print(f'tokens/s: {one:.1f} for one client, {sixteen:.1f} for 16 together, {sixteen / one:.2f} times as many')
        wrong = await crowd(client, config, bodies, [text for _, text in alone], pid)
        return wrong + await leave(client, 200)


def make_bodies(new_tokens):
    """Requests of all lengths, greedy, every other one a stream."""
    rng = random.Random(0)
    return [{'prompt': prompt, 'temperature': 0, 'max_tokens': rng.randint(1, new_tokens), 'stream': bool(i % 2)}
            for i, prompt in enumerate(PROMPTS * 4)]


async def ask(client, body):
    """(status, text) of one request."""
    answer = await client.post('v1/completions', json=body)
    if answer.status_code != 200:
        return answer.status_code, answer.text
    if not body['stream']:
        return 200, answer.json()['choices'][0]['text']
    events = [json.loads(part[6:]) for part in answer.text.split('\n\n') if part.startswith('data: {')]
    return 200, ''.join(event['choices'][0]['text'] for event in events)


async def rate(client, config, n_clients):
    """Tokens a second of n clients, each of which asks again as soon as it has its answer."""
    body = {'temperature': 1.0, 'max_tokens': config['new_tokens'], 'stream': config['stream']}
    await ask(client, {**body, 'prompt': PROMPTS[0]})
    before, started = await read_metrics(client), time.perf_counter()

    async def go(number):
        for i in itertools.count(number):
            await ask(client, {**body, 'prompt': PROMPTS[i % 4]})

    tasks = [asyncio.create_task(go(i)) for i in range(n_clients)]
    await asyncio.sleep(config['rate_seconds'])
    after = await read_metrics(client)
    elapsed_s = time.perf_counter() - started
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until_idle(client)
    return (after['new_tokens_total'] - before['new_tokens_total']) / elapsed_s


async def crowd(client, config, bodies, alone, pid, n_clients=64):
    """64 clients for `seconds`: counts answers by status, and those that differ from the same request alone."""
    statuses, different, memory = Counter(), [], []
    started = time.perf_counter()

    async def go(number):
        rng = random.Random(number)
        while time.perf_counter() - started < config['seconds']:
            i = rng.randrange(len(bodies))
            try:
                status, text = await ask(client, bodies[i])
            except httpx.HTTPError as error:
                status, text = type(error).__name__, ''
            statuses[status] += 1
            if status == 200 and text != alone[i]:
                different.append(i)
            if status == 429:
                await asyncio.sleep(1)

    async def watch():
        while True:
            memory.append(resident_mb(pid))
            await asyncio.sleep(max(0.5, config['seconds'] / 12))

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(go(number) for number in range(n_clients)))
    watcher.cancel()
    failures = sum(count for status, count in statuses.items() if status not in (200, 429))
    print(f'{n_clients} clients for {config["seconds"]:g} s: {dict(statuses)}, {failures} failures, {len(different)} answers '
          f'that differ from the same request alone')
    print('server memory in MB meanwhile:', ' '.join(f'{mb:.0f}' for mb in memory))
    return failures + len(different)


async def leave(client, n_clients):
    """Clients that go away after their stream's first bytes: nothing may go on running for them."""
    statuses = Counter()

    async def go():
        body = {'prompt': PROMPTS[0], 'max_tokens': 4000, 'stream': True, 'temperature': 1.0}
        while True:
            async with client.stream('POST', 'v1/completions', json=body) as answer:
                statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    async for _ in answer.aiter_raw():
                        return
            await asyncio.sleep(1)  # 429: as it asks to

    await asyncio.gather(*(go() for _ in range(n_clients)))
    started = time.perf_counter()
    metrics = await until_idle(client)
    left = metrics['running'] + metrics['waiting']
    print(f'{n_clients} clients that disconnect: {dict(statuses)}; {left:.0f} texts running or waiting '
          f'{time.perf_counter() - started:.2f} s after the last')
    return left


async def until_idle(client, seconds=10):
    """The metrics once nothing runs, or when the time is up."""
    deadline = time.perf_counter() + seconds
    while True:
        metrics = await read_metrics(client)
        if not metrics['running'] + metrics['waiting'] or time.perf_counter() > deadline:
            return metrics
        await asyncio.sleep(0.05)


async def read_metrics(client):
    """{name: value} of those without labels."""
    lines = (await client.get('metrics')).text.splitlines()
    return {name: float(value) for name, value in re.findall(r'^scratchgpt_(\w+) (\S+)$', '\n'.join(lines), re.M)}


def resident_mb(pid):
    with open(f'/proc/{pid}/status') as file:
        return int(re.search(r'VmRSS:\s+(\d+)', file.read()).group(1)) / 1024


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
