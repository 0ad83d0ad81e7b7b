"""Reads systemd's units: sections of names with one value or several."""

from pathlib import Path

Unit = dict[str, dict[str, list[str]]]


def unit(path: Path) -> Unit:
    """What a unit says. Raises AssertionError where a line is none of systemd's."""
    sections: Unit = {}
    section = ""
    for line in path.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line.strip("[]")
            sections[section] = {}
            continue
        name, equals, value = line.partition("=")
        assert equals, f"{path.name}: {line!r}"
        assert section, f"{path.name}: {line!r} is in no section"
        sections[section].setdefault(name, []).append(value)
    return sections


def environment(of: Unit) -> dict[str, str]:
    pairs = (one.partition("=") for one in of["Service"].get("Environment", ()))
    return {name: value for name, _, value in pairs}
