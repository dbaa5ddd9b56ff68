"""A pile over many machines: blocks of files go through engines that are actors of Ray Data.

Records are written where they are made, into a folder that all machines share; what comes back to the one who drives is
what a block was about, no text. So what a node has read survives the node, and a block that is tried again reads what
is missing: Ray's own checkpoints follow blocks that are done, these records follow seconds. A block that fails is taken
apart, and its files go to other actors one by one, twice; what fails then becomes a record.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parsit.parse.reader import Engine
from parsit.scale.drawing import Drawing
from parsit.scale.inputs import Source
from parsit.scale.keys import ReadingSet
from parsit.scale.page_reading import record_of
from parsit.scale.reading import PileReader, Progress, Reading
from parsit.scale.store import Store
from parsit.types import InputError, Page, ParsitError, UsageError

BLOCK_FILES = 8
PASSES = 3  # blocks; then single files, on two other actors
ACTOR_TASK_TRIES = 2  # of a block whose actor dies, before it is taken apart
CPUS_FOR_RAY = 1  # as many actors as processors, and none of them gets anywhere


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """What an actor needs to know.

    Args:
        load: gives the engine, on the actor's machine; None: text layers alone are taken.
        folder: of all sets, on a file system that every machine sees at this path.
        reading_set: what is read.
        drawing: how pages are drawn.
        workers: processes that draw, for each actor.
        retry_failed: read again what failed.
    """

    load: Callable[[], Engine] | None
    folder: Path
    reading_set: ReadingSet
    drawing: Drawing
    workers: int = 1
    retry_failed: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where actors run, and what each of them has.

    Args:
        address: of the cluster, or `auto` for the one that is there.
        actors: how many; None: as many as fit, with a processor left for Ray.
        cpus: processors of each.
        gpus: GPUs of each; None: one, if the cluster has any.
    """

    address: str = "auto"
    actors: int | None = None
    cpus: float = 1
    gpus: float | None = None


class BlockReader:
    """The actor: an engine that reads block after block."""

    def __init__(self, job: ClusterJob) -> None:
        self._job = job
        self._engine = job.load() if job.load else None
        self._store = Store(job.folder, job.reading_set)
        self._reader: PileReader | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Read the blocks of a batch; answers what became of them, as JSON."""
        return {"answer": [json.dumps(self._answer(json.loads(str(block)))) for block in batch["block"]]}

    def _answer(self, block: dict[str, Any]) -> dict[str, Any]:
        sources = [Source(**source) for source in block["sources"]]
        answer: dict[str, Any] = {"number": block["number"], "error": ""}
        try:
            self._store.refresh()  # what others have read, and this block's own first try
            if self._reader is None:
                job = self._job
                self._reader = PileReader(
                    self._engine, self._store, job.drawing, job.workers, retry_failed=job.retry_failed
                )
            before = self._reader.progress
            reading = self._reader.read(sources)
            after = self._reader.progress
        except Exception as error:  # whatever it is: another actor may do better
            if self._reader is not None:
                self._reader.close()
            self._reader = None
            return answer | {"error": f"{type(error).__name__}: {error}"}
        answer |= {"digests": reading.digests, "unread": reading.unread, "files": len(sources)}
        done = {name: getattr(after, name) - getattr(before, name) for name in ("pages", "failed", "busy_s")}
        return answer | done | {"seconds": after.seconds}


def read_on_cluster(
    sources: Sequence[Source],
    job: ClusterJob,
    cluster: Cluster,
    on_progress: Callable[[Progress], None] = lambda _: None,
    block_files: int = BLOCK_FILES,
) -> Reading:
    """Read a pile with Ray.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
        ParsitError: the store cannot be written.
    """
    ray = _connected(cluster)
    actors, resources = _resources(ray, cluster)
    reading, told = Reading(), _Told(on_progress)
    left = list(sources)
    reasons: dict[str, str] = {}
    for number in range(PASSES):
        if not left:
            break
        size = 1 if number else block_files
        blocks = [left[start : start + size] for start in range(0, len(left), size)]
        reasons = _pass(ray, blocks, job, min(actors, len(blocks)), resources, reading, told)
        left = [source for source in left if source.name in reasons]
    store = Store(job.folder, job.reading_set)
    for source in left:
        _keep_failed(source, reasons[source.name], store, reading)
    store.flush()
    return reading


def _connected(cluster: Cluster) -> Any:
    """Ray, connected to the cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]  # it has an environment of its own
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("--ray needs Ray: pip install parsit[ray]") from error
    if not ray.is_initialized():
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            line = str(error).splitlines()[0]
            raise InputError(
                f"--ray {cluster.address}: no cluster there ({line}); start one: ray start --head"
            ) from error
    return ray


def _resources(ray: Any, cluster: Cluster) -> tuple[int, dict[str, Any]]:
    """How many actors there are to be, and what each takes. Raises `UsageError` where none fits."""
    there = ray.cluster_resources()
    gpus = (1.0 if there.get("GPU") else 0.0) if cluster.gpus is None else cluster.gpus
    fits = [int((there.get("CPU", 0) - CPUS_FOR_RAY) / cluster.cpus)] if cluster.cpus else []
    fits += [int(there.get("GPU", 0) / gpus)] if gpus else []
    most = min(fits, default=1)
    if most < 1:
        raise UsageError(
            f"--ray {cluster.address}: the cluster has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs; "
            f"an actor takes {cluster.cpus:g} and {gpus:g}, and {CPUS_FOR_RAY} CPU stays free for Ray"
        )
    return min(cluster.actors or most, most), {"num_cpus": cluster.cpus, "num_gpus": gpus}


def _pass(
    ray: Any,
    blocks: Sequence[Sequence[Source]],
    job: ClusterJob,
    actors: int,
    resources: dict[str, Any],
    reading: Reading,
    told: _Told,
) -> dict[str, str]:
    """Read blocks; gives the files that failed, each with the reason."""
    failed = {source.name: "the process that read it ended" for block in blocks for source in block}
    for answer in _answers(ray, blocks, job, actors, resources):
        names = [source.name for source in blocks[answer["number"]]]
        if answer["error"]:
            failed |= dict.fromkeys(names, answer["error"])
            continue
        for name in names:
            failed.pop(name, None)
        reading.digests |= answer["digests"]
        reading.unread |= answer["unread"]
        told.add(answer, actors)
    return failed


def _answers(
    ray: Any, blocks: Sequence[Sequence[Source]], job: ClusterJob, actors: int, resources: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = -1  # a block whose actors die is missing among the answers, and the others go on
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*ray_remote_args", category=DeprecationWarning)
    items = [
        {"block": json.dumps({"number": n, "sources": list(map(asdict, block))})} for n, block in enumerate(blocks)
    ]
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        BlockReader,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=actors, initial_size=actors, max_tasks_in_flight_per_actor=2
        ),
        max_restarts=ACTOR_TASK_TRIES,
        max_task_retries=ACTOR_TASK_TRIES,
        **resources,
    )
    try:
        for row in rows.iter_rows():
            yield json.loads(row["answer"])
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ParsitError(
            f"--ray: the cluster gave up: {reason}; what has been read is kept, start it again"
        ) from error


def _keep_failed(source: Source, reason: str, store: Store, reading: Reading) -> None:
    """A file that no actor can read becomes a record."""
    try:
        digest = source.digest()
    except OSError as error:
        reading.unread[source.name] = f"cannot be read: {error.strerror or error}"
        return
    reading.digests[source.name] = digest
    page = Page(0, "", 0, 0, ("failed",), error=f"{reason} ({PASSES} times)")
    store.add(record_of(store.reading_set, digest, source.name, 0, page, {}))


class _Told:
    """Adds up what blocks say and tells how far it is."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._on_progress = on_progress
        self._files = self._pages = self._failed = 0
        self._busy_s = self._seconds = 0.0

    def add(self, answer: dict[str, Any], actors: int) -> None:
        """Count a block; seconds are those of all actors together."""
        self._files += answer["files"]
        self._pages += answer["pages"]
        self._failed += answer["failed"]
        self._busy_s += answer["busy_s"]
        self._seconds += answer["seconds"]
        self._on_progress(
            Progress(self._files, self._pages, self._failed, self._seconds / actors, self._busy_s / actors)
        )
