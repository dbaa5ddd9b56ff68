"""A pile on a local Ray cluster of three nodes, one of them killed in mid-run: the records of one process."""

import os
from pathlib import Path

import pytest
from pile_support import records_of, write_pile

from parsit.cli.pile import EngineOf
from parsit.scale.cluster import Cluster, ClusterJob, read_on_cluster
from parsit.scale.drawing import Drawing
from parsit.scale.inputs import sources_of
from parsit.scale.reading import PileReader
from parsit.scale.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.dist, pytest.mark.timeout(3600)]
DRAWING = Drawing(dpi=72.0)
# Beside other programs a node takes minutes to start; Ray gives it one.
PATIENCE = {"raylet_start_wait_time_s": 900, "gcs_server_request_timeout_seconds": 600}
PATIENCE |= {"worker_register_timeout_seconds": 600, "health_check_timeout_ms": 60_000}


@pytest.fixture
def nodes(monkeypatch):
    """A cluster: a head with one processor, which is Ray's, and two nodes with an actor's worth each."""
    for name, value in PATIENCE.items():
        monkeypatch.setenv(f"RAY_{name}", str(value))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Workers find this Parsit and these tests as this process does.
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2] / "src"), str(Path(__file__).parent)])
    )
    import ray
    from ray.cluster_utils import Cluster as LocalCluster

    local = LocalCluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield local, [local.add_node(num_cpus=2) for _ in range(2)]
    finally:
        ray.shutdown()
        local.shutdown()


def facts(records: list[dict]) -> list[dict]:
    left_out = ("confidence", "retries", "source")
    return [{name: value for name, value in record.items() if name not in left_out} for record in records]


def test_a_node_that_is_killed_costs_no_record(model, engine, nodes, tmp_path, reading_set):
    local, (victim, _) = nodes
    sources = sources_of([str(write_pile(tmp_path / "pile", 40))])
    with PileReader(engine, Store(tmp_path / "one", reading_set), DRAWING, 1) as reader:
        reader.read(sources)
    told = []

    def tell(progress) -> None:
        if not told:
            local.remove_node(victim, allow_graceful=False)
        told.append(progress)

    job = ClusterJob(EngineOf("hf", str(model), "cpu", 4), tmp_path / "many", reading_set, DRAWING, 1)
    reading = read_on_cluster(sources, job, Cluster(local.address, actors=2, cpus=2), tell, block_files=4)
    assert len(reading.digests) == 42
    assert told[-1].files >= 42
    many = records_of(tmp_path / "many")
    assert len({record["key"] for record in many}) == len(many)
    assert facts(many) == facts(records_of(tmp_path / "one"))

    # Started again, nothing is read a second time.
    again = read_on_cluster(sources, job, Cluster(local.address, actors=1, cpus=2), block_files=4)
    assert again.digests == reading.digests
    assert records_of(tmp_path / "many") == many
