"""The words of a caption, against what the Java program of the COCO caption evaluation answered.

Its answers were recorded from a run of `PTBTokenizer` of pycocoevalcap 1.2 (stanford-corenlp-3.4.1.jar, `-preserveLines
-lowerCase`, then its list of punctuation), so the tests need no Java.
"""

import hashlib
import json

import pytest

from bridge_jax.evals.scores import ptb

RECORDED = {
    "A man's dog can't swim, but it doesn't care.":
        "a man 's dog ca n't swim but it does n't care",
    "I don't know; they'll say we're late, she'd've run and I'm sure they've won't.":
        "i do n't know they 'll say we 're late she 'd 've run and i 'm sure they 've wo n't",
    "Don't! DON'T! It's the GIRL'S ball.":
        "do n't do n't it 's the girl 's ball",
    "It’s a child’s bike and they don’t ride it.":
        "it 's a child 's bike and they do n't ride it",
    "Two dogs' toys and James' boss's hat.":
        "two dogs toys and james boss 's hat",
    "She's gonna jump, gotta run, wanna play, lemme see, gimme that, and cannot stop.":
        "she 's gon na jump got ta run wan na play lem me see gim me that and can not stop",
    "He cannot. She cannot, and cannot-do is no can.":
        "he can not she can not and cannot-do is no can",
    "'Tis the season and 'twas the night at five o'clock.":
        "'t is the season and 't was the night at five o'clock",
    "Rock'n'roll, rock 'n' roll and fish 'n chips for 'em, y'all.":
        "rock 'n' roll rock 'n' roll and fish 'n chips for 'em y' all",
    "O'Neil and D'Angelo say ma'am, c'mon, ne'er 'til dawn.":
        "o'neil and d'angelo say ma'am c'mon ne'er 'til dawn",
    "The '90s, the 90's, the 1990s and the '90S.":
        "the '90s the 90 's the 1990s and the '90s",
    "A 3-year-old in a T-shirt, mid-air, well-known and African-American.":
        "a 3-year-old in a t-shirt mid-air well-known and african-american",
    "A ramp -- no, a rail - and---then a-b--c.":
        "a ramp no a rail and then a-b c.",
    "Snow – ice — water―steam.":
        "snow ice water steam",
    "Wait... what? so.... no.. yes… end":
        "wait what so no yes end",
    "Stop!! Really?! No!? Why??? Go!":
        "stop !! really ?! no !? why ??? go",
    "He said \"jump\" and 'run' and “swim” and ``fly''.":
        "he said jump and run and swim and fly",
    "A dog (brown) [old] {wet} and a cat(s).":
        "a dog -lrb- brown -rrb- -lsb- old -rsb- -lcb- wet -rcb- and a cat -lrb- s -rrb-",
    "(A man is sitting.) \"A man is standing.\"":
        "-lrb- a man is sitting -rrb- a man is standing",
    "It costs $5.00, $ 5, US$5, £3, €4 and 5¢ or 50% off.":
        "it costs $ 5.00 $ 5 us$ 5 # 3 $ 4 and 5 cents or 50 % off",
    "At 2:50, 2:50pm, 12:30 p.m., 3pm and 10 a.m. they ate.":
        "at 2:50 2:50 pm 12:30 p.m. 3pm and 10 a.m. they ate",
    "1,000 people, 3.5 miles, .5 mile, -5 degrees, +3 and 1,000,000.50.":
        "1,000 people 3.5 miles .5 mile -5 degrees +3 and 1,000,000.50",
    "The 1st, 2nd, 10th and 21st of 12/25/2014, 1-800-555-1234.":
        "the 1st 2nd 10th and 21st of 12/25/2014 1-800-555-1234",
    "Mr. and Mrs. Smith met Dr. Jones, Jr. on St. John Ave. in Washington, D.C.":
        "mr. and mrs. smith met dr. jones jr. on st. john ave. in washington d.c.",
    "The U.S. and the U.K. on T.V., etc.":
        "the u.s. and the u.k. on t.v. etc.",
    "A U.S.-based R.V. by the U.S.A team.":
        "a u.s.-based r.v. by the u.s.a team",
    "No. 5 runs, no. 7 walks, and no. They say no.":
        "no. 5 runs no. 7 walks and no they say no",
    "See fig. 3, vol. 2, vs. art. 5 in Jan. or Sept. and Mon. or sat.":
        "see fig. 3 vol 2 vs. art. 5 in jan. or sept. and mon. or sat",
    "The in. and the lb. and ft. and oz. of it.":
        "the in and the lb and ft. and oz of it",
    "He and/or she, black/white, w/ a hat, w/o shoes, 24/7, his/her own.":
        "he and/or she black/white w / a hat w/o shoes 24/7 his/her own",
    "AT&T and R&B at M&M's, a & b, salt&pepper, Q&A.":
        "at&t and r&b at m&m 's a & b salt & pepper q&a",
    "A cafe in a café, naïve and Ünder 20°C.":
        "a cafe in a café naïve and ünder 20 ° c.",
    "Dog., cat.; bird.: fish., t-shirt., 3pm., it's., end.":
        "dog. cat. bird. fish. t-shirt. 3pm. it 's end",
    "A man.The dog!A cat?Yes,no;maybe:so.":
        "a man.the dog!a cat?yes no maybe so",
    "A word,another word ,and one , more.":
        "a word another word and one more",
    "He is 6'2\" and 5'10 or 5' 10\" tall, 6ft. high.":
        "he is 6 2 and 5 '10 or 5 10 tall 6ft high",
    "A*b ** c_d __ e=f + g ~ h ^ i | j \\ k < l > m":
        "a * b ** c_d __ e = f + g ~ h ^ i | j \\ k < l > m",
    "A <b>bold</b> &amp; &lt; 3 &quot;quoted&quot; word":
        "a <b> bold </b> & < 3 quoted word",
    "Happy :) sad :( wink ;-) love <3":
        "happy :-rrb- sad :-lrb- wink ;--rrb- love < 3",
    "An mp3 at K2 in a 4x4 with H2O, 2x, 10mph, 3D and F-16.":
        "an mp3 at k2 in a 4x4 with h2o 2x 10mph 3d and f-16",
    "  Blanks   around\tand a tab  .":
        "blanks around and a tab",
    "Half is 1/2, ½, 1½ or 11-1/2 of it.":
        "half is 1/2 1/2 1 1/2 or 11-1/2 of it",
    "#1 fan, # 2, #dog, @home, me@example.com and http://example.com/a or www.example.com, example.com.":
        "# 1 fan # 2 #dog @home me@example.com and http://example.com/a or www.example.com example.com",
    "A.M. and a.m. and 3 A.M., p.m.. Ph.D. and PhD.":
        "a.m. and a.m. and 3 a.m. p.m. ph.d. and phd",
    "A soft\u00adball, zero\u200bwidth and a 😀 face":
        "a softball zero width and a face",
    "- a dash first, and last -":
        "a dash first and last",
    "...":
        "",
}  # fmt: skip

# In the middle of a caption these keep their period with the Java program, and those lose it.
KEEP = """
    adj adm adv al ala alex apr ariz assn assoc asst aug ave bancorp bhd bldg blvd brig bros calif capt cf cie cmdr co
    col colo conn corp cos cpl ct dec dept det dr elec ens esq est etc ext feb fla fri ft ga gen gov hon inc ind insp
    intl jan jos jr jul jun kan ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt
    natl neb nev nov oct okla penn pfc ph plc pres prof pty pvt rd rep rev sen sep sept seq sgt spc sq sr st supt tel
    tenn thu thurs treas tue tues univ va vs vt wed wis wm wyo
    Ark Del Ill La Mass Miss Ore Pa Tex Wash a b z
"""
LOSE = """
    approx max min misc vol lb oz in cm hr sec yr mph apt hwy mts rte sun sat may june tv uk bc am ed eds op pp no fig
    ark wash miss mass la pa ill del ore tex
"""

# Caption -> what the Java program says, what is said here.
KNOWN_TO_DIFFER = {
    "Plan A. The plan was good.": ("plan a the plan was good", "plan a. the plan was good"),
    "It takes 1 1/2 cups.": ("it takes 1\u00a01/2 cups", "it takes 1 1/2 cups"),
    "Write to me@example.com, now.": ("write to me@example.com, now", "write to me@example.com now"),
    "Call (650) 555-1234 now.": ("call -lrb-650-rrb-\u00a0555-1234 now", "call -lrb- 650 -rrb- 555-1234 now"),
    "The caf&eacute; is open.": ("the caf&eacute; is open", "the caf & eacute is open"),
    "Dy'ou know?": ("dy'ou know", "dy ou know"),
    "It costs ₹5.": ("it costs 5", "it costs ₹ 5"),
}

# The SHA-256 of what the Java program made of every caption, one a line, in the order of the file.
ANSWERS = {
    "flickr8k": (35000, "d72fa822dec1a56a5cfab3ff86578602b5f3e50268b5f8d240955d92ee3cad8e"),
    "coco": (400, "ea3428b08f4f847b5ce92e0adc568e158eca7125ab9f4d6a615f0814acc20d0f"),
}


@pytest.mark.parametrize("caption", RECORDED)
def test_words_are_those_of_the_java_program(caption):
    assert ptb.tokenise(caption) == RECORDED[caption]


@pytest.mark.parametrize(("words", "period"), [(KEEP, "."), (LOSE, "")])
def test_only_abbreviations_keep_their_period(words, period):
    caption = " ".join(f"{word}." for word in words.split())
    assert ptb.tokenise(f"{caption} x") == " ".join(f"{word.lower()}{period}" for word in words.split()) + " x"


@pytest.mark.parametrize("caption", KNOWN_TO_DIFFER)
def test_what_is_known_to_differ_differs_as_the_docstring_says(caption):
    theirs, ours = KNOWN_TO_DIFFER[caption]
    assert ptb.tokenise(caption) == ours != theirs


@pytest.mark.parametrize("name", ANSWERS)
def test_all_captions_of_a_data_set_are_those_of_the_java_program(shared, name):
    images = json.loads((shared / "data" / name / f"dataset_{name}.json").read_text(encoding="utf-8"))["images"]
    captions = [sentence["raw"] for image in images for sentence in image["sentences"]]
    words = "\n".join(ptb.tokenise(caption) for caption in captions)
    assert (len(captions), hashlib.sha256(words.encode()).hexdigest()) == ANSWERS[name]


@pytest.mark.parametrize("caption", ["", " ", "\n", ".", "?", "' '", '" - -- ... "', "\u200b", "😀"])
def test_a_caption_without_a_word_is_empty(caption):
    assert ptb.tokenise(caption) == ""


@pytest.mark.parametrize(
    "text", ["a" * 20_000, "a-" * 10_000, "a." * 10_000, "a'" * 10_000, "<a" * 10_000, "1," * 10_000]
)
def test_time_does_not_explode(text):
    """A model that repeats itself must not stop an evaluation."""
    assert ptb.tokenise(text)
