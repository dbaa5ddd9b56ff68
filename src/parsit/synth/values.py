"""Names, places, dates, amounts and numbers in the house style of a language.

Decides on five house styles (`LOCALES`). Amounts are whole cents until they are printed, so sums on
a page always add up. Numbers only look like IBANs or phone numbers: their check digits are random.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random

from parsit.synth import words


@dataclass(frozen=True, slots=True)
class Locale:
    """A house style. `region` picks names of places; `money` are formats with `{}` for the number."""

    code: str
    region: str
    decimal: str
    thousands: str
    money: tuple[str, ...]
    dates: tuple[str, ...]
    iban_country: str
    dialling: tuple[str, ...]
    tax_name: str
    tax_percents: tuple[int, ...]


LOCALES = (
    Locale(
        "en-US", "en-US", ".", ",", ("${}", "${}", "USD {}", "US$ {}"),
        ("{month} {d}, {y}", "{mon} {d}, {y}", "{m:02}/{d:02}/{y}", "{m}/{d}/{yy:02}", "{y}-{m:02}-{d:02}"),
        "US", ("({:03}) {:03}-{:04}", "+1 {:03} {:03} {:04}", "{:03}-{:03}-{:04}"), "Sales tax", (4, 6, 7, 8),
    ),
    Locale(
        "en-GB", "en-GB", ".", ",", ("£{}", "£{}", "GBP {}", "£ {}"),
        ("{d} {month} {y}", "{d} {mon} {y}", "{d:02}/{m:02}/{y}", "{d:02}.{m:02}.{yy:02}", "{weekday} {d} {month} {y}"),
        "GB", ("0{:03} {:03} {:04}", "+44 {:03} {:03} {:04}", "(0{:03}) {:03}{:04}"), "VAT", (5, 20),
    ),
    Locale(
        "de", "de", ",", ".", ("{} €", "€ {}", "EUR {}", "{} EUR"),
        ("{d:02}.{m:02}.{y}", "{d}. {month} {y}", "{d}.{m}.{y}", "{y}-{m:02}-{d:02}", "{d:02}.{m:02}.{yy:02}"),
        "DE", ("+49 {:03} {:03}{:04}", "0{:03}/{:03}{:04}", "0{:03} {:03} {:04}"), "VAT", (7, 19),
    ),
    Locale(
        "fr", "fr", ",", " ", ("{} €", "{} €", "{} EUR"),
        ("{d} {month} {y}", "{d:02}/{m:02}/{y}", "{d:02}/{m:02}/{yy:02}", "{d:02}-{m:02}-{y}"),
        "FR", ("+33 {:03} {:03} {:04}", "0{:03}.{:03}.{:04}"), "VAT", (10, 20),
    ),
    Locale(
        "ch", "fr", ".", "’", ("CHF {}", "Fr. {}", "{} CHF"),
        ("{d}.{m}.{y}", "{d:02}.{m:02}.{y}", "{d} {month} {y}"),
        "CH", ("+41 {:03} {:03} {:04}", "0{:03} {:03} {:04}"), "VAT", (3, 8),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Values:
    """Draws values in one house style; one page writes its dates and its amounts in one way."""

    rng: Random
    locale: Locale
    date_format: str
    money_format: str

    @classmethod
    def draw(cls, rng: Random) -> Values:
        """A house style, and one of its ways to write dates and amounts."""
        locale = rng.choice(LOCALES)
        return cls(rng, locale, rng.choice(locale.dates), rng.choice(locale.money))

    def first_name(self) -> str:
        """A first name."""
        return self.rng.choice(words.FIRST_NAMES)

    def last_name(self) -> str:
        """A family name."""
        return self.rng.choice(words.LAST_NAMES)

    def person(self) -> str:
        """A full name, sometimes with an initial or a title."""
        first, last = self.first_name(), self.last_name()
        kind = self.rng.random()
        if kind < 0.1:
            return f"{self.rng.choice(('Dr', 'Dr.', 'Prof.'))} {first} {last}"
        if kind < 0.25:
            return f"{first} {self.rng.choice('ABCDEFGHJKLMNPRSTVW')}. {last}"
        return f"{first} {last}"

    def company(self) -> str:
        """A company's name."""
        name, trade = self.rng.choice(words.COMPANY_NAMES), self.rng.choice(words.COMPANY_TRADES)
        form = self.rng.choice(words.COMPANY_FORMS[self.locale.region])
        if self.rng.random() < 0.25:
            return f"{self.last_name()} & {self.last_name()} {trade}"
        return f"{name} {trade} {form}" if self.rng.random() < 0.7 else f"{name} {form}"

    def city(self) -> str:
        """A city of the region."""
        return self.rng.choice(words.CITIES[self.locale.region])

    def street(self) -> str:
        """A street with a number, in the region's order."""
        street = self.rng.choice(words.STREETS[self.locale.region])
        number = str(self.rng.randint(1, 240)) + (self.rng.choice("abc") if self.rng.random() < 0.1 else "")
        return f"{street} {number}" if self.locale.region == "de" else f"{number} {street}"

    def town(self) -> str:
        """City with postcode, in the region's order."""
        rng, city = self.rng, self.city()
        if self.locale.region == "en-US":
            state = rng.choice(("CA", "CO", "IL", "MA", "ME", "NC", "NJ", "NY", "OH", "OR", "TX", "VA", "VT", "WA"))
            return f"{city}, {state} {rng.randint(1001, 99950):05}"
        if self.locale.region == "en-GB":
            letters = "ABDEFGHJLNPQRSTUWXYZ"
            area = "".join(rng.choices("BCDEGLMNOPSTWY", k=rng.randint(1, 2)))
            return f"{city} {area}{rng.randint(1, 29)} {rng.randint(1, 9)}{''.join(rng.choices(letters, k=2))}"
        return (
            f"{rng.randint(1000, 9699):04} {city}"
            if self.locale.code == "ch"
            else f"{rng.randint(1000, 99899):05} {city}"
        )

    def address(self, name: str) -> tuple[str, ...]:
        """The lines of a postal address."""
        return (name, self.street(), self.town())

    def date(self, year_from: int = 1998, year_to: int = 2031) -> str:
        """A date in the page's format."""
        return self._written(self._day(year_from, year_to))

    def dates(self, days: Sequence[int]) -> tuple[str, str]:
        """A date and a later one, by one of so many days."""
        first = self._day(1998, 2031)
        return self._written(first), self._written(first + timedelta(self.rng.choice(days)))

    def _day(self, year_from: int, year_to: int) -> date:
        return date(self.rng.randint(year_from, year_to), self.rng.randint(1, 12), self.rng.randint(1, 28))

    def _written(self, day: date) -> str:
        name, weekday = words.MONTHS[day.month - 1], words.WEEKDAYS[day.weekday()]
        return self.date_format.format(
            d=day.day, m=day.month, y=day.year, yy=day.year % 100, month=name, mon=name[:3], weekday=weekday
        )

    def time(self) -> str:
        """A time of day."""
        hour, minute = self.rng.randint(6, 22), self.rng.randint(0, 59)
        if self.locale.code == "en-US":
            return f"{(hour - 1) % 12 + 1}:{minute:02} {'AM' if hour < 12 else 'PM'}"
        return f"{hour:02}:{minute:02}"

    def number(self, value: int, places: int = 0) -> str:
        """`value` / 10**places with the locale's marks."""
        whole, rest = divmod(abs(value), 10**places)
        text = f"{whole:,}".replace(",", self.locale.thousands)
        if places:
            text += f"{self.locale.decimal}{rest:0{places}}"
        return f"-{text}" if value < 0 else text

    def amount(self, cents: int) -> str:
        """An amount without its currency."""
        return self.number(cents, 2)

    def money(self, cents: int) -> str:
        """An amount with the page's currency."""
        text = self.money_format.format(self.amount(abs(cents)))
        return f"-{text}" if cents < 0 else text

    def percent(self) -> str:
        """A percentage between 0.1 and 99.9."""
        value = self.rng.randint(1, 999)
        space = " " if self.locale.region in ("de", "fr") else ""
        return f"{self.number(value, 1)}{space}%" if self.rng.random() < 0.7 else f"{value // 10 + 1}{space}%"

    def phone(self) -> str:
        """Something that looks like a phone number."""
        rng = self.rng
        return rng.choice(self.locale.dialling).format(
            rng.randint(20, 999), rng.randint(100, 999), rng.randint(0, 9999)
        )

    def account(self) -> tuple[str, str, str]:
        """A bank account: its key among the fields, its label, and its number, an IBAN where the country has them."""
        digits = "".join(self.rng.choices("0123456789", k=20))
        if self.locale.iban_country == "US":
            return "account", "Account", f"{digits[:9]} / {digits[9:19]}"
        groups = " ".join(digits[start : start + 4] for start in range(2, 18, 4))
        return "iban", "IBAN", f"{self.locale.iban_country}{digits[:2]} {groups} {digits[18:]}"

    def email(self, name: str) -> str:
        """An e-mail address for a person or company."""
        rng = self.rng
        local = ".".join(ascii_word(part) for part in name.split()[-2:] if ascii_word(part)) or "info"
        local = rng.choice((local, "info", "office", "contact", "sales")) if rng.random() < 0.4 else local
        host = rng.choice(words.COMPANY_NAMES).lower() + rng.choice(("", "-online", "24", "-group"))
        return f"{local}@{host}.{rng.choice(('com', 'net', 'org', 'eu', 'co.uk', 'de', 'fr', 'ch', 'example'))}"

    def web(self) -> str:
        """A web address."""
        host = self.rng.choice(words.COMPANY_NAMES).lower()
        return (
            f"{self.rng.choice(('www.', 'https://', ''))}{host}.{self.rng.choice(('com', 'org', 'eu', 'info', 'net'))}"
        )

    def code(self, pattern: str | None = None) -> str:
        """A reference such as `KD-2931/7`: `A` becomes a letter, `9` a digit, the rest stays."""
        pattern = pattern or self.rng.choice(
            ("AA-9999/9", "9999-99999", "AAA999999", "A-99999", "99/9999/AA", "AA 99 9999", "A9999-A99", "#9999999")
        )
        letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
        return "".join(
            self.rng.choice(letters) if mark == "A" else str(self.rng.randint(0, 9)) if mark == "9" else mark
            for mark in pattern
        )


def ascii_word(text: str) -> str:
    """Lower-case ASCII letters of a word: `Schäfer` → `schafer`."""
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(letter for letter in plain.lower() if letter.isascii() and letter.isalpha())
