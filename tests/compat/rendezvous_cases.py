"""Questions about `rendezvous`, asked of torch's tree or of ours: `python rendezvous_cases.py torch|ours`.

Prints JSON: {question: answer}; an exception answers with its kind. What differs on purpose is asked of nobody here:
static's rank is checked at the door, error texts name the value.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import warnings
from typing import Any

TREES = {"torch": "torch.distributed.elastic.rendezvous", "ours": "ipyelastic.compat.rendezvous"}
KINDS = ["TypeError", "ValueError", "AttributeError", "RuntimeError"]
NODES: list[tuple[Any, ...]] = [
    ("", "b", "c", 1, 2),
    (None, "b", "c", 1, 2),
    ("a", "b", "c", 0, 2),
    ("a", "b", "c", -1, 2),
    ("a", "b", "c", 3, 2),
    ("a", None, None, 1, 1),
    ("a", "b", "c", "1", "2"),
    ("a", "b", "c", 2, 2, "here"),
]
OPTIONS: dict[str, Any] = {
    "none": None,
    "five": 5,
    "TRUE": "TRUE",
    "blanks": " yes ",
    "zero": "0",
    "one": 1,
    "bool": True,
    "word": "abc",
    "number": "12",
    "float": 1.0,
    "two": 2,
    "negative": "-3",
    "fraction": 1.9,
    "list": [1],
    "empty": "",
    **{f"word {word}": word for word in ("1", "true", "t", "yes", "Y", "0", "False", "f", "no", "N", "on", "off")},
}
ENDPOINTS = [
    *["", None, " ", ":", "a", "a:", "a:1", "a:0", "a:65535", "a:65536", "a:-1", "a:99999", "a:100000", "[::1]"],
    *["[::1]:5", "::1", "[::1", "::1]", "[]", "[]:4", "a b", "a:b", "a:1:2", "fe80::1%eth0:5", "[fe80::1%eth0]:5"],
    *["host_name-1.x:22", "ü:3", "http://a:3", " a:3 ", "a:3\n", "a: 3", "a:+3", "a:٣", ":7", "a:007", "a:00007"],
    *["a:000007", "[a]:5", "a]:5", "1.2.3.4:5", "localhost\n", "a::", "-", "a.b-c_d"],
]
PORTS = ["", "0", "65536", "99999", "100000", "-1", "+1", " 1", "1 ", "abc", "00001", "٣"]
CONFIGS = [
    *["", "k=v", "k=v,a=b", " k = v , a=b ", "k", "k=", "=v", "k=v=w", "k=v,", "k=1,k=2", ",", "a=,b=1", "  "],
]
HOSTS = ["localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "8.8.8.8", "", "127.0.0.2", "2001:db8::1"]
STATIC: list[dict[str, Any]] = [
    {},
    {"rank": 0},
    {"rank": 0, "endpoint": ""},
    {"rank": 0, "endpoint": " "},
    {"rank": 0, "endpoint": "localhost"},
    {"rank": 0, "endpoint": "localhost:x"},
    {"rank": 0, "endpoint": "localhost:-1"},
    {"rank": "0", "endpoint": "localhost:5"},
    {"rank": 0, "endpoint": "localhost:5", "timeout": "9"},
    {"rank": 0, "endpoint": "localhost:5", "timeout": "x"},
    {"rank": 1, "endpoint": "[::1]:5", "max_nodes": 2},
]


def answer(ask: Any) -> Any:
    try:
        return ask()
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return next(f"raises {kind}" for kind in KINDS if kind in kinds)


def kinds_of(error: type) -> list[str]:
    kinds = [kind.__name__ for kind in error.__mro__]
    return kinds[: kinds.index("RendezvousError") + 1]


def main(tree: str) -> None:
    warnings.simplefilter("ignore")
    rendezvous, registry, utils, static = (
        importlib.import_module(TREES[tree] + name) for name in ("", ".registry", ".utils", ".static_tcp_rendezvous")
    )
    said: list[str] = []
    for name in (None, TREES["torch"] + ".registry", "ipyelastic.rendezvous.choose"):
        handler = logging.Handler()
        handler.emit = lambda record: said.append(record.levelname)  # type: ignore[method-assign]
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).propagate = False
    parameters = rendezvous.RendezvousParameters
    answers: dict[str, Any] = {}

    def ask(question: str, how: Any) -> None:
        answers[question] = answer(how)

    for nodes in NODES:
        ask(f"parameters {nodes}", lambda nodes=nodes: vars(parameters(*nodes, option=1)))
    given = parameters("a", "b", "c", 1, 1, **OPTIONS)
    for option in [*OPTIONS, "missing"]:
        for default in (None, True, 7):
            ask(f"get {option} {default}", lambda o=option, d=default: given.get(o, d))
            ask(f"bool {option} {default}", lambda o=option, d=default: given.get_as_bool(o, d))
            ask(f"int {option} {default}", lambda o=option, d=default: given.get_as_int(o, d))
    for endpoint in ENDPOINTS:
        ask(f"endpoint {endpoint!r}", lambda e=endpoint: utils.parse_rendezvous_endpoint(e, 29400))
    for port in PORTS:
        ask(f"port {port!r}", lambda p=port: utils._try_parse_port(p))
    for config in CONFIGS:
        ask(f"config {config!r}", lambda c=config: utils._parse_rendezvous_config(c))
    for host in [*HOSTS, utils.socket.gethostname()]:
        ask(f"is this machine {host!r}", lambda h=host: utils._matches_machine_hostname(h))

    class Other(rendezvous.RendezvousHandler):  # type: ignore[misc, name-defined]
        def get_backend(self) -> str:
            return "other"

        next_rendezvous = is_closed = set_closed = num_nodes_waiting = get_run_id = shutdown = get_backend

    def make(params: object) -> Other:
        return Other()

    table = rendezvous.RendezvousHandlerRegistry()
    ask("register", lambda: table.register("x", make))
    ask("register again", lambda: table.register("x", make))
    ask("register another", lambda: table.register("x", lambda params: None))
    ask("register no name", lambda: table.register("", make))
    ask("register None", lambda: table.register(None, make))
    ask("other backend's name", lambda: table.create_handler(parameters("x", "", "", 1, 1)))
    ask("unknown", lambda: table.create_handler(parameters("y", "", "", 1, 1)))
    ask("its own name", lambda: [table.register("other", make), type(table.create_handler(
        parameters("other", "", "", 1, 1))).__name__])  # fmt: skip
    ask("abstract", rendezvous.RendezvousHandler)
    ask("agent's store by default", lambda: Other().use_agent_store)
    info = rendezvous.RendezvousInfo(None, 1, 2, None)
    ask("info", lambda: [info.store, info.rank, info.world_size, info.bootstrap_store_info])
    ask("info is read-only", lambda: setattr(info, "rank", 2))
    where = rendezvous.RendezvousStoreInfo
    ask("where", lambda: [repr(where("h", 1)), where("h", 1) == where("h", 1), where.MASTER_ADDR_KEY])
    for name in sorted(name for name in rendezvous.__all__ if name.endswith("Error")):
        ask(name, lambda n=name: kinds_of(getattr(rendezvous, n)))

    for case in STATIC:
        options = {"endpoint": "localhost:0", "max_nodes": 1, **case}
        chosen = (options.pop("endpoint"), "id", 1, options.pop("max_nodes"))

        def ask_static(chosen: Any = chosen, options: Any = options) -> Any:
            handler = registry.get_rendezvous_handler(parameters("static", *chosen, **options))
            handler.set_closed()
            return [
                type(handler).__name__,
                [handler.master_addr, handler.master_port, int(handler.rank), handler.world_size, handler.run_id],
                str(handler.timeout),
                [handler.get_backend(), handler.get_run_id(), handler.is_closed(), handler.num_nodes_waiting()],
                handler.shutdown(),
            ]

        ask(f"static {case}", ask_static)
    ask("static's timeout", lambda: static._default_timeout_seconds)

    for backend in ("nobody's", "plugged", "not callable", "raising", "missing", "static"):
        options = {"rank": 0} if backend == "static" else {}
        ask(
            f"plug-in {backend}",
            lambda b=backend, o=options: (
                type(registry.get_rendezvous_handler(parameters(b, "localhost:7", "", 1, 1, **o))).__name__
            ),
        )
    answers["a plug-in that fails warns"] = sorted(set(said))
    json.dump(answers, sys.stdout, default=str)


if __name__ == "__main__":
    main(sys.argv[1])
