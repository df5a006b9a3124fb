"""Take the pictures of the status page for docs/how-to: `python -m tests.web.picture`."""

import asyncio
import tempfile
from pathlib import Path

from .browser import joined, started
from .scenes import SCENES, Scene, shown

DOCS = Path(__file__).parent.parent.parent / "docs"
LOOKS = 32  # each four seconds of the scene later: a line of two minutes


async def main() -> None:
    """Both themes."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        started(Path(folder)) as address,
    ):
        async with joined(address) as chromium:
            for dark in (False, True):
                scene = Scene(SCENES["trouble"], step=4.0)
                async with shown(scene) as url:
                    tab = await chromium.tab()
                    await tab.look(1180, 1010, dark=dark)
                    await tab.go(url)
                    for _ in range(LOOKS):
                        await tab.run("poll()")
                    name = f"status-{'dark' if dark else 'light'}.webp"
                    (DOCS / name).write_bytes(await tab.picture("webp", quality=82))


if __name__ == "__main__":
    asyncio.run(main())
