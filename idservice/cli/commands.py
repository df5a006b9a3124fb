"""The table of commands: for each its function, its help, its settings and its arguments.

A command of two words, such as `tally add`, belongs to a group, which is its first word. The
parser, the completion of shells and the reference are made of this table.
"""

from collections.abc import Sequence

from idservice.cli.command import Command, Group, number, rate, takes
from idservice.core.amounts import DECIMALS_MAX
from idservice.core.limits import NUMBER_MAX, SHARDS_MAX
from idservice.server import settings as config

SHARDS = (
    "number of positions, 1 (the default) to 64. Several spread the load of a hot item; ids then"
    " rise only within each shard"
)
COUNTERS = "List the counters: state, position, used share of the limit, shards, runway."
NEXT = (
    "Print the next id, or several. They are taken from the store itself, above the ids that "
    "running services hold in memory. With --url they come from a running service."
)
SHOW = "Show a counter, as it is in the store or as a running service reports it."
TOP = "Show a running service and its counters; problems first. Ctrl-C ends it."
BENCH = (
    "Measure a running service, and check that every id it gives is distinct. The ids are real and"
    " are not given to anybody else. Exit 1 on a repeated id, on a broken order, on an answer that"
    " cannot be read, and if no request was answered with ids; errors are counted and do not fail"
    " the run."
)
DOCTOR = (
    "Examine a store, its counters and, on SQLite, its tallies; the certificate of --tls-cert and "
    "--tls-key; and whether the listeners of --listen ask for access keys. For each finding say "
    "what it is, why it matters and what to do. Change nothing. Exit 1 on a warning or a fault, 0 "
    "if nothing is worse than advice."
)
USAGE = (
    "Report the ids that were handed out and the adds that were counted, as the instances wrote "
    "them into the store. Without days the report is about this month, up to now. Ids that `next` "
    "took from the store itself are not among them."
)
COMPLETION = (
    "Print a script with which a shell completes commands and flags. For bash, in ~/.bashrc:"
    ' eval "$(idservice completion bash)".'
)


TALLIES = (
    "Sums that count each key once: create one, add to it, show it, change it, compare it with its"
    " records."
)
ADD = (
    "Add an amount to a tally, once for ever under its key. Without --key a new one is made, and "
    "printed with the result. If it is not known whether the amount was counted, print the "
    "command that asks again with the same key."
)
AUDIT = (
    "Compare the sum of a tally with all its records. On DynamoDB this reads the whole table. "
    "Adds may go on meanwhile. Exit 1 if they differ."
)
LIST = "List the tallies, except deleted ones. On DynamoDB this reads the whole table."
KEY = "names the request: the same key is counted once, for ever"

KEYS = (
    "Access keys, with which several teams share one service: make one, list them, revoke one. They"
    " are kept in the store, without their secrets."
)
KEY_CREATE = (
    "Make an access key, and print nothing else on standard output. The key is shown once and "
    "kept nowhere. A service asks for keys if it was started with --require-keys."
)
SCOPES = (
    "the counters and tallies that the key covers: names, prefixes such as 'acme.*', or '*', "
    "separated by commas"
)
ROLE = "read: show and list; use: also take ids and add; admin: also change, and make keys"


NAME = takes("name", metavar="NAME", help="the counter")
JSON = takes("--json", action="store_true", help="print JSON")
REASON = takes("--reason", metavar="TEXT", default="", help="the reason, for the log and `show`")
BOUNDS = (
    number("--request-max", help="the most ids of one request; 0: no bound (default)"),
    rate("--rate-max", help="ids per second that each instance gives; 0: no bound (default)"),
)
TALLY = takes("name", metavar="NAME", help="the tally")
STORE = (config.STORE,)
STORE_OR_SERVICE = (config.STORE, config.KEY_FILE)
ASK = (config.STORE, config.URL, config.KEY_FILE, config.ANSWER_TIMEOUT)
CHANGE = (config.STORE, config.RUNWAY)

COMMANDS = {
    "serve": Command("server.process:run", "Serve ids over HTTP.", config.SERVE),
    "init": Command("cli.store_commands:init", "Create the store with its default counter.", STORE),
    "create": Command(
        "cli.store_commands:create", "Create a counter, or take over an existing one.",
        (*STORE_OR_SERVICE, config.RUNWAY),
        (
            takes("name", metavar="NAME", help="the name of the counter"),
            number("--start", help="the first id (default: 0)"),
            number("--limit", default=NUMBER_MAX, help="the highest id (default: 2^53 - 1)"),
            takes("--strict", action="store_true",
                 help="one order over all instances; a write per batch"),
            number("--shards", least=1, most=SHARDS_MAX, default=1, help=SHARDS),
            *BOUNDS,
            takes("--adopt-table", metavar="T", help="take over the counter in a DynamoDB table"),
            takes("--adopt-key", metavar="A=V[,A=V]", help="the key of its item"),
            takes("--adopt-attribute", metavar="A", help="the attribute that holds its value"),
            takes("--adopt-returns", choices=("old", "new"),
                 help="the value that its endpoint answers: before the increment, or after it"),
            REASON,
        ),
    ),
    "counters": Command("cli.store_commands:counters", COUNTERS, STORE_OR_SERVICE, (JSON,)),
    "show": Command(
        "cli.store_commands:show", SHOW, ASK, (NAME, JSON),
    ),
    "next": Command(
        "cli.next_ids:next_ids", NEXT, ASK,
        (
            takes("--format", choices=("text", "json", "ranges"), default="text",
                 help="one id per line (the default), or as the service answers it"),
            takes("--count", metavar="N", help="number of ids (default: one)"),
            takes("name", nargs="?", metavar="NAME", help="the counter (default: default)"),
        ),
    ),
    "set": Command(
        "cli.change_commands:set_next", "Go on from another id.", CHANGE,
        (
            NAME,
            number("--next", required=True, help="the id to go on from"),
            takes("--allow-lower", action="store_true", help="repeat ids that are in use"),
            takes("--force", action="store_true", help="skip more than a million ids"),
            REASON,
        ),
    ),
    "configure": Command(
        "cli.change_commands:configure", "Change the limit, the runway or the bounds of a counter.",
        (config.STORE,),
        (
            NAME,
            number("--limit", help="the highest id; the counter goes on where it is"),
            takes("--runway", metavar="S",
                 help="seconds that its ids in memory last without the store, 1 to 86400"),
            *BOUNDS,
            takes("--force", action="store_true",
                 help="accept a limit below ids in use: no ids are left then"),
            REASON,
        ),
    ),
    "suspend": Command(
        "cli.change_commands:suspend", "Hand out no ids of a counter until it is resumed.", CHANGE,
        (NAME, REASON),
    ),
    "resume": Command("cli.change_commands:resume", "End a suspension.", CHANGE, (NAME, REASON)),
    "reshard": Command(
        "cli.change_commands:reshard", "Give a counter in use another number of shards.", CHANGE,
        (
            NAME,
            number("--shards", least=1, most=SHARDS_MAX, required=True, help=SHARDS),
            REASON,
        ),
    ),
    "delete": Command(
        "cli.change_commands:delete", "Delete a counter; its ids are not used again.", CHANGE,
        (NAME, REASON),
    ),
    "fence": Command(
        "cli.change_commands:fence", "Go on above every id that may be in use, after a restore.",
        CHANGE,
        (
            takes("name", metavar="NAME", nargs="?", help="the counter"),
            takes("--all", action="store_true", help="every counter, and the store's identity"),
            number("--past", help="the highest id that may be in use"),
            number("--ahead", help="distance beyond the highest id known to the store"),
            takes("--dry-run", action="store_true",
                 help="print each counter before and after, and change nothing"),
            takes("--force", action="store_true",
                 help="skip more than a million ids, or leave none below the limit"),
            REASON,
        ),
    ),
    "move": Command(
        "cli.change_commands:move", (
            "Move a counter to another store; its ids go on there, above all old ids."
        ),
        CHANGE,
        (
            NAME,
            takes("--to", metavar="URL", required=True,
                 help="the store that it goes to; it must be initialised"),
            REASON,
        ),
    ),
    "adopt": Command(
        "cli.change_commands:adopt", "End an adoption: the old endpoint stops counting.", CHANGE,
        (
            NAME,
            takes("--finish", action="store_true", help="switch the old endpoint off, for good"),
            REASON,
        ),
    ),
    "tally create": Command(
        "cli.tally_commands:create", "Create a tally.", STORE,
        (
            takes("name", metavar="NAME", help="the name of the tally"),
            number("--decimals", default=0, most=DECIMALS_MAX,
                    help="digits after the point, 0 (the default) to 9; fixed for good"),
            takes("--floor", metavar="X", help="the lowest sum (default: no bound)"),
            takes("--ceiling", metavar="X", help="the highest sum (default: no bound)"),
            takes("--start", metavar="X", help="the first sum (default: 0)"),
            takes("--only", metavar="X",
                 help="the one amount that an add may have; then the sum cannot be set"),
        ),
    ),
    "tally add": Command(
        "cli.tally_commands:add", ADD, ASK,
        (
            TALLY,
            takes("amount", metavar="AMOUNT", help="a number such as 12.50 or -3"),
            takes("--key", metavar="K", help=KEY),
            JSON,
        ),
    ),
    "tally show": Command(
        "cli.tally_commands:show", "Show a tally, read from the store at this moment.", ASK,
        (TALLY, JSON),
    ),
    "tally list": Command("cli.tally_commands:list_all", LIST, STORE, (JSON,)),
    "tally set": Command(
        "cli.tally_commands:set_sum", "Set the sum of a tally; its records keep the difference.",
        STORE,
        (
            TALLY,
            takes("--sum", metavar="X", required=True, help="the new sum"),
            takes("--key", metavar="K", help=KEY),
            REASON,
        ),
    ),
    "tally configure": Command(
        "cli.tally_commands:configure", "Change the bounds of a tally.", STORE,
        (
            TALLY,
            takes("--floor", metavar="X", help="the lowest sum, or none"),
            takes("--ceiling", metavar="X", help="the highest sum, or none"),
            REASON,
        ),
    ),
    "tally suspend": Command(
        "cli.tally_commands:suspend", "Take no adds until it is resumed, at once and everywhere.",
        STORE, (TALLY, REASON),
    ),
    "tally resume": Command(
        "cli.tally_commands:resume", "End a suspension.", STORE, (TALLY, REASON)
    ),
    "tally delete": Command(
        "cli.tally_commands:delete", (
            "Delete a tally. If it is created again, it knows no old keys."
        ), STORE,
        (TALLY, REASON),
    ),
    "tally audit": Command("cli.tally_commands:audit", AUDIT, STORE, (TALLY, JSON)),
    "key create": Command(
        "cli.key_commands:create", KEY_CREATE, STORE,
        (
            takes("--role", choices=("read", "use", "admin"), required=True, help=ROLE),
            takes("--scope", metavar="S[,S]", action="append", required=True, help=SCOPES),
            takes("--note", metavar="TEXT", default="", help=(
                "who uses the key, for lists and the log"
            )),
            takes("--expires", metavar="DATE",
                 help="the day from which the key is refused, such as 2027-11-01 (default: none)"),
            JSON,
        ),
    ),
    "key list": Command(
        "cli.key_commands:list_all", "List the access keys, without their secrets.", STORE, (JSON,)
    ),
    "key revoke": Command(
        "cli.key_commands:revoke", "Revoke an access key, for good and everywhere.", STORE,
        (
            takes("id", metavar="ID", help="the id of the key, as `key list` shows it"),
            takes("--reason", metavar="TEXT", required=True, help="the reason, for log and list"),
        ),
    ),
    "doctor": Command(
        "cli.store_commands:doctor", DOCTOR,
        (
            *STORE_OR_SERVICE, config.LISTEN, config.REQUIRE_KEYS, config.TLS_CERT,
            config.TLS_KEY,
        ),
        (JSON,),
    ),
    "usage": Command(
        "cli.usage_command:usage", USAGE, STORE,
        (
            takes("--month", metavar="M", help="a month, as 2026-10"),
            takes("--from", dest="first", metavar="D", help="the first day, as 2026-10-01"),
            takes("--to", dest="last", metavar="D", help="the last day; it is included"),
            takes("--scope", metavar="S",
                 help="a name, a prefix with .* after it, or * (the default)"),
            takes("--csv", action="store_true", help="print comma-separated values, by day"),
            JSON,
        ),
    ),
    "health": Command(
        "cli.http_get:health", "Exit 0 if a service runs here and answers.", (config.URL,),
        (takes("--ready", action="store_true",
              help="also ask whether it can serve the next id"),),
    ),
    "wait": Command(
        "cli.http_get:wait", "Wait until a service is ready; exit 1 if it is not in time.",
        (config.URL, config.TIMEOUT),
    ),
    "top": Command(
        "cli.top:top", TOP, (config.URL, config.KEY_FILE, config.INTERVAL),
        (
            takes("--once", action="store_true", help="print it once and exit"),
            takes("--json", action="store_true", help="print JSON, one line for each refresh"),
        ),
    ),
    "bench": Command(
        "cli.bench.run:bench", BENCH, (*config.BENCH, config.KEY_FILE),
        (takes("where", metavar="URL", help="http(s)://HOST:PORT[/PATH] or unix:PATH"), JSON),
    ),
    "completion": Command(
        "cli.completion:completion", COMPLETION,
        arguments=(
            takes("shell", metavar="SHELL", choices=("bash", "zsh", "fish"),
                 help="bash, zsh or fish"),
        ),
    ),
}  # fmt: skip
STAYS = "a tally and its records stay in the store where they are"
ONE_ITEM = "a tally is one item, and one order over all instances"
GROUPS = {
    "tally": Group(
        TALLIES,
        {
            "move": STAYS,
            "adopt": STAYS,
            "reshard": ONE_ITEM,
            "--shards": ONE_ITEM,
            "next": "a tally gives sums; `idservice tally add NAME AMOUNT` counts",
            "fence": "`idservice fence --all --ahead N` looks at every tally, too",
        },
    ),
    "key": Group(
        KEYS,
        {
            "rotate": "make a second key, have its callers use it, and revoke the first",
            "show": "the text of a key is shown once, when it is made; `key list` shows the rest",
            "delete": "a revoked key stays in the list; `idservice key revoke ID --reason T`",
        },
    ),
}


def named(words: Sequence[str]) -> dict[str, Command]:
    """Return the command that words begin with, or those of a group, or else all."""
    for name in (" ".join(words[:2]), words[0] if words else ""):
        found = {each: COMMANDS[each] for each in COMMANDS if f"{each} ".startswith(f"{name} ")}
        if found:
            return found
    return COMMANDS
