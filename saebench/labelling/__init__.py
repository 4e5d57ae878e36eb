"""Labels of texts by keyword rules and by judges: which class a completion is of, and who agrees.

``rules`` reads and applies keyword rules, ``patterns`` turns their words into regular expressions that end
in bounded time, ``consensus`` makes one label of several judges', ``agreement`` says how far judges agree,
``scoring`` sets labels against those of another judge. A label is the name of a class, or None where the
text is ambiguous.
"""

from saebench.labelling.rules import Rules, load_rules

__all__ = ["Rules", "load_rules"]
