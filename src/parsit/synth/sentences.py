"""English sentences from a small grammar.

Decides on templates with slots that fill recursively (`{np}` may contain `{adj}`), which makes many
millions of different sentences from a few hundred words. They are grammatical and mean little: a
reader model must look at the page, because it cannot guess the next word.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from parsit.synth import words
from parsit.synth.values import Values

SLOT = re.compile(r"\{(\w+)\}")

STATEMENTS = (
    "{People} {past} {np} {when}.",
    "{People} {adv} {past} {np}.",
    "{People} {past} {np} and {past} {np}.",
    "{People} {past} {np} because {np} was {adj}.",
    "{When}, {people} {past} {np}.",
    "{Np} was {adv} {past} by {people}.",
    "{Np} will be {past} {future}.",
    "{Np} has been {past} since {month} {year}.",
    "{Np} and {np} were {past} {when}.",
    "Although {np} was {adj}, {people} {past} {np}.",
    "If {np} is {adj}, {people} will {base} {np}.",
    "There are {count} {nouns} in {np}, and {count} of them are {adj}.",
    "About {percent} of {the_nouns} were {past} {when}.",
    "{Mass} and {mass} were {past} at {city} {when}.",
    "The price of {mass} rose from {money} to {money} per {unit}.",
    "The cost of {np} was {money}, which is {percent} more than in {year}.",
    "{Person} {past} {np} on {date}.",
    "{Company} {past} {count} {nouns} {when}.",
    "According to {person}, {np} was {adj} and {adj}.",
    "“{Np} is {adj},” said {person}.",
    "{Np} (see § {digit}) was {past} by {people}.",
    "A temperature of {digits} °C was {past} in {np}.",
    "The length is {digits} ± {digit} mm; the width is {digits} mm.",
    "We {past} {np}; {np} was {adj}.",
    "No {noun} was {past}, {people} {past} none, and {np} stayed {adj}.",
    "It is {adj} to {base} {np} before {date}.",
    "In the years {years}, {np} was {past} {count} times.",
    "{Count} {nouns} were {past}: {noun}, {noun} and {noun}.",
    "Most {nouns} are {adj} – only {np} is not.",
    "Whether {people} {past} {np} is not {adj}.",
)

LETTER_SENTENCES = (
    "Thank you for your letter of {date}.",
    "We have {past} {np} that you {past} {when}.",
    "Please {base} {np} by {date}.",
    "Please note that {np} is {adj}.",
    "I am writing to {base} {np} in {city}.",
    "We are pleased to offer you {np} for {money}.",
    "You will find {np} and {np} enclosed.",
    "Our {noun} costs {money} per {unit}, including {noun} and {noun}.",
    "Could you {base} {np} and {base} {np}?",
    "I would be grateful if you could {base} {np}.",
    "We regret that {np} was {adv} {past}.",
    "If you have any questions about {np}, please call {phone}.",
    "My colleague {person} will {base} {np} on {date} at {time}.",
    "Your {noun} of {date} has been {past}.",
    "We expect {count} {nouns} from {company} {future}.",
    "The balance of {money} is due on {date}.",
    "You can reach us at {email}.",
    "Unfortunately, {people} {past} {np}, so we cannot {base} it {future}.",
    "Let us know whether {np} is {adj} or {adj}.",
    "We look forward to {np}.",
)

TITLES = (
    "{Adj} {noun} and {adj} {noun}",
    "The {adj} {noun} of {city}",
    "{Noun} {noun} {year}",
    "{Mass} and {mass} in {city}, {years}",
    "On the {noun} of {adj} {nouns}",
    "{A_noun} for {adj} {nouns}",
    "How to {base} {adj} {nouns}",
    "{Nouns}, {nouns} and the {adj} {noun}",
    "{Adj} {nouns}: {a_noun}",
    "{City} {noun} {noun} no. {digits}",
)

ITEMS = (
    "{Base} {np} {future}",
    "{Np}, {adj} and {adj}",
    "{Count} {adj} {nouns} from {city}",
    "{Base} the {noun} with {person}",
    "{Adj} {nouns} for {np}",
    "{Noun} {code}: {past} {when}",
    "{Mass}, {digits} {unit}",
    "{Np} by {date}",
)

FOOTNOTES = (
    "Thank you for visiting {company}!",
    "Exchange within {digits} days with this {noun}.",
    "Visit us at {web}",
    "Ask for {person} at our {noun} in {city}.",
    "Open {weekday} to {weekday} from {time}",
    "Save {percent} on {adj} {nouns} {future}!",
    "Please pay within {digits} days to {iban}.",
    "All {nouns} are subject to {adj} {nouns}.",
    "Payable to {company}, {city}.",
)


def sentence(rng: Random, values: Values, templates: tuple[str, ...] = STATEMENTS) -> str:
    """One sentence (or title, list item …) from a template drawn from `templates`."""
    return expand(rng.choice(templates), rng, values)


def expand(template: str, rng: Random, values: Values) -> str:
    """Fill each `{slot}`; a slot written with a capital gives a capital."""

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        text = SLOTS[name.lower()](rng, values)
        return text[0].upper() + text[1:] if name[0].isupper() else text

    return SLOT.sub(fill, template)


def noun_phrase(rng: Random, values: Values) -> str:
    """`the narrow corridor`, `a report on the orchard`, `this brass hinge`."""
    shape = rng.random()
    noun = rng.choice(words.NOUNS)
    if shape < 0.35:
        return f"{rng.choice(('the', 'the', 'this', 'that', 'our', 'each'))} {rng.choice(words.ADJECTIVES)} {noun}"
    if shape < 0.6:
        return f"the {noun}"
    if shape < 0.75:
        return f"{with_article(rng.choice(words.ADJECTIVES))} {noun}"
    if shape < 0.9:
        return f"the {noun} of the {rng.choice(words.NOUNS)}"
    return f"the {noun} in {values.city()}"


def article(word: str) -> str:
    """`a` or `an`, by the letter the word begins with and a few exceptions that the lists hold."""
    if word in ("unique", "unusual", "useful", "usual", "university", "unit", "European"):
        return "an" if word == "unusual" else "a"
    return "an" if word[0] in "aeiou" or word == "hour" else "a"


def with_article(word: str) -> str:
    """The word after `a` or `an`."""
    return f"{article(word)} {word}"


def plural(noun: str) -> str:
    """The regular English plural; the lists hold no irregular nouns."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith("shelf"):
        return noun[:-1] + "ves"
    if noun in ("series", "premises"):
        return noun
    if noun.endswith("ysis"):
        return noun[:-2] + "es"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh", "z")) else "s")


def past_time(rng: Random, values: Values) -> str:
    """When something happened."""
    return rng.choice((
        "last week", "last year", "yesterday", "this morning", "two days ago", "in the spring", "during the winter",
        "on time", "in the afternoon", "before noon",
        f"in {rng.choice(words.MONTHS)}", f"on {rng.choice(words.WEEKDAYS)}", f"in {rng.randint(1950, 2025)}",
        f"on {values.date()}", f"at {values.time()}", f"{rng.randint(2, 19)} years ago",
    ))  # fmt: skip


def future_time(rng: Random, values: Values) -> str:
    """When something will happen."""
    return rng.choice((
        "next week", "next year", "tomorrow", "soon", "in the autumn", "within ten days", f"by {values.date()}",
        f"next {rng.choice(words.WEEKDAYS)}", f"in {rng.choice(words.MONTHS)}", f"within {rng.randint(2, 90)} days",
    ))  # fmt: skip


def count_word(rng: Random) -> str:
    """A number up to twelve in words or a larger one in digits."""
    small = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    return rng.choice(small) if rng.random() < 0.5 else str(rng.randint(13, 980))


SLOTS: dict[str, Callable[[Random, Values], str]] = {
    "a_noun": lambda rng, _: with_article(rng.choice(words.NOUNS)),
    "adj": lambda rng, _: rng.choice(words.ADJECTIVES),
    "adv": lambda rng, _: rng.choice(words.ADVERBS),
    "base": lambda rng, _: rng.choice(words.VERBS_BASE),
    "city": lambda _, values: values.city(),
    "code": lambda _, values: values.code(),
    "company": lambda _, values: values.company(),
    "count": lambda rng, _: count_word(rng),
    "date": lambda _, values: values.date(),
    "digit": lambda rng, _: str(rng.randint(1, 9)),
    "digits": lambda rng, _: str(rng.randint(2, 250)),
    "email": lambda _, values: values.email(values.person()),
    "future": future_time,
    "iban": lambda _, values: values.account()[2],
    "mass": lambda rng, _: rng.choice(words.MASS_NOUNS),
    "money": lambda rng, values: values.money(rng.randint(100, 500_000)),
    "month": lambda rng, _: rng.choice(words.MONTHS),
    "noun": lambda rng, _: rng.choice(words.NOUNS),
    "nouns": lambda rng, _: plural(rng.choice(words.NOUNS)),
    "np": noun_phrase,
    "past": lambda rng, _: rng.choice(words.VERBS_PAST),
    "people": lambda rng, _: rng.choice(words.PEOPLE),
    "percent": lambda _, values: values.percent(),
    "person": lambda _, values: values.person(),
    "phone": lambda _, values: values.phone(),
    "the_nouns": lambda rng, _: f"the {rng.choice(words.ADJECTIVES)} {plural(rng.choice(words.NOUNS))}",
    "time": lambda _, values: values.time(),
    "unit": lambda rng, _: rng.choice(("kg", "litre", "metre", "m²", "box", "pallet", "ton", "hour", "piece")),
    "web": lambda _, values: values.web(),
    "weekday": lambda rng, _: rng.choice(words.WEEKDAYS),
    "when": past_time,
    "year": lambda rng, _: str(rng.randint(1950, 2030)),
    "years": lambda rng, _: f"{rng.randint(1950, 1999)}–{rng.randint(2000, 2030)}",
}
