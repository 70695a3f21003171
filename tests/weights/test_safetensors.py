"""Files, names and what a weight file says about itself."""

import json

import numpy as np
import pytest

from mtlora_jax.errors import UserError
from mtlora_jax.weights import source as sources

LEAVES = {"params/a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T, "batch_stats/steps": np.array(3, np.int32)}


def test_written_leaves_and_their_description_read_back(tmp_path):
    sources.write(tmp_path / "x.safetensors", LEAVES, {"source": "somewhere", "size": [1, 2]})
    leaves, about = sources.read_with_metadata(tmp_path / "x.safetensors")
    for path, leaf in LEAVES.items():
        np.testing.assert_array_equal(leaves[path], leaf, strict=True)
    assert json.loads(about["size"]) == [1, 2]
    changed = {**LEAVES, "params/a/kernel": LEAVES["params/a/kernel"] + 1e-6}
    sources.write(tmp_path / "y.safetensors", changed, {})
    assert about["fingerprint"] != sources.read_with_metadata(tmp_path / "y.safetensors")[1]["fingerprint"]


def test_truncated_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    sources.write(path, LEAVES, {})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"x\.safetensors is truncated, damaged, or no safetensors file"):
        sources.read(path)


@pytest.mark.parametrize("source", ["none.pth", "some/where/none.safetensors", "a name", "/x/y", "org/none.bin"])
def test_nothing_of_that_name(source):
    with pytest.raises(UserError, match="there is no file"):
        sources.read(source)


class TestHub:
    """The hub itself is replaced: tests have no network."""

    def test_the_best_file_is_taken_from_the_cache(self, monkeypatch, tmp_path):
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError

        path = tmp_path / "pytorch_model.bin"
        asked = []

        def download(repository, name):
            asked.append((repository, name))
            if name == "model.safetensors":
                raise EntryNotFoundError("no")
            return str(path)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        assert sources.locate("microsoft/swin-tiny-patch4-window7-224") == path
        assert [name for _, name in asked] == ["model.safetensors", "pytorch_model.bin"]

    @pytest.mark.parametrize(
        ("error", "message"),
        [("LocalEntryNotFoundError", "the hub cannot be reached"), ("EntryNotFoundError", "has none of")],
    )
    def test_failures_are_one_line(self, error, message, monkeypatch):
        import huggingface_hub
        from huggingface_hub import errors

        def download(repository, name):
            raise getattr(errors, error)("no\nno")

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        with pytest.raises(UserError, match=message) as raised:
            sources.locate("microsoft/swin-tiny-patch4-window7-224")
        assert "\n" not in str(raised.value)
