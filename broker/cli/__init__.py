"""The command line: `broker COMMAND ...`. One module per command in `broker.cli.commands`; none decides about tasks."""
