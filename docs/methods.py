"""Pages of the methods, from configurations and classes; `docs/hook.py` adds them to the site."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import yaml

from explainers.base import Explainer
from explainers.learned import is_trained

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "methods"
PICTURES = ROOT / "docs" / "pictures"
SECTIONS = ("Source", "Cost")
KINDS = {
    "Trained once": "A network is trained for the classifier, and then explains an image in a pass "
    "or two. For many images, or all classes at once.",
    "From the inside of the classifier": "They read its gradients, features or attention, and need "
    "no training. For a quick answer, if the network is at hand.",
    "Optimized for each image": "A mask or a map is changed by gradient steps, often hundreds. For "
    "a few images, and questions such as which smallest part shows the class.",
    "From the classifier's answers alone": "They only ask for the outputs of changed images. For "
    "any classifier, if time does not matter.",
    "Controls": "Rows to read the others against. They do not explain.",
}
INDEX = """# Methods

Made from `configs/methods` and the classes when this site is built. Each name is that of a file
`configs/methods/<name>.yaml`, and is what `--method` and `--methods` take.
[Choose a method](../choose.md) compares them.
"""
OPTIONS = """    options:
      show_signature: false
      separate_signature: false"""
CAPTION = """scikit-image's cat under EfficientNet-Lite0 at 160 px, predicted class, with few passes
(`python docs/pictures.py {name}`)"""


def names() -> list[str]:
    """Names of all methods."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def path_of(name: str) -> str:
    """Class path of a method."""
    path: str = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]["class_path"]
    return path


def class_of(name: str) -> type[Explainer]:
    """Class of a method."""
    module, _, kind = path_of(name).rpartition(".")
    found: type[Explainer] = getattr(importlib.import_module(module), kind)
    return found


def section(kind: type, label: str) -> str:
    """The paragraph after "Cost", "Cost for each image:" or the like, of a class or its bases."""
    pattern = rf"(?:^|\n|\. ){label}s?\b[^.:]*: (.+?)(?=\n\n|\Z)"
    for base in kind.__mro__:
        if base in Explainer.__mro__:
            break
        if match := re.search(pattern, inspect.cleandoc(base.__doc__ or ""), re.DOTALL):
            return re.sub(r"\s+", " ", match[0].removeprefix(". ")).strip()
    return ""


def kind_of(kind: type[Explainer]) -> str:
    """Heading under which a method stands, from what its class says."""
    trained, inside, optimized, answers, controls = KINDS
    if kind.__module__.rpartition(".")[2] in {"constant", "lattice", "greedy_order"}:
        return controls
    if is_trained(kind):
        return trained
    if not kind.needs_gradients:
        return answers if re.search(r"only its \w+ are used", kind.__doc__ or "") else inside
    steps = "explainers.optimization" in inspect.getsource(sys.modules[kind.__module__])
    return optimized if steps else inside


def facts(kind: type[Explainer]) -> list[str]:
    """What the class says of itself, in sentences."""
    if kind.is_mask:
        values = "a mask in [0, 1]: 1 is kept, 0 removed."
    elif kind.is_signed:
        values = "signed: above 0 speaks for the class, below 0 against it."
    else:
        values = "an order: larger matters more, and the scale says nothing."
    return [
        f"**{kind_of(kind)}.** {KINDS[kind_of(kind)]}",
        f"**Map**: {values}",
        "**Class**: "
        + (
            "the map is that of the class that is asked for."
            if kind.class_specific
            else "one map, whatever class is asked for."
        ),
        "**Needs**: "
        + ("a training or a checkpoint; " if is_trained(kind) else "no training; ")
        + ("gradients." if kind.needs_gradients else "no gradients when it explains."),
    ]


def command(name: str, kind: type[Explainer]) -> str:
    """How a photograph is explained."""
    source = f"runs/{name}/last.ckpt" if is_trained(kind) else name
    return f"python evaluate.py explain photo.jpg --method {source}"


def page(name: str) -> str:
    """The page of a method."""
    kind = class_of(name)
    parts = [f"# {name}"]
    if (PICTURES / f"{name}.webp").exists():
        caption = re.sub(r"\s+", " ", CAPTION.format(name=name))
        pictures = f"![Photograph](../pictures/photograph.webp) ![Map](../pictures/{name}.webp)"
        parts.append(f"{pictures}\n\n<small>{caption}</small>")
    parts.append("\n".join(f"- {fact}" for fact in facts(kind)))
    parts.append(f"```bash\n{command(name, kind)}\n```")
    if is_trained(kind):
        parts.append(
            "The configuration at the end of this page begins with the command that trains it."
        )
    parts.append(f"::: {path_of(name)}\n{OPTIONS}")
    parts.append(f"## Configuration\n\n`configs/methods/{name}.yaml`:")
    parts.append(f"```yaml\n{(CONFIGS / f'{name}.yaml').read_text().strip()}\n```")
    return "\n\n".join(parts) + "\n"


def index() -> str:
    """The page with all methods by kind."""
    rows: dict[str, list[str]] = {heading: [] for heading in KINDS}
    for name in names():
        kind = class_of(name)
        summary = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        cost = section(kind, "Cost").replace("|", r"\|")
        rows[kind_of(kind)].append(f"| [{name}]({name}.md) | {summary} | {cost} |")
    parts = [INDEX.strip()]
    for heading, words in KINDS.items():
        table = "| method | map | cost |\n|---|---|---|\n" + "\n".join(rows[heading])
        parts.append(f"## {heading}\n\n{words}\n\n{table}")
    return "\n\n".join(parts) + "\n"
