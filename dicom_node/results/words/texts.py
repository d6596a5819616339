"""The texts of the results in English, Korean and Japanese; DICOM codes are the same in every language.

Start here for: the wording of a sentence in a result (:mod:`english`, :mod:`korean`, :mod:`japanese`), the names of
classes and the notices of models (:mod:`names`), the reasons for not reading something (:mod:`reasons`), a new language
(`WORDS`, and the form that all of them have: :mod:`language`).

Models speak English: names of classes, notices and reasons come in it. They are translated if these tables have them
and stay English otherwise. Nothing is left out because a translation is missing.
"""

from __future__ import annotations

from dicom_node.config.values import Language
from dicom_node.results.words.english import ENGLISH
from dicom_node.results.words.japanese import JAPANESE
from dicom_node.results.words.korean import KOREAN
from dicom_node.results.words.language import Words

WORDS: dict[Language, Words] = {"en": ENGLISH, "ko": KOREAN, "ja": JAPANESE}
