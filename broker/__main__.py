"""`python -m broker` is the command `broker`."""

from broker.cli.main import entry_point

if __name__ == "__main__":
    entry_point()
