"""`broker functions`: the releases' function libraries on a server."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from broker.cli import options
from broker.cli.confirmation import confirmed
from broker.cli.failure import EXIT_FINDING
from broker.cli.output import Output, Table
from broker.errors.words import count

if TYPE_CHECKING:
    from broker.operator import FunctionLibrary

_COLUMNS = ("library", "server", "bytes", "of")


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--delete-old",
        action="store_true",
        help="delete those of other releases; one that is still at work loads its own again with its next call",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(parser, "  broker functions\n  broker functions --delete-old --yes     # after an upgrade")


def run(namespace: Namespace, output: Output) -> int:
    """List the libraries; ask, then delete those of other releases."""
    with options.connected(namespace) as operator:
        found = operator.libraries()
        old = [library for library in found if not library.of_this_release]
        deletes = namespace.delete_old and bool(old)
        if deletes and not namespace.yes:
            what = count(len(old), "library of another release", "libraries of other releases")
            effect = f"This deletes {what}. Who still uses one loads it again with the next call."
            if not confirmed(output, effect, word="yes", word_is="yes"):
                output.note("nothing was deleted")
                return EXIT_FINDING
        deleted = operator.delete_old_libraries() if deletes else []
    if output.as_json:
        for library in found:
            output.json(
                {
                    "library": library.name,
                    "server": library.server,
                    "bytes": library.size,
                    "this_release": library.of_this_release,
                    "deleted": library in deleted,
                }
            )
        return 0
    kept = [library for library in found if library not in deleted]
    if kept:
        rows = [(each.name, each.server, f"{each.size:,}", _owner(each)) for each in kept]
        output.table(Table(_COLUMNS, rows, numeric=frozenset({2})))
    else:
        output.note("no function library of the broker is on this server")
    if deleted:
        output.line(f"{count(len(deleted), 'library', 'libraries')} deleted")
    elif namespace.delete_old:
        output.note("nothing of another release is there")
    elif old:
        output.note("`broker functions --delete-old` deletes those of other releases")
    return 0


def _owner(library: FunctionLibrary) -> str:
    return "this release" if library.of_this_release else "another release"
