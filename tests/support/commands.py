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

    dist.init_process_group("gloo")  # which the commands use, and leave as it is
    for arguments, printed in json.loads(sys.argv[1]):
        sys.argv = ["prune-realloc", *arguments]
        with Path(f"{printed}{os.environ['RANK']}").open("w") as file, contextlib.redirect_stdout(file):
            try:
                run()
            except SystemExit as leave:
                if leave.code:
                    raise
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
