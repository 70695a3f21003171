"""Names of weights: files, what is shipped, and the hub, whose failures are one line."""

import pytest

from mtlora_jax.errors import UserError
from mtlora_jax.weights import hub


@pytest.mark.parametrize("source", ["none.pth", "some/where/none.safetensors", "a name", "/x/y", "org/none.bin"])
def test_nothing_of_that_name(source):
    with pytest.raises(UserError, match="there is no file"):
        hub.read(source)


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
        assert hub.locate_file("microsoft/swin-tiny-patch4-window7-224") == path
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
            hub.locate_file("microsoft/swin-tiny-patch4-window7-224")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("source", ["./none", "a/b/c", "none"])
def test_no_folder_of_that_name(source):
    with pytest.raises(UserError, match=r"there is no folder .*, and it is not a hub name"):
        hub.locate_folder(source)


def test_a_shipped_model_is_found_by_its_name():
    assert (hub.locate_folder("microworld") / "config.json").exists()
    assert hub.locate_file("scenes_nano").suffix == ".safetensors"
