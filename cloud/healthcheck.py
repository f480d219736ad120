"""Whether the container is well: exit code 0 if its server answers, or if it does not serve.

entrypoint.sh leaves the port in a file when it starts the server. This script knows nothing about models.
"""
import os
import sys
import tempfile
import urllib.request

TIMEOUT_S = 8


def main():
    path = os.path.join(tempfile.gettempdir(), 'scratchgpt_port')
    if not os.path.exists(path):
        return
    with open(path) as file:
        url = f'http://127.0.0.1:{int(file.read())}/healthz'
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            answer.read()
    except OSError as error:
        sys.exit(f'{url}: {error}')


if __name__ == '__main__':
    main()
