"""What a reader of web pages without a network would miss."""

from pathlib import Path

from bs4 import BeautifulSoup


def faults(folder: Path) -> list[str]:
    """Dead links, missing pictures, scripts, and whatever a page would load from elsewhere."""
    soups = {
        path.name: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in folder.glob("*.html")
    }
    found = []
    for page, soup in soups.items():
        found += [f"{page}: has a {tag.name}" for tag in soup(["script", "iframe", "object"])]
        found += [f"{page}: {name} runs a script" for name in _handlers(soup)]
        targets = [tag["href"] for tag in soup("a", href=True)]
        loaded = [tag["src"] for tag in soup("img")] + [tag["href"] for tag in soup("link")]
        loaded = [target for target in loaded if not target.startswith("data:")]
        found += [f"{page}: loads {target}" for target in loaded if "//" in target]
        for target in [*targets, *loaded]:
            name, _, place = target.partition("#")
            if "://" not in target and name and not (folder / name).is_file():
                found.append(f"{page}: {target} is missing")
            elif place and not soups[name or page].find(id=place):
                found.append(f"{page}: {target} has no such place")
    if "@import" in (style := (folder / "book.css").read_text()) or "url(" in style:
        found.append("the style sheet loads something")
    return found


def _handlers(soup: BeautifulSoup) -> list[str]:
    return [name for tag in soup(True) for name in tag.attrs if name.startswith("on")]
