"""The demo language: filler sentences from a small grammar, facts ("The code of X is 48213.") and questions about them.

`python language.py` rewrites language.json.
"""
import json
import random

CONSONANTS = "b c d f g h j k l m n p r s t v w z br cl dr fl gr pl st tr".split()
VOWELS = "a e i o u ai ea oo".split()
ENDINGS = "n r l s t m d k p th sh x ck nd rk".split()


def lexicon(count, seed):
    """`count` invented two-syllable names."""
    r = random.Random(seed)
    words = set()
    while len(words) < count:
        r.randint(2, 2)
        words.add(r.choice(CONSONANTS) + r.choice(VOWELS) + r.choice(CONSONANTS) + r.choice(VOWELS) + r.choice(ENDINGS))
    return sorted(words)


NAMES = lexicon(400, 1)
NOUNS = "garden river window letter market bridge engine forest castle harbor ladder mirror basket candle valley meadow kitchen village station island mountain library museum teacher doctor farmer sailor painter writer driver soldier captain neighbor traveler student singer merchant hunter baker miner pilot clerk guard child woman man king queen horse bird dog cat fish wolf bear cloud storm wind rain snow fire stone road house door table chair lamp book clock coat shoe ring coin map ship train wheel hammer needle thread bottle bread apple honey salt".split()
ADJECTIVES = "old new small large quiet bright dark green blue red white black cold warm heavy gentle broken hidden empty narrow distant ancient golden silver wooden clever brave tired happy strange simple careful famous lonely honest patient".split()
VERBS = "watched carried found opened followed painted crossed repaired remembered described visited counted guarded borrowed lifted measured noticed returned left built closed moved touched cleaned studied".split()
ADVERBS = "slowly quietly often never always again yesterday today finally carefully early late twice once".split()
PREPOSITIONS = "near behind above under beside inside across beyond around toward".split()
ATTRIBUTES = ["code", "number", "key", "price", "age"]


def sentence(r):
    """One filler sentence."""
    kind = r.random()
    noun, adj, verb = (lambda: r.choice(NOUNS)), (lambda: r.choice(ADJECTIVES)), (lambda: r.choice(VERBS))
    adv, prep = (lambda: r.choice(ADVERBS)), (lambda: r.choice(PREPOSITIONS))
    if kind < .35:
        return f"The {adj()} {noun()} {verb()} the {noun()} {prep()} the {adj()} {noun()}."
    if kind < .6:
        return f"A {noun()} {adv()} {verb()} the {adj()} {noun()}."
    if kind < .8:
        return f"{prep().capitalize()} the {noun()}, the {noun()} {verb()} a {noun()} {adv()}."
    if kind < .9:
        return f"There were {r.randint(2, 99)} {adj()} {noun()}s {prep()} the {noun()}."
    return f"The {noun()} and the {noun()} {verb()} the {noun()}."


def fact(name, attribute, value):
    return f"The {attribute} of {name} is {value}."


def question(name, attribute, value):
    """The question with its answer; the prompt of a question ends before " {value}."."""
    return f"Question: what is the {attribute} of {name}? Answer: The {attribute} of {name} is {value}."


def value(r):
    return str(r.randint(10000, 99999))


if __name__ == "__main__":
    json.dump({"names": NAMES, "nouns": NOUNS, "adjectives": ADJECTIVES, "verbs": VERBS, "adverbs": ADVERBS,
               "prepositions": PREPOSITIONS, "attributes": ATTRIBUTES, "fact": "The {attribute} of {name} is {value}.",
               "question": "Question: what is the {attribute} of {name}? Answer: The {attribute} of {name} is",
               "value": "five digits, 10000..99999"}, open("language.json", "w"))
