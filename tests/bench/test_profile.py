"""A profile names the step's own operations, and where in the model they come from."""

from dataclasses import replace

from configs.scenes_smoke import get_config
from mtlora_jax.bench.profile import bench


def test_a_profile_names_operations():
    config = get_config()
    report = bench(replace(config, tasks={"semseg": config.tasks["semseg"]}), rounds=2)
    assert report["milliseconds"] > 0
    assert len(report["operations"]) > 10
    times = [operation["milliseconds"] for operation in report["operations"]]
    assert times == sorted(times, reverse=True)
    assert any("layers_0" in operation["source"] for operation in report["operations"])
