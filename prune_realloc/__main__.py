from prune_realloc.cli import main

main()
