"""The command line: `broker COMMAND ...`. Each module of `broker.cli.commands` is one command, `catalogue` lists them."""
