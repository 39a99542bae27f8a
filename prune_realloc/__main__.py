from prune_realloc.cli.app import main

main()
