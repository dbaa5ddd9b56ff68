"""A manual: title and version, sections of prose with quotations and symbols, settings, commands, listings.

Decides to hold what the office's papers lack: straight quotation marks and apostrophes, dashes, dots that trail off,
and the brackets and signs of configuration and code. A reader that has never met `"` writes `”` for it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from parsit.synth import words
from parsit.synth.draw import Draw
from parsit.synth.sentences import plural
from parsit.synth.tree import Block, Heading, KeyValues, Lines, ListBlock, PageTree, Pair, Paragraph

SENTENCES = (
    '"{Np} is {adj}," said {person}.',
    '{Person} wrote: "{Base} {np}!"',
    '"{Adj}" means that {np} can\'t be {past}.',
    "'{Nouns}' is the plural of '{noun}'.",
    "It's {adj} that {company}'s {noun} wasn't {past}.",
    "Don't {base} {np}, or you'll have to {base} it again.",
    "What's {adj}? Who {past} {np}? We don't know!",
    "{Np} — {adj} and {adj} — was {past} {when}.",
    "{People} {past} {np}… and {past} it again.",
    "Wait {digits} s ... then {base} {np}.",
    "‘{Np}’ stands for {np}.",
    "© {year} {company}. All rights reserved.",
    "Use {option} to {base} {np} (see {path}).",
    "Set {constant}={digits} in {path}; {constant} > {digits} is an error.",
    "The file {path} holds \"{identifier}\" and '{identifier}'.",
    "Press Ctrl+{letter} or type `{identifier}` & {base} {np}.",
    "{Nouns}/{nouns} [{digit}] are {past} at {email} or {web}.",
    "~{digits} {nouns} (x = {digits}, y = {digits}) were {past}*.",
    "If {identifier} < {digit} and {identifier} >= {digits}, {np} is {adj}.",
    "Run {identifier}() twice: {digits} + {digits} != {digits}, #{digits} fails.",
    "Both {np} {and_or} {np} were {past} – {percent} of {digits} {nouns}.",
)
LABELS = ("Version", "Release", "Edition", "Build", "Revision")
COMMANDS = ("copy", "print", "scan", "sort", "join", "send", "list", "mount", "read", "store")
ENDINGS = ("txt", "conf", "py", "log", "yaml", "csv", "html", "c", "json", "sh")
HEADS = ("NAME", "Options", "Settings", "Examples", "Commands", "Files", "Errors & remedies", "How it's done", "Notes")


def make(draw: Draw) -> PageTree:
    """One page of a manual."""
    rng, values = draw.rng, draw.values
    body: list[Block] = []
    for _ in range(rng.randint(3, 6)):
        heading = draw.title() if draw.coin() else rng.choice(HEADS)
        body += [Heading(heading, rng.choice((2, 3)), key="sections"), prose(draw)]
        body.append(rng.choice((listing, listing, options, remedies))(draw))
    version = f"{rng.randint(0, 19)}.{rng.randint(0, 40)}{rng.choice(('', '-rc1', '~beta', '.7', '+git'))}"
    about = (Pair("version", rng.choice(LABELS), version), Pair("reference", "Document", draw.reference()))
    return PageTree(
        kind="manual",
        language=values.locale.code,
        style=draw.style(monospaced=0.35),
        head=(Heading(draw.title(), 1, key="title"), KeyValues(about, columns=2)),
        body=tuple(body),
    )


def prose(draw: Draw) -> Block:
    """A paragraph of the kind's own sentences."""
    templates = [filled_ahead(draw.rng, template) for template in SENTENCES]
    return Paragraph(tuple(draw.sentence(templates) for _ in range(draw.rng.randint(2, 4))))


def filled_ahead(rng: Random, template: str) -> str:
    """A template with the slots of this kind filled; those that all kinds share stay."""
    for slot, fill in SLOTS.items():
        while f"{{{slot}}}" in template:
            template = template.replace(f"{{{slot}}}", fill(rng), 1)
    return template


def listing(draw: Draw) -> Block:
    """Lines of a file or of a terminal, of this page's split."""
    lines = tuple(draw.texts.draw(lambda: code_line(draw.rng)) for _ in range(draw.rng.randint(2, 7)))
    return Lines(lines, scale=draw.rng.choice((0.8, 0.9, 1.0)))


def options(draw: Draw) -> Block:
    """Options and what they do, a name on the left and words on the right."""
    names = dict.fromkeys(option(draw.rng) for _ in range(draw.rng.randint(2, 5)))
    pairs = tuple(Pair(f"option_{number}", name, draw.item()) for number, name in enumerate(names, 1))
    return KeyValues(pairs, suffix="")


def remedies(draw: Draw) -> Block:
    """A list of messages."""
    rng = draw.rng
    made = (lambda: f'"{message(rng)}": {rng.choice(words.VERBS_BASE)} {path(rng)}') if draw.coin() else draw.item
    items = tuple(draw.texts.draw(made) for _ in range(rng.randint(2, 4)))
    return ListBlock(items, (rng.choice(("*", "-", "+", ">", "—", "•")),) * len(items))


def message(rng: Random) -> str:
    """What a program says."""
    noun, adjective = rng.choice(words.NOUNS), rng.choice(words.ADJECTIVES)
    return rng.choice((
        f"{noun}: can't open '{noun}.{rng.choice(ENDINGS)}'", f"error {rng.randint(1, 99)}: {adjective} {noun}",
        f"{plural(noun)} != {rng.randint(1, 99)}", f"{adjective} {noun} [y/N]?", f"{noun} isn't {adjective}!",
    ))  # fmt: skip


def identifier(rng: Random) -> str:
    """`narrow_lamp`, `narrowLamp`, `lamp2`."""
    adjective, noun = rng.choice(words.ADJECTIVES).lower(), rng.choice(words.NOUNS)
    return rng.choice((f"{adjective}_{noun}", f"{adjective}{noun.capitalize()}", f"{noun}{rng.randint(1, 9)}", noun))


def constant(rng: Random) -> str:
    """`MAX_LAMP`."""
    return f"{rng.choice(('MAX', 'MIN', 'NO', 'USE', 'X'))}_{rng.choice(words.NOUNS).upper()}"


def option(rng: Random) -> str:
    """`--lamp`, `-l`, `--lamp=FILE`."""
    noun = rng.choice(words.NOUNS)
    return rng.choice((f"--{noun}", f"-{rng.choice('abcdefghijkKLQWXYZ')}", f"--{noun}=FILE", f"--no-{noun}"))


def path(rng: Random) -> str:
    """A file by its place."""
    first, last = rng.choice(words.NOUNS), f"{rng.choice(words.NOUNS)}.{rng.choice(ENDINGS)}"
    return rng.choice((f"/etc/{first}/{last}", f"~/.{first}/{last}", f"./{first}/{last}", f"C:\\{first}\\{last}", last))


SLOTS: dict[str, Callable[[Random], str]] = {
    "and_or": lambda rng: rng.choice(("&", "and/or", "+")),
    "constant": constant,
    "identifier": identifier,
    "letter": lambda rng: rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "option": option,
    "path": path,
}


def code_line(rng: Random) -> str:
    """One line of a shell, a configuration or a program; short enough not to be broken on a narrow page."""
    name, other, noun, number = identifier(rng), identifier(rng), rng.choice(words.NOUNS), rng.randint(0, 999)
    return rng.choice((
        f"$ {rng.choice(COMMANDS)} {option(rng)} {path(rng)}", f"[{noun}]# {rng.choice(COMMANDS)} | sort > {noun}.log",
        f'{name} = "{noun}"', f"{name} = '{noun}'", f"{name}: [{number}, ~]",
        f"export {constant(rng)}=${{{constant(rng)}}}",
        f"{name}[{number % 10}] += {number} * ({noun} - 1) / 2;", f"if ({name} < {number} && !{noun}) {{",
        f"}} else if ({name} >= {number} || {noun}) {{", f"def {name}({noun}, *{other}, x={number}):",
        f"<{noun} id=\"{name}\">{number}</{noun}>", f'{{"{name}": {number}, "{noun}": null}}', f"[{noun}.{name}]",
        f"\\{noun}{{{name}}}[{number}]", f"^{noun}_{number}$ `{name}`", f"@{noun}: {number} % {number % 7 + 2} == 0",
        f"return {name}->{noun}[{number % 10}];", f"// {noun}'s {other}", f"{number} | {name} | {number / 7:.2f}",
        f"{noun}@{rng.choice(words.NOUNS)}:~$ {rng.choice(COMMANDS)} '*.{rng.choice(ENDINGS)}'",
    ))  # fmt: skip
