"""The words and sentence patterns of the built-in `sample` task, all written for this project."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """Things that share their states: `good` needs nobody, `bad` needs somebody now."""

    things: tuple[str, ...]
    good: tuple[str, ...]
    bad: tuple[str, ...]


class Pattern(NamedTuple):
    """{s}: a thing. {x}: the state that decides. {y}: the opposite state. `flips`: the pattern denies {x}."""

    text: str
    flips: bool


def _words(listing: str) -> tuple[str, ...]:
    return tuple(" ".join(entry.split()) for entry in listing.split(","))


KINDS = (
    Kind(
        _words(
            "server, printer, website, lift, till, scanner, router, phone line, boiler, conveyor, booking page, "
            "payroll system, ticket machine, generator, label printer, card reader, heating, ventilation"
        ),
        _words(
            "up, running, working, stable, responsive, healthy, on line, in order, operational, usable, reachable, fast"
        ),
        _words(
            "down, dead, broken, frozen, stuck, overheating, crashing, off line, out of order, failing, unusable, "
            "unreachable, smoking"
        ),
    ),
    Kind(
        _words(
            "roof, sink, main pipe, basement, radiator, washer, drain, water tank, bathroom, gutter, cellar, "
            "ceiling, kitchen tap, pump room, hose, sprinkler"
        ),
        _words("dry, sealed, clear, tight, watertight, sound, clean, patched, drained"),
        _words("leaking, dripping, flooded, blocked, overflowing, soaked, cracked, under water, rotten, clogged"),
    ),
    Kind(
        _words(
            "front door, gate, garage, safe, fire exit, window, medicine cupboard, back entrance, store room, "
            "fence, loading dock, skylight, key box, alarm panel"
        ),
        _words("locked, shut, secured, closed, guarded, armed, repaired, protected"),
        _words("unlocked, jammed, wide open, smashed, unguarded, ajar, disarmed, vandalised, exposed"),
    ),
    Kind(
        _words(
            "driver, guest, trainee, night nurse, cleaner, courier, visitor, lodger, climber, patient, guard, "
            "passenger, cook, pupil, tenant, engineer"
        ),
        _words("safe, home, well, back inside, found, recovered, unhurt, awake, breathing, comfortable, calm"),
        _words(
            "stranded, locked out, trapped, injured, in pain, lost, missing, ill, unconscious, bleeding, in danger, "
            "in shock"
        ),
    ),
    Kind(
        _words(
            "parcel, order, shipment, vaccine delivery, spare part, invoice, contract, passport, blood sample, "
            "luggage, crate, freight, cake, prescription, pallet, bouquet"
        ),
        _words("on time, complete, intact, here, fresh, correct, delivered, in stock, accounted for, undamaged"),
        _words("late, lost, damaged, missing, spoiled, wrong, incomplete, overdue, stolen, crushed, held up"),
    ),
    Kind(
        _words(
            "account, mailbox, password, bank card, backup, database, laptop, customer file, licence, domain, "
            "payment, subscription, network drive, test environment"
        ),
        _words("active, secure, valid, restored, accessible, up to date, approved, encrypted, available"),
        _words("hacked, suspended, expired, corrupted, inaccessible, infected, compromised, declined, wiped, leaked"),
    ),
)

# Each pattern serves both polarities, so that no pattern and no state alone gives the label away.
PLAIN = (
    Pattern("{s} is {x}", False),
    Pattern("{s} is {x} again", False),
    Pattern("{s} is still {x}", False),
    Pattern("{s} is now {x}", False),
    Pattern("{s} looks {x}", False),
    Pattern("{s} has been {x} since {t}", False),
    Pattern("we found {s} {x}", False),
    Pattern("{s} keeps being {x}", False),
    Pattern("{s} is completely {x}", False),
    Pattern("{s} seems to be {x}", False),
)
DENIED = (
    Pattern("{s} is not {x}", True),
    Pattern("{s} is not {x} any more", True),
    Pattern("{s} is no longer {x}", True),
    Pattern("{s} is not {x} now", True),
    Pattern("{s} is not {x} at all", True),
    Pattern("{s} has not been {x} since {t}", True),
)
CHANGED = (
    Pattern("{s} was {y} but is {x} now", False),
    Pattern("{s} is {x} now, it was {y} at {t}", False),
    Pattern("{s} went from {y} to {x}", False),
    Pattern("after being {y}, {s} is {x}", False),
    Pattern("{s} is {x} after hours of being {y}", False),
    Pattern("{s} was {y} until {t}, now {x}", False),
    Pattern("{s} is {x} instead of {y}", False),
    Pattern("first {y}, now {s} is {x}", False),
)
TIMES = _words("noon, lunch, monday, last night, this morning, six, yesterday, dawn, friday, the storm, nine")
OWNERS = _words("the, our, my, your, this, that, the new, the old, the second, the other, another, their")
OPENINGS = _words(
    "hi, hello team, urgent, fyi, quick note, please help, no rush, sorry, good morning, emergency, for the record, "
    "just so you know, i think, it seems, as far as i can tell, hurry, when you have time, status report, warning"
)
CLOSINGS = _words(
    "thanks, please hurry, no rush, asap, whenever suits you, call me, have a nice day, this is urgent, cheers, "
    "just letting you know, kind regards, as soon as you can, take your time, please advise, help"
)
