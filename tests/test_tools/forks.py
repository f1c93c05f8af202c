"""A process that has imported what the tools need, and runs scripts in forks of itself.

Each fork is a process of its own, in the state of one that has just started; the imports alone take longer than most of
the scripts run. Every line of the input is a request in JSON, every line of the output its return codes.
"""

import importlib
import json
import os
import runpy
import signal
import sys

for name in ('mmtoken.models', 'mmengine.runner', 'mmdet.models', 'mmseg.apis', 'mmseg.datasets'):
    importlib.import_module(name)

#: Seconds that a script may take.
LIMIT = 300


def become(folder: str, argv: list[str], env: dict[str, str]) -> None:
    """Turns a fork into ``python SCRIPT ARGUMENTS``, started in a folder that modules are found in."""
    os.chdir(folder)
    for number, name in enumerate(('/dev/null', 'stdout', 'stderr')):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    os.environ.update(env)
    sys.argv, sys.path[:0] = argv, [os.path.dirname(argv[0]), folder]
    signal.alarm(LIMIT)


for line in sys.stdin:
    request = json.loads(line)
    processes = []
    for env in request['env']:
        processes.append(os.fork())
        if processes[-1] == 0:
            become(request['folder'], request['argv'], env)
            runpy.run_path(sys.argv[0], run_name='__main__')
            sys.exit()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]), flush=True)
