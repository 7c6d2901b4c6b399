"""Which storage driver a container gets, and why: `--storage-opt driver=…`, else the setting `storage_driver`, and for
`auto` what works on this host."""

from __future__ import annotations

from rootless.engine.link import Link
from rootless.engine.record import Record
from rootless.launcher import messages
from rootless.settings import Settings

OVERLAY, UNION = "fuse+overlay", "fuse"


class Storage:
    """The probe is made once for each launcher, when first needed."""

    def __init__(self, settings: Settings, link: Link) -> None:
        self._settings = settings
        self._link = link
        self._reason: str | None = None

    async def driver(self, record: Record) -> str:
        """For the next start of this container. Raises RootlessError (no launcher)."""
        asked = (record.host_config.get("StorageOpt") or {}).get("driver", "auto")
        return str(asked) if asked != "auto" else (await self.in_force())[0]

    async def in_force(self) -> tuple[str, str]:
        """(driver, why), where a container does not ask for another. Raises RootlessError."""
        setting = self._settings.storage_driver
        if setting != "auto":
            return setting, f"storage_driver is {setting} ({self._settings.origins.get('storage_driver', 'default')})"
        if self._reason is None:
            containers = self._settings.state_root / "containers"
            result = await self._link.request(messages.ProbeOverlay(str(containers)))
            self._reason = str(result["reason"])
        if self._reason:
            return UNION, self._reason
        return OVERLAY, "overlayfs works here in a user namespace"
