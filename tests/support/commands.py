"""Several command lines in a process of a group, for tests in which starting takes longest.

Called with a JSON list of (arguments, file); what a command prints goes to the file with the process's number at its
end.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

import torch.distributed as dist


def main() -> None:
    from prune_realloc.cli.app import main as run

    for arguments, printed in json.loads(sys.argv[1]):
        sys.argv = ["prune-realloc", *arguments]
        with Path(f"{printed}{os.environ['RANK']}").open("w") as file, contextlib.redirect_stdout(file):
            try:
                run()
            except SystemExit as leave:
                if leave.code:
                    raise
        assert dist.is_initialized(), "the processes have parted, and may not find each other again"


if __name__ == "__main__":
    main()
