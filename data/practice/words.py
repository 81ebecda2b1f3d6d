"""The words and templates of the practice set."""

# ---------------------------------------------------------------- vocabulary

# kind of venue -> (preposition, how the writer says "here", names)
VENUES = {
    "restaurant": ("at", "here", [
        "Red Lantern", "Old Mill", "Copper Kettle", "Blue Heron", "Olive Tree",
        "Market Kitchen", "Lemon Grove", "Corner Table", "Paper Crane",
        "Golden Plough", "Saffron House", "Little Anchor"]),
    "hotel": ("at", "here", [
        "Harbour Inn", "Grand Meridian", "Willow Lodge", "Station Hotel",
        "Castle View", "Seaside Palace", "Maple Court", "Fox and Hounds",
        "Alpine Rest", "Riverside Hotel", "White Swan", "Garden Lodge"]),
    "train": ("on", "on this train", [
        "Northern Star", "Coastal Express", "Night Mail", "Valley Line",
        "Silver Arrow", "Lakeland Express", "Evening Flyer", "Mountain Sleeper",
        "Island Line", "Western Pullman"]),
}

# kind of venue -> kind of noun -> nouns
NOUNS = {
    "restaurant": {
        "food": ["soup", "stew", "curry", "pie", "salad", "risotto", "omelette",
                 "pudding", "lasagne", "fish platter", "cheese board", "cake"],
        "person": ["waiter", "chef", "host", "barista", "owner", "waitress"],
        "room": ["dining room", "terrace", "courtyard", "bar", "upstairs room"],
        "time": ["dinner", "lunch", "evening", "brunch", "birthday supper"]},
    "hotel": {
        "food": ["breakfast", "buffet", "fruit salad", "roast", "porridge bowl",
                 "afternoon tea", "fish pie", "pancake"],
        "person": ["receptionist", "porter", "manager", "concierge",
                   "housekeeper", "night clerk", "gardener"],
        "room": ["bedroom", "lobby", "lounge", "bathroom", "reading room",
                 "balcony", "sauna", "attic room", "breakfast room"],
        "time": ["stay", "weekend", "holiday", "visit", "conference"]},
    "train": {
        "food": ["sandwich", "cheese toastie", "noodle box", "breakfast roll",
                 "vegetable wrap", "muffin"],
        "person": ["conductor", "steward", "guard", "attendant", "driver"],
        "room": ["carriage", "compartment", "sleeping cabin", "dining car",
                 "waiting area", "quiet coach"],
        "time": ["journey", "trip", "ride", "commute", "night crossing"]},
}

# kind of noun -> (good words, bad words)
OPINIONS = {
    "food": (
        ["delicious", "tasty", "superb", "satisfying", "excellent", "wonderful",
         "appetising", "splendid", "flavourful", "perfect", "fresh", "generous"],
        ["bland", "stale", "tasteless", "awful", "disappointing", "dull",
         "dreadful", "soggy", "mediocre", "unpleasant", "greasy", "meagre"]),
    "person": (
        ["friendly", "kind", "polite", "helpful", "patient", "cheerful",
         "attentive", "thoughtful", "charming", "gracious", "welcoming",
         "considerate"],
        ["rude", "unhelpful", "grumpy", "impatient", "careless", "cold",
         "dismissive", "gruff", "surly", "bossy", "unfriendly", "sloppy"]),
    "room": (
        ["clean", "cosy", "comfortable", "spacious", "bright", "spotless",
         "inviting", "tidy", "restful", "pleasant", "elegant", "beautiful"],
        ["dirty", "cramped", "uncomfortable", "gloomy", "noisy", "shabby",
         "stuffy", "grubby", "dreary", "ugly", "draughty", "untidy"]),
    "time": (
        ["delightful", "lovely", "enjoyable", "relaxing", "marvellous",
         "fantastic", "joyful", "charming", "brilliant", "agreeable"],
        ["dreadful", "miserable", "tiresome", "tedious", "stressful", "boring",
         "dismal", "unbearable", "horrible", "frustrating"]),
}

# good and bad verbs, all taking "the soup" as their object
VERBS = (["loved", "enjoyed", "liked", "praised", "adored", "admired"],
         ["hated", "disliked", "loathed", "criticised", "detested", "resented"])

# good and bad comparatives
COMPARISONS = (["better", "nicer", "more pleasant", "more impressive",
                "more agreeable"],
               ["worse", "more annoying", "less pleasant", "less impressive",
                "more disappointing"])

PEOPLE = ["my brother", "my sister", "my aunt", "my uncle", "my cousin",
          "my neighbour", "a colleague", "an old friend", "the guidebook",
          "my father", "my mother", "Anna", "Tomas", "Priya", "Omar", "Ingrid",
          "Mei", "Daniel", "Chidi", "Lucia", "Karim", "Hannah", "Yusuf", "Nora"]

WHENS = ["last spring", "on Friday", "last weekend", "in March", "this time",
         "on our second day", "last autumn", "over the holidays", "on Sunday",
         "in early June", "yesterday", "during the festival"]

CAUSES = ["company", "music", "view", "setting", "conversation", "service",
          "atmosphere", "singing"]

# ----------------------------------------------------------------- templates
# x is the opinion that counts and y the one that does not. Slots besides:
# noun, noun2 (same kind), at ("at the Old Mill"), here, other ("at the Red
# Lantern"), place ("Old Mill"), who, who2, when, cause, it/they/they_are
# (by kind of noun) and a_x, a_y (the opinion with its article).

ANY = "food person room time"
THINGS = "food room time"

ADJECTIVE_TEMPLATES = [
    # one opinion only: the plain sentences, about a tenth of the set
    (ANY, "The {noun} {at} was {x} {when}, and {who} said so too."),
    (ANY, "{when} we noticed how {x} the {noun} {at} was."),
    (THINGS, "We had {a_x} {noun} {at} {when}, as {who} will tell you."),
    (ANY, "What I remember from the {place} {when} is the {x} {noun}."),
    (ANY, "{who} asked about the {noun} {at}, and I said {they} seemed {x}."),
    # expectation against outcome
    (ANY, "I expected the {noun} {at} to be {y}, but {when} I found {it} {x}."),
    (ANY, "The {noun} {at} was {x} {when}, but I had expected {it} to be {y}."),
    (THINGS, "{who} had promised us {a_y} {noun}, but {when} we were given {a_x} one {at}."),
    (THINGS, "We were given {a_x} {noun} {at} {when}, but {who} had promised us {a_y} one."),
    # whose opinion it is
    (ANY, "{who} called the {noun} {at} {y}, but I would call {it} {x}."),
    (ANY, "I would call the {noun} {at} {x}, but {who} called {it} {y}."),
    (ANY, "{who} described the {noun} {at} as {y}, which is odd, because to me {they} seemed {x}."),
    (ANY, "To me the {noun} {at} seemed {x}, which is odd, because {who} described {it} as {y}."),
    (ANY, "{who} found the {noun} {here} {y} and {who2} agreed, though I myself found {it} {x}."),
    (ANY, "I myself found the {noun} {here} {x}, though {who} found {it} {y} and {who2} agreed."),
    # agreeing and disagreeing
    (ANY, "I agree with {who} that the {noun} {at} was {x} rather than {y}."),
    (ANY, "I cannot agree with {who} that the {noun} {at} was {y} rather than {x}."),
    (ANY, "{who} was right to tell us that the {noun} {at} would be {x} and not {y}."),
    (ANY, "{who} was wrong to tell us that the {noun} {at} would be {y} and not {x}."),
    (ANY, "Those who call the {noun} {at} {x} are right, and those who call {it} {y} are mistaken."),
    (ANY, "Those who call the {noun} {at} {y} are mistaken, and those who call {it} {x} are right."),
    (ANY, "{who} is not right to call the {noun} {at} {y}, and {who2} is not wrong to call {it} {x}."),
    (ANY, "{who} is not wrong to call the {noun} {at} {x}, and {who2} is not right to call {it} {y}."),
    (ANY, "{who} says the {noun} {at} was {x} rather than {y}, and I agree."),
    (ANY, "{who} says the {noun} {at} was {y} rather than {x}, and I disagree."),
    (ANY, "{who} is right to deny that the {noun} {at} was {y} rather than {x}."),
    (ANY, "{who} is wrong to deny that the {noun} {at} was {x} rather than {y}."),
    # taking sides between two people
    (ANY, "{who} calls the {noun} {at} {x} and {who2} calls {it} {y}; I side with {who}."),
    (ANY, "{who} calls the {noun} {at} {y} and {who2} calls {it} {x}; I side with {who2}."),
    # negation and its scope
    (ANY, "{when} the {noun} {at} was not {y}, and the {noun2} was {x}."),
    (ANY, "{when} the {noun} {at} was {x}, and the {noun2} was not {y}."),
    (ANY, "Nobody could say that the {noun} {at} was {y} {when}, or deny that {they} seemed {x}."),
    (ANY, "Nobody could deny that the {noun} {at} was {x} {when}, or say that {they} seemed {y}."),
    (ANY, "It is not that the {noun} {at} was {y}; {they} struck me as {x} {when}."),
    (ANY, "I would hardly call the {noun} {at} {y}; {x} is the word I would use."),
    (ANY, "I would happily call the {noun} {at} {x}; {y} is hardly the word I would use."),
    # what would have happened
    ("time", "The {noun} {at} would have been {y} if the {cause} had not been so {x}."),
    ("time", "If the {cause} had not been so {x}, the {noun} {at} would have been {y}."),
    ("time", "Had the {cause} {at} been less {x}, we would have called it {a_y} {noun}."),
    ("time", "We would have called it {a_y} {noun} {when}, had the {cause} {at} been less {x}."),
    # change over time
    (ANY, "The {noun} {at} used to be {y}, and now {they_are} {x}."),
    (ANY, "The {noun} {at} is {x} now, and I had almost forgotten how {y} {they} used to be."),
    (ANY, "Gone is the {y} {noun} of old, for the {place} now has {a_x} one."),
    (ANY, "The {place} now has {a_x} {noun}, and gone is the {y} one of old."),
    ("time", "What began as {a_y} {noun} {at} ended as {a_x} one {when}."),
    ("time", "It ended as {a_x} {noun} {at} {when}, having begun as {a_y} one."),
    # here against elsewhere
    (ANY, "The {noun} {other} was {y} {when}, while the one {here} was {x}."),
    (ANY, "The {noun} {here} was {x} {when}, while the one {other} was {y}."),
    (ANY, "Unlike the {y} {noun} {other}, the one {here} was {x} {when}."),
    (ANY, "The {noun} {here} was {x} {when}, unlike the {y} one {other}."),
]

VERB_TEMPLATES = [
    (ANY, "I {x} the {noun} {at} {when}, and {who} knows it well."),
    (ANY, "{who} {y} the {noun} {at} {when}, but I {x} {it}."),
    (ANY, "I {x} the {noun} {at} {when}, but {who} {y} {it}."),
    (ANY, "Although {who} and {who2} {y} the {noun} {at}, I {x} {it} myself."),
    (ANY, "Although I {x} the {noun} {at} myself, {who} and {who2} {y} {it}."),
    (ANY, "It was {who} who {y} the {noun} {at} {when}, and I who {x} {it}."),
    (ANY, "It was I who {x} the {noun} {at} {when}, and {who} who {y} {it}."),
    (ANY, "The one thing I {y} {at} {when} was the {noun}; everything else I {x}."),
    (ANY, "Everything {at} I {x} {when}, and the one thing I {y} was the {noun}."),
]

# first and second are "here" and the other place; see comparison_pair
COMPARISON_TEMPLATES = [
    (ANY, "{when} the {noun} {first} was {comparison} than the one {second}."),
    (ANY, "I thought the {noun} {first} {comparison} than the one {second}, and {who} agreed."),
    (ANY, "{who} says the {noun} {first} was {comparison} than the one {second}, and I agree."),
    (ANY, "{who} says the {noun} {first} was {comparison} than the one {second}, and I disagree."),
]
