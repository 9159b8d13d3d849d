"""`broker acl RUN`: the ACL rules of a trainer, a worker, a gateway, an observer and an admin of a run."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from broker.cli import options
from broker.cli.failure import CommandFailure
from broker.cli.output import Output
from broker.errors import BadName
from broker.protocol.roles import ROLES, rules
from broker.values.names import check_name


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", nargs="?", help="the run's name; it need not exist yet")
    parser.add_argument("--prefix", metavar="TEXT", help="in place of RUN: all runs whose names begin so")
    parser.add_argument(
        "--role",
        choices=sorted(ROLES),
        action="append",
        help="print this role alone; may be given again (default: all)",
    )
    parser.add_argument("--user", metavar="NAME", help="the name of the user (default: RUN-ROLE); with one --role")
    parser.add_argument(
        "--add",
        action="store_true",
        help="add to the user's rights and take none away: while workers of two releases share a run",
    )
    parser.add_argument("--file", action="store_true", help="print lines for an ACL file, not for redis-cli")
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker acl math-7b                              who may do what, a line for each role\n"
        "  broker acl math-7b --role worker | redis-cli    makes the user math-7b-worker, without a password\n"
        "  redis-cli ACL SETUSER math-7b-worker '>secret'  gives it one: the URL is redis://math-7b-worker:secret@...\n"
        "  broker acl --prefix team/ --role observer --user grafana",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Print the rules; no server is asked."""
    name, is_prefix = _checked(namespace)
    roles = [ROLES[role] for role in dict.fromkeys(namespace.role or ROLES)]
    if namespace.file and namespace.add:
        raise CommandFailure("--add adds to a user on the server; a line of a file is all of the user's rights")
    if namespace.user is not None and len(roles) != 1:
        raise CommandFailure("--user names one user: give one --role with it")
    for role in roles:
        user = namespace.user or f"{name.rstrip('/:.-')}-{role.name}"
        given = rules(role, name, is_prefix=is_prefix)
        if output.as_json:
            output.json({"role": role.name, "does": role.does, "user": user, "rules": given})
            continue
        # Passwords stay as they are: a user without one cannot log in.
        fresh = [] if namespace.add else ["on", "resetkeys", "resetchannels", "-@all"]
        output.line(" ".join(["user" if namespace.file else "ACL SETUSER", user, *fresh, *given]))
    return 0


def _checked(namespace: Namespace) -> tuple[str, bool]:
    if (namespace.run is None) == (namespace.prefix is None):
        raise CommandFailure("for which runs? Give RUN, or --prefix TEXT")
    name: str = namespace.run if namespace.prefix is None else namespace.prefix
    try:
        return check_name("run", name), namespace.prefix is not None
    except BadName as error:
        raise CommandFailure(str(error)) from error
