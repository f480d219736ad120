"""What the server counts, in the text format of Prometheus."""
import math
import time
from collections import Counter

PATHS = '/', '/v1/completions', '/invocations', '/v1/models', '/ping', '/healthz', '/metrics', '/openapi.json'


class Histogram:
    """Seconds, counted in buckets that double."""
    bounds = [0.01 * 2 ** i for i in range(15)]  # 10 ms to 164 s

    def __init__(self):
        self.counts, self.sum = [0] * (len(self.bounds) + 1), 0.0

    def observe(self, value):
        self.counts[next((i for i, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))] += 1
        self.sum += value

    def lines(self, name):
        total = 0
        for bound, count in zip([*self.bounds, math.inf], self.counts):
            total += count
            yield f'{name}_bucket{{le="{"+Inf" if bound == math.inf else f"{bound:g}"}"}} {total}'
        yield f'{name}_sum {self.sum:.6f}'
        yield f'{name}_count {total}'


class Metrics:
    """Counters of the whole server."""

    def __init__(self):
        self.requests = Counter()  # (path, status): answers
        self.n_open = self.n_given_up = self.n_prompt_tokens = self.n_new_tokens = 0
        self.first_token_s, self.request_s = Histogram(), Histogram()

    def count_answer(self, path, status):
        """Counts an answer under one of a few paths, whatever clients ask for."""
        label = path if path in PATHS else '/v1/models' if path.startswith('/v1/models/') else 'other'
        self.requests[label, status] += 1

    def count_jobs(self, jobs, given_up):
        """Counts the jobs of a request that is answered or given up."""
        self.n_given_up += given_up
        for job in jobs:
            self.n_prompt_tokens += len(job.request.ids) if job.started_at else 0
            self.n_new_tokens += job.n_new_tokens
            if job.first_token_at:
                self.first_token_s.observe(job.first_token_at - job.submitted_at)
        if not given_up:
            self.request_s.observe(time.monotonic() - jobs[0].submitted_at)

    def render(self, worker) -> str:
        rows = [  # name, kind, help, value
            ('prompt_tokens_total', 'counter', 'Tokens of prompts that were computed.', self.n_prompt_tokens),
            ('new_tokens_total', 'counter', 'Tokens of texts that are finished or given up.', self.n_new_tokens),
            ('given_up_total', 'counter', 'Requests whose client went away or that ran out of time.', self.n_given_up),
            ('steps_total', 'counter', 'Steps of the engine: a token for each running text.', worker.n_steps),
            ('engine_tokens_total', 'counter', 'Tokens that these steps gave.', worker.n_tokens),
            ('running', 'gauge', 'Texts that are being written.', worker.engine.n_running),
            ('waiting', 'gauge', 'Texts that wait for a slot.', worker.n_waiting),
            ('open_requests', 'gauge', 'Requests that are not answered to the end.', self.n_open),
            ('first_token_seconds', 'histogram', 'From a request to its first token.', self.first_token_s),
            ('request_seconds', 'histogram', 'From a request to the end of its answer.', self.request_s)]
        lines = ['# HELP scratchgpt_requests_total Answers, by path and status.', '# TYPE scratchgpt_requests_total counter']
        lines += [f'scratchgpt_requests_total{{path="{path}",status="{status}"}} {count}'
                  for (path, status), count in self.requests.items()]
        for name, kind, help, value in rows:
            name = f'scratchgpt_{name}'
            lines += [f'# HELP {name} {help}', f'# TYPE {name} {kind}']
            lines += value.lines(name) if isinstance(value, Histogram) else [f'{name} {value}']
        return '\n'.join(lines) + '\n'
