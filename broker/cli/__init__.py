"""The command line: `broker COMMAND ...`. Each module of `broker.cli.commands` is a command; `catalogue` lists them."""
