"""The words and sentences of the built-in task `text/sample`, all written for this project.

A message has one word for each slot: {day} is past, {later} is not, {me} signs.
"""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    """What customers write about: each message has one of `openings`, and mostly one of `details` and of `wishes`."""

    label: str
    openings: tuple[str, ...]
    details: tuple[str, ...]
    wishes: tuple[str, ...]


TOPICS = (
    Topic(
        "billing",
        (
            "I was charged twice for the {thing}.",
            "My card was charged {sum} for the {thing}, but the price on your page was lower.",
            "The invoice for order {order} shows {sum}, which is not what we agreed on.",
            "You took {sum} from my account on {day} and I do not know what for.",
            "I sent back the {thing} and still wait for the {sum} that you owe me.",
            "The discount on the {thing} is missing from my bill.",
            "I paid for order {order} on {day}, and today I got a reminder.",
            "There is a fee of {sum} on my bill that nobody told me about.",
            "I need an invoice for the {thing} in the name of my company.",
        ),
        (
            "The order number is {order}.",
            "My bank says that the payment of {sum} went through on {day}.",
            "The amount should have been {sum}.",
            "The same thing happened when I bought a {part}.",
            "I spoke to {name} about it on {day}, and nothing has changed.",
            "I paid in the shop in {place}, in cash.",
        ),
        (
            "Please pay the money back.",
            "Please send me a corrected invoice.",
            "Could somebody check this before {later}?",
            "When will I have my {sum} back?",
            "Please tell me how you got to this amount.",
            "I would like to talk to {name} about it.",
        ),
    ),
    Topic(
        "delivery",
        (
            "My {thing} was to arrive on {day} and is still not here.",
            "Order {order} was left at the wrong door.",
            "The parcel with the {thing} came open and half empty.",
            "The driver rang at a house in {place}, where I do not live.",
            "Your page says that order {order} was delivered on {day}, but nobody brought anything.",
            "I got a {part} instead of the {thing} that I ordered.",
            "Can you bring the {thing} to {place} instead of my home?",
            "Order {order} has been on its way since {day}.",
            "Only one of the two boxes of order {order} arrived.",
        ),
        (
            "I stayed at home all {day} for it.",
            "My neighbour {name} has not seen a parcel either.",
            "The tracking page has shown {place} for days.",
            "The order number is {order}.",
            "It is a present for {name}, so it has to be here by {later}.",
            "The driver did not ring, and left no note.",
        ),
        (
            "Where is it?",
            "Please send it again.",
            "Could you bring it on {later}, after five?",
            "Please leave it with {name} next door.",
            "I would rather fetch it myself in {place}.",
            "Please call me before you come.",
        ),
    ),
    Topic(
        "fault",
        (
            "The {thing} stopped working on {day}.",
            "The {part} of my {thing} is broken.",
            "My {thing} makes a loud noise as soon as I switch it on.",
            "The {thing} that I bought in {place} gets so hot that I cannot touch it.",
            "The {part} of the {thing} does not fit.",
            "There was a crack in the {part} when I opened the box.",
            "After one week the {thing} does not start any more.",
            "The {thing} smells burnt, so I have pulled the plug.",
            "A light on the {thing} has been blinking since {day}.",
        ),
        (
            "I have tried another {part}, and it did not help.",
            "It is from order {order}.",
            "It was fine until {day}.",
            "{name} in your shop could not repair it either.",
            "I followed every step in the manual.",
            "The {part} had a scratch as well.",
        ),
        (
            "Can it be repaired?",
            "Please send me a new {part}.",
            "I would like to swap it for another one.",
            "Is it safe to use it until {later}?",
            "Can I bring it to your shop in {place}?",
            "Please tell me what to do with it.",
        ),
    ),
    Topic(
        "praise",
        (
            "The {thing} is even better than I had hoped.",
            "I want to thank {name} in your shop in {place}.",
            "Order {order} came a day early, well done!",
            "We have used the {thing} every day since {day} and love it.",
            "Your repair of the {part} was quick and friendly.",
            "I have never seen such a pretty {thing}.",
            "What a lovely shop you have in {place}!",
            "{name} took an hour to explain the {thing} to me, and I am grateful.",
            "The new {part} fits perfectly.",
        ),
        (
            "My friend {name} wants one too.",
            "The {part} is very well made.",
            "It was worth every penny of the {sum}.",
            "Nobody else in {place} could help me.",
            "It was ready on {day}, just as you said.",
            "Even the box was pretty.",
        ),
        (
            "Please pass this on to {name}.",
            "I will come again.",
            "Keep up the good work!",
            "I have told all my friends in {place}.",
            "See you on {later}.",
            "Do you have a matching {part}?",
        ),
    ),
)


def _words(listing: str) -> tuple[str, ...]:
    return tuple(" ".join(entry.split()) for entry in listing.split(","))


_DAYS = _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday")
SLOTS = {
    "thing": _words(
        "kettle, toaster, lamp, desk fan, coffee machine, vacuum cleaner, radio, bread maker, hair dryer, heater, "
        "sewing machine, mixer, juicer, alarm clock, rice cooker, drill, lawn mower, record player, printer, iron"
    ),
    "part": _words(
        "lid, cable, filter, switch, handle, bulb, battery, plug, hose, blade, cover, stand, timer, display, belt"
    ),
    "day": _DAYS,
    "later": _DAYS,
    "name": _words("Ada, Bruno, Carla, Deniz, Emil, Farah, Goran, Hanna, Ivo, Jun, Kofi, Lena, Mateo"),
    "me": _words("Nadia, Otto, Priya, Quentin, Rosa, Sven, Tala, Uma, Viktor, Wanda, Yusuf, Zoe"),
    "place": _words(
        "Mill Lane, Harbour Street, Station Road, the old town, Church Hill, the market hall, Bridge Street, "
        "Garden Row, the west end, Castle Square, Orchard Close, Quay Side"
    ),
}
GREETINGS = ("Hello!", "Hi!", "Good morning.", "Dear team!", "Hello again.", "Hi there.")
GOODBYES = ("Thank you, {me}", "Best wishes, {me}", "Thanks, {me}", "Yours, {me}", "Many thanks!", "{me}")
