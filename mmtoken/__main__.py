"""Runs any script with what :mod:`mmtoken.compat` mends in place, such as upstream's own tools.

python -m mmtoken SCRIPT [ARGS ...]       a script
python -m mmtoken -m MODULE [ARGS ...]    a module
python -m mmtoken --always on|off         every Python of this environment imports mmtoken when it starts
"""

import runpy
import sys
import sysconfig
from pathlib import Path

#: Read by Python's start-up; nothing happens once mmtoken is gone.
START = "import importlib.util; importlib.util.find_spec('mmtoken') and __import__('mmtoken')\n"


def always(switch: str) -> str:
    """Puts the file that Python reads at its start, or takes it away; returns what was done."""
    file = Path(sysconfig.get_path('purelib')) / 'mmtoken-always.pth'
    if switch == 'on':
        file.write_text(START)
        return f'{file}: every Python of this environment now imports mmtoken'
    file.unlink(missing_ok=True)
    return f'{file} is gone'


def main(argv: list[str]) -> None:
    """Runs what the command line names, as ``python`` itself would."""
    if argv[:1] == ['--always'] and argv[1:] in (['on'], ['off']):
        print(always(argv[1]))
    elif argv[:1] == ['-m'] and len(argv) > 1:
        sys.argv = argv[1:]
        runpy.run_module(argv[1], run_name='__main__', alter_sys=True)
    elif argv and not argv[0].startswith('-'):
        if not Path(argv[0]).is_file():
            print(f'no such script: {argv[0]}', file=sys.stderr)
            sys.exit(2)
        sys.argv = argv
        sys.path[0] = str(Path(argv[0]).resolve().parent)
        runpy.run_path(argv[0], run_name='__main__')
    else:
        print(__doc__.strip(), file=sys.stderr if argv != ['--help'] else sys.stdout)
        sys.exit(0 if argv == ['--help'] else 2)


if __name__ == '__main__':
    main(sys.argv[1:])
