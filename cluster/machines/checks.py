"""Checks whether a cluster is ready for a sweep, from the facts of its nodes. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from tuning_common.units import counted, format_bytes

Status = Literal["ok", "warning", "failed", "skipped"]
SKEW_WARNING_S, SKEW_S = 0.5, 2.0  # ledgers, windows and names contain times of several machines
TAKEN_PART = 0.05  # fraction of a card held by others; desktops hold a little
LOW_DISK_BYTES = 5 * 10**9  # a few checkpoints of a small model
PYTHONS = ((3, 11), (3, 13))


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check.

    Attributes:
        name: Name of the check.
        status: `warning`: a sweep runs, with a disadvantage; `skipped`: not possible here.
        detail: The findings.
        remedy: How to fix it; empty where nothing is wrong.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """One card as NVML sees it now.

    Attributes:
        name: The driver's name.
        total_bytes: Device memory.
        others_bytes: In use by processes outside this cluster.
    """

    name: str
    total_bytes: int
    others_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """The facts of one node.

    Attributes:
        name: Its address, and the GPU model where a machine has several raylets.
        python: Version.
        packages: Installed versions of the requested packages, without absent ones.
        code: Hash of the code that trials would run there.
        cuda: Newest CUDA version that the driver supports; empty without a driver.
        driver: Version of the driver; empty without one.
        gpus: Ray's number of GPUs, or NVML's without Ray.
        gpus_unavailable: Why NVML finds no card; empty where it finds some.
        cards: The cards that NVML finds.
        gpu_problems: Cards that do not answer.
        gpu_notes: Peculiarities in the use of its cards (see inventory.node_of).
        skew_s: Its clock minus the caller's, estimated.
        skew_error_s: Possible error of skew_s.
        storage_error: Why the shared folder cannot be used; empty where it can, None without a check.
        free_bytes: Free space on the disk of the shared folder.
        missing_data: Files that trials would read and that do not exist.
        token_error: The problem with the token; empty where there is none, None where the cluster has no token.
    """

    name: str
    python: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    cuda: str = ""
    driver: str = ""
    gpus: int = 0
    gpus_unavailable: str = ""
    cards: tuple[CardFacts, ...] = ()
    gpu_problems: tuple[str, ...] = ()
    gpu_notes: tuple[str, ...] = ()
    skew_s: float = 0.0
    skew_error_s: float = 0.0
    storage_error: str | None = None
    free_bytes: int = 0
    missing_data: tuple[str, ...] = ()
    token_error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The parameters of a check.

    Attributes:
        packages: Pinned versions by name, from requirements.txt; empty without that file.
        storage: The shared folder; None skips its check.
        data: Absolute paths of files that trials would read.
        cluster: Whether these are nodes of a running cluster; an embedded Ray needs no token.
    """

    packages: Mapping[str, str] = field(default_factory=dict)
    storage: str | None = None
    data: tuple[str, ...] = ()
    cluster: bool = True


def evaluate(nodes: Sequence[NodeFacts], wanted: Wanted, silent: Sequence[str] = ()) -> list[Check]:
    """Returns the checks of the nodes' facts.

    Args:
        nodes: The nodes that answered; at least one.
        wanted: The parameters of the check.
        silent: One sentence on each node that did not answer.

    >>> [check.name for check in evaluate([NodeFacts(name="a", python="3.11.7")], Wanted())][:3]
    ['nodes', 'python', 'packages']
    """
    return [
        _nodes(nodes, silent),
        _python(nodes),
        _packages(nodes, wanted.packages),
        _code(nodes),
        _driver(nodes),
        _cuda(nodes),
        _gpu_memory(nodes),
        _storage(nodes, wanted.storage),
        _data(nodes, wanted.data),
        _clock(nodes),
        _token(nodes, wanted.cluster),
    ]


def worst(checks: Iterable[Check]) -> Status:
    """Returns the worst status of all checks.

    >>> worst([Check(name="a", status="ok", detail=""), Check(name="b", status="failed", detail="")])
    'failed'
    """
    found = {check.status for check in checks}
    order: tuple[Status, ...] = ("failed", "warning", "ok", "skipped")
    return next((status for status in order if status in found), "ok")


def exit_code(checks: Iterable[Check]) -> int:
    """Returns 0 where nothing failed, else 1; warnings do not count."""
    return 1 if worst(checks) == "failed" else 0


def as_text(checks: Sequence[Check]) -> str:
    """Formats checks for a terminal, each with its remedy.

    >>> print(as_text([Check(name="clock", status="failed", detail="b is 9.0 s ahead", remedy="run chrony on b")]))
    failed    clock   b is 9.0 s ahead
                      -> run chrony on b
    1 failed, 0 warnings, 0 ok
    """
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        first, *rest = check.detail.split("\n")
        lines.append(f"{check.status:<9} {check.name:<{width}}   {first}")
        indent = " " * (9 + 1 + width + 3)
        lines += [indent + line for line in rest]
        lines += [f"{indent}-> {check.remedy}"] if check.remedy else []
    counts = Counter(check.status for check in checks)
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    lines.append(f"{counts['failed']} failed, {counted(counts['warning'], 'warning')}, {counts['ok']} ok{skipped}")
    return "\n".join(lines)


def as_json(nodes: Sequence[NodeFacts], checks: Sequence[Check]) -> dict[str, object]:
    """Returns the checks as JSON values."""
    return {
        "status": worst(checks),
        "nodes": [asdict(node) for node in nodes],
        "checks": [asdict(one) for one in checks],
    }


def _nodes(nodes: Sequence[NodeFacts], silent: Sequence[str]) -> Check:
    detail = f"{len(nodes)} answered: {', '.join(node.name for node in nodes)}"
    if silent:
        remedy = "inspect it with ssh; start its raylets again: python -m cluster start --address HEAD"
        return Check(name="nodes", status="failed", detail="\n".join([detail, *silent]), remedy=remedy)
    return Check(name="nodes", status="ok", detail=detail)


def _python(nodes: Sequence[NodeFacts]) -> Check:
    versions = _by(nodes, lambda node: node.python)
    least, most = (".".join(map(str, version)) for version in PYTHONS)
    wrong = [version for version in versions if not PYTHONS[0] <= _minor(version) <= PYTHONS[1]]
    if wrong:
        remedy = f"install Python {least} to {most} there and run the set-up commands of ray_cluster.yaml again"
        return Check(name="python", status="failed", detail=_listed(versions, wrong), remedy=remedy)
    if len({_minor(version) for version in versions}) > 1:
        remedy = "Ray needs the same Python on every node: recreate the environments with one version"
        return Check(name="python", status="failed", detail=_listed(versions), remedy=remedy)
    return Check(name="python", status="ok", detail=_listed(versions))


def _packages(nodes: Sequence[NodeFacts], pins: Mapping[str, str]) -> Check:
    problems, absent = [], False
    for node in nodes:
        wrong = [
            f"{name} {node.packages.get(name) or 'absent'} instead of {pin}"
            for name, pin in sorted(pins.items())
            if _without_build(node.packages.get(name, "")) != pin
        ]
        absent = absent or any(" absent " in text for text in wrong)
        problems += [f"{node.name}: {', '.join(wrong)}"] if wrong else []
    alike = len(_by(nodes, lambda node: repr([_without_build(node.packages.get(name, "")) for name in pins]))) == 1
    if problems and alike and not absent:
        remedy = "tested are the versions of requirements.txt; with another torch, estimates are traced anew"
        return Check(name="packages", status="warning", detail="\n".join(problems), remedy=remedy)
    if problems:
        remedy = "pip install torch==2.13.0 and then -r requirements.txt there; `ray up` does on every node"
        return Check(name="packages", status="failed", detail="\n".join(problems), remedy=remedy)
    different = _by(nodes, lambda node: repr(sorted(node.packages.items())))
    if len(different) > 1:
        shown = [
            f"{', '.join(names)}: torch {_of(nodes, names[0]).packages.get('torch')}" for names in different.values()
        ]
        remedy = "install the same build of torch on every node, or resumed trials may give other last digits"
        return Check(name="packages", status="warning", detail="\n".join(shown), remedy=remedy)
    if not pins:
        return Check(name="packages", status="skipped", detail="no requirements.txt beside this code to compare with")
    return Check(
        name="packages", status="ok", detail=f"{len(pins)} pinned packages as in requirements.txt, on every node"
    )


def _code(nodes: Sequence[NodeFacts]) -> Check:
    versions = _by(nodes, lambda node: node.code)
    if len(versions) > 1:
        remedy = "bring the same code to every node: ray up -y ray_cluster.yaml, or submit (a job carries its code)"
        return Check(name="code", status="failed", detail=_listed(versions), remedy=remedy)
    return Check(name="code", status="ok", detail=f"the same everywhere ({next(iter(versions))})")


def _driver(nodes: Sequence[NodeFacts]) -> Check:
    problems = [f"{node.name}: {problem}" for node in nodes for problem in node.gpu_problems]
    if problems:
        remedy = "nvidia-smi shows the cards; reboot where one stays lost; start the raylet again with the right labels"
        return Check(name="gpu driver", status="failed", detail="\n".join(problems), remedy=remedy)
    without = [f"{node.name}: {node.gpus_unavailable}{_simulated(node)}" for node in nodes if not node.cards]
    notes = [f"{node.name}: {note}" for node in nodes for note in node.gpu_notes]
    found = [f"{node.name}: {_cards(node)}, driver {node.driver}" for node in nodes if node.cards]
    status: Status = "warning" if without or notes else "ok"
    remedy = _NO_GPU if without else _ODD if notes else ""
    return Check(name="gpu driver", status=status, detail="\n".join(found + without + notes), remedy=remedy)


def _simulated(node: NodeFacts) -> str:
    return f"; simulated GPUs: {node.gpus}" if node.gpus else ""


_ODD = "start one raylet for each GPU model, with as many GPUs as there are: python -m cluster start"
_NO_GPU = "trials run on the CPU there; with NVIDIA cards, install the driver until nvidia-smi lists them"


def _cuda(nodes: Sequence[NodeFacts]) -> Check:
    with_cards = [node for node in nodes if node.cards]
    if not with_cards:
        return Check(name="cuda", status="skipped", detail="no NVIDIA card")
    wrong = [
        f"{node.name}: torch {node.packages.get('torch', 'absent')}, and the driver has CUDA {node.cuda}"
        for node in with_cards
        for built in [_cuda_of(node.packages.get("torch", ""))]
        if built is None or _version(built) > _version(node.cuda)
    ]
    if wrong:
        remedy = "install the torch build of that CUDA version (download.pytorch.org/whl/cuXYZ), or a newer driver"
        return Check(name="cuda", status="failed", detail="\n".join(wrong), remedy=remedy)
    return Check(name="cuda", status="ok", detail=", ".join(f"{node.name}: {node.cuda}" for node in with_cards))


def _gpu_memory(nodes: Sequence[NodeFacts]) -> Check:
    cards = [(node, card) for node in nodes for card in node.cards]
    if not cards:
        return Check(name="gpu memory", status="skipped", detail="no NVIDIA card")
    taken = [
        f"{node.name}: others hold {format_bytes(card.others_bytes)} of {format_bytes(card.total_bytes)} ({card.name})"
        for node, card in cards
        if card.others_bytes > TAKEN_PART * card.total_bytes
    ]
    if taken:
        remedy = "nvidia-smi names the processes; end them, or shares are computed for what is left"
        return Check(name="gpu memory", status="warning", detail="\n".join(taken), remedy=remedy)
    total = format_bytes(sum(card.total_bytes for _, card in cards))
    return Check(name="gpu memory", status="ok", detail=f"{counted(len(cards), 'card')}, {total}, free of others")


def _storage(nodes: Sequence[NodeFacts], folder: str | None) -> Check:
    if folder is None:
        detail = "no shared folder is named; on one machine none is needed"
        remedy = "python -m cluster start --storage DIR, or check --storage DIR"
        status: Status = "skipped" if len({node.name.split(" ")[0] for node in nodes}) == 1 else "failed"
        return Check(name="storage", status=status, detail=detail, remedy=remedy if status == "failed" else "")
    wrong = [f"{node.name}: {node.storage_error}" for node in nodes if node.storage_error]
    if wrong:
        remedy = f"mount the same folder as {folder} on every machine, writable for the user who starts Ray"
        return Check(name="storage", status="failed", detail="\n".join(wrong), remedy=remedy)
    free_bytes = min(node.free_bytes for node in nodes)
    detail = f"{folder}: written and seen by every node, {format_bytes(free_bytes)} free"
    if free_bytes < LOW_DISK_BYTES:
        remedy = "make room before the sweep: remove old folders below outputs/experiments"
        return Check(name="storage", status="warning", detail=detail, remedy=remedy)
    return Check(name="storage", status="ok", detail=detail)


def _data(nodes: Sequence[NodeFacts], files: Sequence[str]) -> Check:
    if not files:
        return Check(name="data", status="skipped", detail="no sweep was named, or its data travel with it")
    wrong = [f"{node.name}: {', '.join(node.missing_data)}" for node in nodes if node.missing_data]
    if wrong:
        remedy = "put the files on the shared storage, and name their whole paths in the sweep"
        return Check(name="data", status="failed", detail="not there: " + "\n".join(wrong), remedy=remedy)
    return Check(name="data", status="ok", detail=f"{counted(len(files), 'file')}, on every node")


def _clock(nodes: Sequence[NodeFacts]) -> Check:
    def off(node: NodeFacts) -> float:
        return max(0.0, abs(node.skew_s) - node.skew_error_s)

    late = [node for node in nodes if off(node) > SKEW_WARNING_S]
    if not late:
        largest = max(off(node) for node in nodes)
        return Check(name="clock", status="ok", detail=f"at most {largest:.1f} s apart")
    detail = "\n".join(
        f"{node.name}: {abs(node.skew_s):.1f} s {'ahead' if node.skew_s > 0 else 'behind'}" for node in late
    )
    status: Status = "failed" if any(off(node) > SKEW_S for node in late) else "warning"
    remedy = "set the clock by the network there: timedatectl set-ntp true"
    return Check(name="clock", status=status, detail=detail, remedy=remedy)


def _token(nodes: Sequence[NodeFacts], cluster: bool) -> Check:
    if all(node.token_error is None for node in nodes):
        detail = "this cluster runs without a token: who reaches it runs code on it"
        remedy = "python -m cluster token, the same file on every machine, and start it without --no-token"
        return Check(name="token", status="warning", detail=detail, remedy=remedy)
    wrong = [f"{node.name}: {node.token_error}" for node in nodes if node.token_error]
    if wrong:
        remedy = "the same token file, mode 600, on every machine"
        return Check(name="token", status="failed" if cluster else "warning", detail="\n".join(wrong), remedy=remedy)
    return Check(name="token", status="ok", detail="there, and its owner's only")


def _by(nodes: Sequence[NodeFacts], key: Callable[[NodeFacts], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node in nodes:
        found.setdefault(key(node), []).append(node.name)
    return found


def _of(nodes: Sequence[NodeFacts], name: str) -> NodeFacts:
    return next(node for node in nodes if node.name == name)


def _listed(values: Mapping[str, Sequence[str]], only: Sequence[str] = ()) -> str:
    shown = {value: names for value, names in values.items() if not only or value in only}
    if len(shown) == 1 and not only:
        return next(iter(shown))
    return "\n".join(f"{', '.join(names)}: {value}" for value, names in shown.items())


def _cards(node: NodeFacts) -> str:
    return ", ".join(f"{count} x {name}" for name, count in Counter(card.name for card in node.cards).items())


def _minor(version: str) -> tuple[int, ...]:
    return _version(version)[:2]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


def _without_build(version: str) -> str:
    return version.partition("+")[0]


def _cuda_of(torch: str) -> str | None:
    """Returns the CUDA version of a torch build: 12.8 for 2.13.0+cu128; None for CPU builds and PyPI's Linux build."""
    build = torch.partition("+")[2]
    if build.startswith("cu") and build[2:].isdecimal():
        return f"{build[2:-1]}.{build[-1]}"
    return None if build == "cpu" or not torch else "0"
