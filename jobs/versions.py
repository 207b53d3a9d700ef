"""The `model-versions` topic: what each version is, which one serves, and how to say so."""

import msgspec

from jobs.settings import Settings
from jobs.writer import Writer
from model.schema import ModelVersion, decode_model_version, decoded, encode_json
from model.versions import Serving, follow, name_of
from udfs.reader import Patience, Reader

KNOWN_REMOVED = 50
"""Of the versions that were removed so many are known still, the newest."""


class Versions:
    """Every model version that was announced and is there. `refresh` reads on to the topic's end.

    Args:
        patient: where the broker is away, say so, and read or write on when it answers; else what the client raises is
            raised.
    """

    def __init__(self, settings: Settings, patient: bool = False) -> None:
        servers, topic = settings.bootstrap_servers, settings.topic("model-versions")
        self._reader, self._writer = Reader(servers, {topic: None}, patient=patient), Writer(servers, topic)
        self._patience = Patience(f"writing to {topic} at {servers}") if patient else None
        self.known: dict[str, ModelVersion] = {}
        self.serving = Serving()
        self.refresh()

    def refresh(self) -> None:
        """Read on; a record that cannot be read is passed over."""
        for record in self._reader.drain():
            self._take(record.value)

    def _take(self, value: bytes | None) -> None:
        version = decoded(value, decode_model_version)
        if isinstance(version, str):
            return
        self.serving = follow(self.serving, version)
        serves = version.path in self.serving.paths
        if version.status == "removed" and serves:  # decided by hand a moment before: it is not removed
            return
        if version.status != "counted":  # which release 0.1.0 wrote
            self.known[version.version] = version
        removed = [name for name, one in self.known.items() if one.status == "removed"]
        for name in removed[: max(0, len(removed) - KNOWN_REMOVED)]:
            del self.known[name]

    def announce(self, version: ModelVersion) -> None:
        """Say what a version is now; whoever follows the topic acts on it."""
        key = version.version
        if self._patience:  # a record that was written after all comes twice, and changes nothing again
            self._patience.call(lambda: self._writer.write(key.encode(), encode_json(version)))
        else:
            self._writer.write(key.encode(), encode_json(version))
        self.refresh()
        self._repair(version)

    def _repair(self, announced: ModelVersion) -> None:
        """Say a decision by hand once more, where what was announced came too late to change it.

        It has the decision's key, and compaction would keep it instead. In a new epoch: other records of the decision's
        own may come before it now.
        """
        current = self.current()
        too_late = announced.epoch < self.serving.epoch
        if too_late and current is not None and current.version == announced.version:
            self.decide(current, current.reason, self.serving.pinned)

    def say(self, version: ModelVersion, **changes) -> None:
        """Announce a version with these changes, in the epoch of now."""
        self.announce(msgspec.structs.replace(version, epoch=self.serving.epoch, pinned=self.serving.pinned, **changes))

    def serve(self, version: ModelVersion, epoch: int) -> bool:
        """Let a version serve that was learnt in this epoch; the one that did is retired.

        Returns:
            Whether it serves; it does not if something else was decided by hand in the meantime.
        """
        return self._serve(msgspec.structs.replace(version, status="serving", epoch=epoch), "retired")

    def decide(self, version: ModelVersion, reason: str, pinned: bool = False, before: str = "retired") -> None:
        """Let a version serve by hand, whatever else is announced; the one that did becomes `before`."""
        changes = {"status": "serving", "epoch": self.serving.epoch + 1, "pinned": pinned, "reason": reason}
        self._serve(msgspec.structs.replace(version, **changes), before)

    def _serve(self, version: ModelVersion, before: str) -> bool:
        old = self.current()
        self.announce(version)
        serves = self.current() is not None and self.current().version == version.version
        if serves and old is not None and old.version != version.version:
            self.say(old, status=before, reason=version.reason if before == "rejected" else "")
        return serves

    def current(self) -> ModelVersion | None:
        """The version that serves now."""
        return self.lately()[0] if self.serving.paths else None

    def lately(self) -> list[ModelVersion]:
        """The version that serves now, and those that served before it, newest first."""
        by_path = {version.path: version for version in self.known.values()}
        unknown = ModelVersion("", "")  # two paths under one name
        found = [(by_path.get(path, unknown), path) for path in self.serving.paths]
        return [msgspec.structs.replace(one, version=one.version or name_of(path), path=path) for one, path in found]

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
