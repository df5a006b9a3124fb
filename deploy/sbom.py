"""The bill of materials (CycloneDX 1.6, JSON) of what `requirements.lock` pins, on stdout.

Of the lock alone, so that the same lock gives the same bill; of the standard library alone.
"""

import json
import re
import sys
import tomllib
import uuid
from pathlib import Path

ROOT = Path(__file__).parent.parent
PIN = re.compile(r"^([a-z0-9-]+)==([^ ;\\]+)(?: ; ([^\\\n]+?))? \\$", re.MULTILINE)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
WANTED_BY = re.compile(r"^    #(?: via|  ) ([A-Za-z0-9_-]+)", re.MULTILINE)


def bill(lock: str, project: dict[str, object]) -> dict[str, object]:
    """The bill of a lock that uv wrote, of a project as pyproject.toml has it."""
    name, version = project["name"], project["version"]
    root = f"pkg:pypi/{name}@{version}"
    pins = list(PIN.finditer(lock))
    purls = {pin[1]: f"pkg:pypi/{pin[1]}@{pin[2]}" for pin in pins} | {str(name): root}
    needs: dict[str, list[str]] = {purl: [] for purl in purls.values()}
    components = []
    for pin, after in zip(pins, [*(one.start() for one in pins[1:]), len(lock)], strict=True):
        block, purl = lock[pin.start() : after], purls[pin[1]]
        hashes = [{"alg": "SHA-256", "content": found} for found in HASH.findall(block)]
        component = {
            "type": "library",
            "bom-ref": purl,
            "name": pin[1],
            "version": pin[2],
            # Of its files, of which an installation takes one.
            "externalReferences": [
                {"type": "distribution", "url": f"https://pypi.org/project/{pin[1]}/{pin[2]}/",
                 "hashes": hashes}
            ],
            "purl": purl,
        }  # fmt: skip
        if pin[3]:
            component |= {"scope": "optional", "description": f"where {pin[3]}"}
        components.append(component)
        for user in WANTED_BY.findall(block):
            needs[purls[user]].append(purl)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, root + lock)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": name,
                "version": version,
                "description": project["description"],
                "licenses": [{"license": {"id": project["license"]}}],
                "purl": root,
            }
        },
        "components": components,
        "dependencies": [
            {"ref": purl, "dependsOn": sorted(below)} for purl, below in sorted(needs.items())
        ],
    }


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    json.dump(bill((ROOT / "requirements.lock").read_text(), project), sys.stdout, indent=1)
    print()
