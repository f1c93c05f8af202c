"""Mistakes of the user: one line on stderr and exit code 2."""

import re
import sys
from contextlib import contextmanager


class UserError(Exception):
    """A mistake of the user's, in one line: what is wrong, what would be right. See :func:`one_line_errors`."""


@contextmanager
def one_line_errors():
    """Inside, what mmtoken itself refuses ends the program with one line on stderr and exit code 2, argparse's own.

    That is a :class:`UserError`, a ``ValueError`` or ``TypeError`` raised in mmtoken, and an operator of mmcv that it
    has no stand-in for. Any other error, of upstream or of torch, keeps its traceback.
    """
    try:
        yield
    except UserError as error:
        _end(str(error), error)
    except (TypeError, ValueError, NotImplementedError) as error:
        root: BaseException = error
        while type(root.__context__) is type(error):  # older mmengine wraps it in its own kind
            root = root.__context__
        trace = root.__traceback__
        while trace.tb_next is not None:
            trace = trace.tb_next
        module = trace.tb_frame.f_globals
        if not module['__name__'].startswith('mmtoken.') and module['__name__'] != 'mmcv._ext':
            raise
        _end(re.sub(r'class `\w+` in \S+: ', '', str(error)), error)


def _end(line: str, error: Exception):
    print(line, file=sys.stderr)
    end = SystemExit(line)  # which holds the line, though the interpreter only looks at the code
    end.code = 2
    raise end from error
