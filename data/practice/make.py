"""Write the practice set: train.csv and validation.csv next to this script.

The practice set is synthetic. Every sentence is a short made-up review of a
restaurant, a hotel or a train, and the label says what the *writer* thinks of
the place under review: 1 for a good opinion, 0 for a bad one.

The idea is the minimal pair. A template has two opinion slots: {x}, the
opinion that counts, and {y}, the opinion that does not (someone else's view,
an expectation, another place, a thing that did not happen). Filling x with a
good word and y with a bad one gives a sentence with label 1; swapping the two
gives a sentence made of the same words with label 0. Both go into the same
split, so counting words says next to nothing about the label: a model has to
work out which of the two opinions is the one that counts. About a tenth of the
sentences are plain and have only x; they teach a model early which words are
good and which are bad.

Run `python data/practice/make.py`; the files come out the same every time.
"""

import csv
import random
from collections import namedtuple
from pathlib import Path

from words import (
    ADJECTIVE_TEMPLATES,
    CAUSES,
    COMPARISON_TEMPLATES,
    COMPARISONS,
    NOUNS,
    OPINIONS,
    PEOPLE,
    VENUES,
    VERB_TEMPLATES,
    VERBS,
    WHENS,
)

SEED = 20240
TRAIN_PAIRS = 2000
VALIDATION_PAIRS = 400
VALIDATION_SHARE = 1 / 6      # of all topics (noun + good word + bad word)
FEWEST_WORDS, MOST_WORDS = 8, 30

Topic = namedtuple("Topic", "venue kind noun good bad")


# ----------------------------------------------------------------- sentences


def list_topics(opinions_of):
    """List every Topic: each noun with each good and each bad word for it.

    opinions_of maps a kind of noun to its (good words, bad words).
    """
    topics = []
    for venue, kinds in NOUNS.items():
        for kind, nouns in kinds.items():
            good_words, bad_words = opinions_of[kind]
            for noun in nouns:
                for good in good_words:
                    for bad in bad_words:
                        topics.append(Topic(venue, kind, noun, good, bad))
    return topics


def split_topics(topics, rng):
    """Shuffle the topics and share them out: (train topics, validation topics)."""
    topics = topics[:]
    rng.shuffle(topics)
    cut = round(len(topics) * VALIDATION_SHARE)
    return topics[cut:], topics[:cut]


def with_article(words):
    """Put "a" or "an" before the words."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def fill(template, slots):
    """Fill the slots and start with a capital letter."""
    sentence = template.format(**slots)
    return sentence[0].upper() + sentence[1:]


def draw_slots(topic, rng):
    """Draw the slots that both sentences of a pair share, as a dict."""
    venue, kind, noun = topic.venue, topic.kind, topic.noun
    preposition, here, places = VENUES[venue]
    place, other = rng.sample(places, 2)
    who, who2 = rng.sample(PEOPLE, 2)
    is_person = kind == "person"
    return {
        "noun": noun,
        "noun2": rng.choice([n for n in NOUNS[venue][kind] if n != noun]),
        "at": f"{preposition} the {place}",
        "other": f"{preposition} the {other}",
        "place": place,
        "here": here,
        "who": who,
        "who2": who2,
        "when": rng.choice(WHENS),
        "cause": rng.choice(CAUSES),
        "it": "them" if is_person else "it",
        "they": "they" if is_person else "it",
        "they_are": "they are" if is_person else "it is",
    }


def opinion_pair(template, topic, rng):
    """Make the minimal pair: (sentence with label 1, sentence with label 0)."""
    slots = draw_slots(topic, rng)
    pair = []
    for x, y in [(topic.good, topic.bad), (topic.bad, topic.good)]:
        pair.append(fill(template, {**slots, "x": x, "y": y,
                                    "a_x": with_article(x), "a_y": with_article(y)}))
    return pair


def comparison_pair(template, topic, rng):
    """Make a pair by swapping the two places round one comparative.

    "The soup here was better than the one at the Old Mill" is label 1, and
    with the places swapped 0. A bad comparative, or "I disagree", turns it round.
    """
    slots = draw_slots(topic, rng)
    use_good = rng.random() < 0.5
    slots["comparison"] = topic.good if use_good else topic.bad
    here_first = fill(template, {**slots, "first": slots["here"], "second": slots["other"]})
    other_first = fill(template, {**slots, "first": slots["other"], "second": slots["here"]})
    here_first_is_good = use_good != ("disagree" in template)
    return (here_first, other_first) if here_first_is_good else (other_first, here_first)


# --------------------------------------------------------------------- files


def make_families(rng):
    """Make the three families of sentences, their topics already split.

    Returns a list of (templates, pair function, train topics, validation
    topics).
    """
    kinds = list(OPINIONS)
    families = []
    for templates, make_pair, opinions_of in [
            (ADJECTIVE_TEMPLATES, opinion_pair, OPINIONS),
            (VERB_TEMPLATES, opinion_pair, dict.fromkeys(kinds, VERBS)),
            (COMPARISON_TEMPLATES, comparison_pair, dict.fromkeys(kinds, COMPARISONS))]:
        train, validation = split_topics(list_topics(opinions_of), rng)
        families.append((templates, make_pair, train, validation))
    return families


def list_sources(families, split):
    """List (template, pair function, topics it may use) for every template.

    split is 0 for train, 1 for validation.
    """
    sources = []
    for templates, make_pair, *topics_by_split in families:
        for kinds, template in templates:
            topics = [t for t in topics_by_split[split] if t.kind in kinds.split()]
            sources.append((template, make_pair, topics))
    return sources


def make_rows(sources, pairs, seen, rng):
    """Make 2 * pairs shuffled (sentence, label) rows, templates in equal shares.

    seen is the set of sentences already used; it grows, so that no sentence
    comes twice in either split.
    """
    rows = []
    while len(rows) < 2 * pairs:
        template, make_pair, topics = sources[len(rows) // 2 % len(sources)]
        good, bad = make_pair(template, rng.choice(topics), rng)
        if good in seen or bad in seen:
            continue
        for sentence in (good, bad):
            assert FEWEST_WORDS <= len(sentence.split()) <= MOST_WORDS, sentence
        seen.update([good, bad])
        rows += [(good, 1), (bad, 0)]
    rng.shuffle(rows)
    return rows


def write_rows(path, rows):
    """Write (sentence, label) rows to a csv file with columns idx,sentence,label."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["idx", "sentence", "label"])
        for idx, (sentence, label) in enumerate(rows):
            writer.writerow([idx, sentence, label])


def main():
    """Write both files into the folder of this script."""
    folder = Path(__file__).resolve().parent
    rng = random.Random(SEED)
    families = make_families(rng)
    seen = set()
    for split, (name, pairs) in enumerate([("train", TRAIN_PAIRS),
                                           ("validation", VALIDATION_PAIRS)]):
        rows = make_rows(list_sources(families, split), pairs, seen, rng)
        write_rows(folder / f"{name}.csv", rows)
        print(f"{name}.csv: {len(rows)} rows")


if __name__ == "__main__":
    main()
