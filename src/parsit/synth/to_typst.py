"""A document tree as Typst source.

Decides that all text goes in as string literals (`#"…"`), where Typst's markup, smart quotes and
shorthands do not apply, so that two escapes make any text safe. Ligatures, hyphenation and font
fallback are off: each character of the tree is one glyph of the named font.
"""

from __future__ import annotations

from parsit.synth.tree import (
    Block,
    Expression,
    Formula,
    Fraction,
    Heading,
    KeyValues,
    Lines,
    ListBlock,
    PageTree,
    Paragraph,
    Rule,
    Script,
    Sequence,
    SideBySide,
    Style,
    Symbol,
    Table,
)

PAPER_MM = {"a4": (210.0, 297.0), "letter": (215.9, 279.4)}
HEADING_SCALE = {1: 1.6, 2: 1.25, 3: 1.08}


def to_typst(document: PageTree) -> str:
    """The whole source of one document."""
    head = "\n\n".join(block_typst(block, document.style) for block in document.head)
    body = "\n\n".join(block_typst(block, document.style) for block in document.body)
    if document.style.columns > 1 and body:
        body = f"#columns({document.style.columns}, gutter: 7mm)[\n{body}\n]"
    return f"{preamble(document.style)}\n{head}\n\n{body}\n"


def preamble(style: Style) -> str:
    """Page, font and paragraph settings."""
    width, height = (
        (f"{mm}mm" for mm in PAPER_MM[style.paper]) if style.paper != "roll" else (f"{style.roll_mm}mm", "auto")
    )
    return "\n".join(
        [
            f"#set page(width: {width}, height: {height}, margin: {style.margin_mm}mm)",
            f'#set text(font: {literal(style.font)}, size: {style.size_pt:.2f}pt, lang: "en",'
            " ligatures: false, hyphenate: false, fallback: false)",
            f"#set par(leading: {style.leading_em}em, spacing: {style.leading_em + 0.55:.2f}em,"
            f" justify: {str(style.justify).lower()})",
            "#set block(breakable: true)",
        ]
    )


def literal(text: str) -> str:
    """A Typst string literal for any text without control characters."""
    assert text.isprintable(), f"control character in {text!r}"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def styled(text: str, **options: str) -> str:
    """A code expression (without `#`) for text with Typst text options."""
    arguments = "".join(f", {name}: {value}" for name, value in options.items())
    return f"text({literal(text)}{arguments})"


def block_typst(block: Block, style: Style) -> str:
    """One block as Typst markup."""
    match block:
        case Heading():
            return heading_typst(block, style)
        case Paragraph(text=text):
            return "#" + literal(text)
        case Lines():
            return lines_typst(block)
        case KeyValues():
            return boxed_typst(block) if block.boxed else pairs_typst(block)
        case Table():
            return table_typst(block, style)
        case ListBlock(items=items, markers=markers):
            cells = ", ".join(f"{literal(m)}, {literal(i)}" for m, i in zip(markers, items, strict=True))
            return f"#grid(columns: (auto, 1fr), column-gutter: 0.6em, row-gutter: 0.8em, {cells})"
        case Formula(expression=expression):
            return f"#align(center)[$ {expression_typst(expression)} $]"
        case Rule():
            return "#line(length: 100%, stroke: 0.6pt)"
        case SideBySide(left=left, right=right):
            return (
                "#grid(columns: (1fr, 1fr), column-gutter: 8mm,"
                f" [{block_typst(left, style)}], [{block_typst(right, style)}])"
            )


def ragged(expression: str) -> str:
    """A block of its own in which lines are not justified."""
    return f"#block(width: 100%, {{ set par(justify: false); {expression} }})"


def heading_typst(block: Heading, style: Style) -> str:
    """A heading as bold text: Typst's own heading would add tags and spacing that differ between versions."""
    scale = HEADING_SCALE[block.level]
    text = styled(block.text, size=f"{scale}em", weight='"bold"', fill=f"rgb({literal(style.accent)})")
    shown = f"set par(justify: false); align({block.align}, {text})"
    return f"#block(width: 100%, above: 1.4em, below: 0.9em, {{ {shown} }})"


def lines_typst(block: Lines) -> str:
    """Lines under each other, none of them broken unless it is wider than its place."""
    size = f"{block.scale}em"
    shown = [
        styled(line, size=size, weight='"bold"' if index == 0 and block.strong_first else '"regular"')
        for index, line in enumerate(block.lines)
    ]
    stacked = " + linebreak() + ".join(shown)
    return ragged(f"align({block.align}, {stacked})")


def pairs_typst(block: KeyValues) -> str:
    """Label and value beside each other on a grid; the last pair bold if it is a total."""
    cells = []
    for index, pair in enumerate(block.pairs):
        strong = '"bold"' if block.strong_last and index == len(block.pairs) - 1 else '"regular"'
        value = styled(pair.value, weight=strong)
        cells.append(styled(pair.label + block.suffix, weight=strong))
        cells.append(f"align(right, {value})" if block.spread else value)
    widths = ("1fr, auto, " if block.spread else "auto, 1fr, ") * block.columns
    gutters = "column-gutter: 1.2em, row-gutter: 0.75em"
    return ragged(f"grid(columns: ({widths}), {gutters}, {', '.join(cells)})")


def boxed_typst(block: KeyValues) -> str:
    """Boxes as on a form: the label small above its value."""
    cells = ", ".join(
        f"stack(spacing: 0.55em, {styled(pair.label + block.suffix, size='0.75em')}, {literal(pair.value)})"
        for pair in block.pairs
    )
    return ragged(f"table(columns: (1fr,) * {block.columns}, inset: 5pt, stroke: 0.5pt, {cells})")


def table_typst(block: Table, style: Style) -> str:
    """A table with a bold head; columns of numbers are as wide as they need, the others share the rest."""
    widths = ", ".join("auto" if column.numeric else "1fr" for column in block.columns)
    aligns = ", ".join("right" if column.numeric else "left" for column in block.columns)
    head = [styled(column.header, weight='"bold"', fill=f"rgb({literal(style.accent)})") for column in block.columns]
    cells = head + [literal(cell) for row in block.rows for cell in row]
    look = {
        "grid": "stroke: 0.5pt",
        "rows": "stroke: (x: none, y: 0.4pt)",
        "head": "stroke: (_, y) => if y == 0 { (bottom: 0.9pt) }",
        "stripes": "stroke: none, fill: (_, y) => if calc.odd(y) { luma(92%) }",
    }[block.rules]
    return ragged(
        f"table(columns: ({widths},), align: ({aligns},), inset: (x: 4pt, y: 3.5pt), {look}, {', '.join(cells)})"
    )


def expression_typst(expression: Expression) -> str:
    """A formula in Typst's math syntax; symbols are letters, numbers and plain operators."""
    match expression:
        case Symbol(text=text):
            return text
        case Fraction(numerator=numerator, denominator=denominator):
            return f"({expression_typst(numerator)}) / ({expression_typst(denominator)})"
        case Script(base=base, upper=upper, lower=lower):
            below = f"_({expression_typst(lower)})" if lower else ""
            above = f"^({expression_typst(upper)})" if upper else ""
            return f"{expression_typst(base)}{below}{above}"
        case Sequence(parts=parts):
            return " ".join(map(expression_typst, parts))
