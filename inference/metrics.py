"""What the server counts, in the text format of Prometheus."""
import bisect
import itertools
import time
from collections import Counter

PATHS = ('/', '/v1/completions', '/v1/chat/completions', '/invocations', '/tokenize', '/v1/models', '/ping', '/healthz',
         '/metrics', '/openapi.json')
BUCKETS_S = [0.01 * 2 ** i for i in range(15)]  # 10 ms to 164 s


class Histogram:
    """Seconds, counted in buckets."""

    def __init__(self):
        self.counts, self.sum = [0] * (len(BUCKETS_S) + 1), 0.0

    def observe(self, seconds):
        self.counts[bisect.bisect_left(BUCKETS_S, seconds)] += 1
        self.sum += seconds

    def samples(self):
        """{suffix of the metric's name: value}"""
        bounds = [*(f'{bound:g}' for bound in BUCKETS_S), '+Inf']
        totals = list(itertools.accumulate(self.counts))
        buckets = {f'_bucket{{le="{bound}"}}': total for bound, total in zip(bounds, totals)}
        return {**buckets, '_sum': self.sum, '_count': totals[-1]}


class Metrics:
    """Counters of the whole server."""

    def __init__(self):
        self.requests = Counter()  # (path, status): answers
        self.n_open = self.n_given_up = self.n_prompt_tokens = 0
        self.first_token_s, self.request_s = Histogram(), Histogram()

    def count_answer(self, path, status):
        """Counts an answer under one of a few paths, whatever clients ask for."""
        self.requests[path if path in PATHS else 'other', status] += 1

    def count_jobs(self, jobs, given_up):
        """Counts the jobs of a request that is answered or given up."""
        self.n_given_up += given_up
        for job in jobs:
            self.n_prompt_tokens += len(job.request.ids) if job.started_at else 0
            if job.first_token_at:
                self.first_token_s.observe(job.first_token_at - job.submitted_at)
        if not given_up:
            self.request_s.observe(time.monotonic() - jobs[0].submitted_at)

    def render(self, worker) -> str:
        answers = {f'{{path="{path}",status="{status}"}}': n for (path, status), n in self.requests.items()}
        lines = []
        for name, kind, help, value in (
                ('requests_total', 'counter', 'Answers, by path and status.', answers),
                ('prompt_tokens_total', 'counter', 'Tokens of prompts that were computed.', self.n_prompt_tokens),
                ('new_tokens_total', 'counter', 'Tokens that the model wrote.', worker.n_tokens),
                ('given_up_total', 'counter', 'Requests whose client went away or that ran out of time.', self.n_given_up),
                ('steps_total', 'counter', 'Steps of the engine: a token for each running text.', worker.n_steps),
                ('running', 'gauge', 'Texts that are being written.', worker.engine.n_running),
                ('waiting', 'gauge', 'Texts that wait for a slot.', worker.n_waiting),
                ('open_requests', 'gauge', 'Requests that are not answered to the end.', self.n_open),
                ('first_token_seconds', 'histogram', 'From a request to its first token.', self.first_token_s.samples()),
                ('request_seconds', 'histogram', 'From a request to the end of its answer.', self.request_s.samples())):
            samples = value if isinstance(value, dict) else {'': value}
            lines += [f'# HELP scratchgpt_{name} {help}', f'# TYPE scratchgpt_{name} {kind}']
            lines += [f'scratchgpt_{name}{suffix} {n}' for suffix, n in samples.items()]
        return '\n'.join(lines) + '\n'
