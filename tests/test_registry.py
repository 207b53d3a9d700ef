"""Model versions on disk, or wherever fsspec reaches."""

import msgspec
import pytest

from model.schema import VersionError


@pytest.fixture
def registry():
    from model import registry

    return registry


@pytest.fixture
def path(registry, tmp_path):
    """A version that is whole."""
    import torch

    return registry.write(
        str(tmp_path), "v1", {"weights": torch.arange(3.0)}, {"encoder_version": "minilm-1", "width": 64}
    )


@pytest.fixture
def place(path):
    """Its folder."""
    from pathlib import Path

    return Path(path)


def refused(registry, path) -> str:
    with pytest.raises(VersionError) as error:
        registry.read(str(path))
    return str(error.value)


def test_a_version_comes_back_as_it_was_written(registry, path):
    """Tensors bit by bit, and what describes them, with the version's name."""
    tensors, about = registry.read(path)

    assert {"weights": [0.0, 1.0, 2.0]} == {name: tensor.tolist() for name, tensor in tensors.items()}
    assert ("v1", "minilm-1", 64) == (about["version"], about["encoder_version"], about["width"])


def test_a_version_is_two_files_and_nothing_else(place):
    """No part of a file stays behind, and the JSON can be read by people."""
    assert ["model.json", "model.safetensors"] == sorted(file.name for file in place.iterdir())
    assert '\n  "version": "v1"' in (place / "model.json").read_text()


def test_a_registry_may_be_anywhere_that_fsspec_reaches(registry):
    """`memory://`, `s3://`, `gs://` …: the path that `write` returns is the one to read."""
    import torch

    path = registry.write("memory://models/", "v7", {"part": torch.ones(2, 2).T}, {})
    tensors, about = registry.read(path)

    assert "memory://models/v7" == path
    assert ([[1.0, 1.0], [1.0, 1.0]], "v7") == (tensors["part"].tolist(), about["version"])


def test_a_version_that_is_written_again_is_replaced(registry, path, tmp_path):
    """The learner may repeat a step after a crash."""
    import torch

    registry.write(str(tmp_path), "v1", {"weights": torch.zeros(1)}, {"width": 32})
    tensors, about = registry.read(path)

    assert ([0.0], 32) == (tensors["weights"].tolist(), about["width"])


def test_what_lies_below_a_version_is_listed(registry, path):
    """Its files and folders; in any file system."""
    import torch

    registry.write(path, "more", {"part": torch.ones(1)}, {})

    assert ["model.json", "model.safetensors", "more"] == registry.inside(path)
    assert [] == registry.inside(f"{path}-none")
    registry.write("memory://listed/v1", "more", {"part": torch.ones(1)}, {})
    assert ["more"] == registry.inside("memory://listed/v1")


INSIDE = ["{}/v1", "{}/by hand", "{}/counts-000001", "{}/v1/"]
OUTSIDE = [
    "{}", "{}/", "{}/v1/counts-000001", "{}/shop-/v1", "{}/shop-/v1/counts-000001", "{}/..", "{}/../x", "{}/.",
    "{}/../counts-1",
    "{}-other/v1", "/elsewhere/v1", "v1", "zip://v1::{}/m.zip", "{}/v1::x", "", "{}/v1/../../x",
]  # fmt: skip


@pytest.mark.parametrize("root", ["/models", "s3://bucket/models", "/models/shop-", "memory://m"])
@pytest.mark.parametrize("trail", ["", "/"])
def test_a_version_lies_in_the_registry_itself(registry, root, trail):
    """A folder below it, as another prefix has one, is another registry."""
    for path in INSIDE:
        assert registry.check_inside(path.format(root), root + trail) is None
    for path in OUTSIDE:
        with pytest.raises(VersionError, match="lies outside the registry"):
            registry.check_inside(path.format(root), root + trail)


def test_a_missing_version_is_named(registry, tmp_path):
    """The message says which, and what to do."""
    message = refused(registry, tmp_path / "v9")

    assert message.startswith(f"{tmp_path}/v9: there is no such version (")
    assert message.endswith("promote one that is there")


def test_a_half_written_version_is_no_version(registry, place):
    """The JSON is written last: without it the tensors do not count."""
    (place / "model.json").unlink()

    assert f"{place}: there is no such version" in refused(registry, place)


def test_a_version_without_its_tensors_is_no_version(registry, place):
    """The JSON alone does not count either."""
    (place / "model.safetensors").unlink()

    assert f"{place}: there is no such version" in refused(registry, place)


@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda data: data[:-1] + b"\x01", lambda data: b""])
def test_tensors_that_changed_are_refused(registry, place, harm):
    """A byte lost or changed shows in the checksum."""
    tensors = place / "model.safetensors"
    tensors.write_bytes(harm(tensors.read_bytes()))

    expected = f"{place}: model.safetensors is not the file that model.json was written for; write it again"

    assert expected == refused(registry, place)


@pytest.mark.parametrize("text", ["", "nope", '{"version": "v1"', "\udcff"])
def test_a_description_that_is_no_json_is_refused(registry, place, text):
    """The message names the path."""
    (place / "model.json").write_bytes(text.encode("utf-8", "surrogateescape"))

    assert refused(registry, place).startswith(f"{place}: cannot be read: ")


@pytest.mark.parametrize("text", ["[]", "null", '"v1"', "{}"])
def test_a_description_without_a_checksum_is_refused(registry, place, text):
    """Any JSON that `write` did not make."""
    (place / "model.json").write_text(text)

    assert "is not the file that model.json was written for" in refused(registry, place)


def test_tensors_that_never_were_safetensors_are_refused(registry, place):
    """Even when the checksum is right."""
    from hashlib import sha256

    (place / "model.safetensors").write_bytes(b"not tensors")
    (place / "model.json").write_bytes(msgspec.json.encode({"sha256": sha256(b"not tensors").hexdigest()}))

    assert refused(registry, place).startswith(f"{place}: model.safetensors cannot be read: ")


@pytest.mark.parametrize("address", ["nope://models/v1", "/dev/null/v1"])
def test_an_address_that_cannot_be_reached_is_refused(registry, address):
    """An unknown protocol, or a file where a folder should be."""
    assert refused(registry, address).startswith(f"{address}: cannot be read: ")


def test_an_address_whose_file_system_is_not_installed_is_refused(registry, monkeypatch):
    """fsspec says so with an ImportError; the version before serves on, and the message says what to install."""
    import fsspec

    def not_installed(path):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", not_installed)

    assert "s3://models/v1: cannot be read: Install s3fs to access S3" == refused(registry, "s3://models/v1")
