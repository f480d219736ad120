"""How a row of each task becomes a question: the context, the endings, and which of them is right.

The words are those of lm-evaluation-harness, so that figures compare with what is published: a space stands between context
and ending, and belongs to the ending. Knows nothing about models, tokens and files.
"""
import re
from typing import NamedTuple

from evals.rows import Row
from runtime.errors import BadInput
from scoring.treebank_cleanup import clean_book

BRACKETS = re.compile(r'\[[^\]\n]*(\]?)')



class Question(NamedTuple):
    """The model chooses the likeliest ending. If it is `by_context`, the ending is one, and it chooses the likeliest context
    to come before it: then `contexts` has one for each choice, otherwise one in all."""
    contexts: list[str]
    endings: list[str]
    label: int  # which choice is right

    @property
    def n_choices(self) -> int:
        return max(len(self.contexts), len(self.endings))

    def choice(self, i: int) -> tuple[str, str]:
        """(context, ending) of choice i."""
        return self.contexts[i % len(self.contexts)], self.endings[i % len(self.endings)]


def ask(context: str, endings: list[str], label: int) -> Question:
    return Question([context], endings, label)


# ---- multiple choice --------------------------------------------------------------------------------


def hellaswag(row: Row) -> Question:
    """Zellers et al. 2019, "HellaSwag: Can a Machine Really Finish Your Sentence?". ctx_b begins with a capital letter."""
    row.text('ctx')
    context = row.text('ctx_a', may_be_empty=True) + ' ' + row.text('ctx_b', may_be_empty=True).capitalize()
    endings = [clean_wikihow(ending) for ending in row.texts('endings', 4)]
    return ask(clean_wikihow(f'{row.text("activity_label")}: {context}'), endings, row.number('label', range(4)))


def hellaswag_completion(row: Row) -> Question:
    """HellaSwag as the public GPT-2 training scripts ask it: context and ending as published."""
    return ask(row.text('ctx'), row.texts('endings', 4), row.number('label', range(4)))


def clean_wikihow(text: str) -> str:
    """The harness's clean-up of WikiHow's markup, such as [title] and [step].

    Its pattern `\\[.*?\\]` takes quadratic time where brackets are not closed; here what follows one is read once.
    """
    text = text.strip().replace(' [title]', '. ')
    return BRACKETS.sub(lambda found: '' if found[1] else found[0], text).replace('  ', ' ')


def piqa(row: Row) -> Question:
    """Bisk et al. 2020, "PIQA: Reasoning about Physical Commonsense in Natural Language"."""
    return ask(f'Question: {row.text("goal")}\nAnswer:', [row.text('sol1'), row.text('sol2')], row.number('label', range(2)))


def siqa(row: Row) -> Question:
    """Sap et al. 2019, "Social IQa: Commonsense Reasoning about Social Interactions". Labels are 1, 2, 3."""
    endings = [row.text(f'answer{letter}') for letter in 'ABC']
    return ask(f'Q: {row.text("context")} {row.text("question")}\nA:', endings, row.number('label', range(1, 4)) - 1)


def winogrande(row: Row) -> Question:
    """Sakaguchi et al. 2019, "WinoGrande": which of two words in the gap makes what follows it likelier."""
    before, gap, behind = row.text('sentence').partition('_')
    if not gap or not behind.strip():
        row.refuse('sentence', 'a text with a gap, _, and words behind it')
    contexts = [before + row.text(option) for option in ('option1', 'option2')]
    return Question(contexts, [behind.strip()], row.number('answer', range(1, 3)) - 1)


def arc(row: Row) -> Question:
    """Clark et al. 2018, "Think you have Solved Question Answering? Try ARC", the easy and the hard part."""
    question, endings, label = school_question(row)
    return ask(f'Question: {question}\nAnswer:', endings, label)


def openbookqa(row: Row) -> Question:
    """Mihaylov et al. 2018, "Can a Suit of Armor Conduct Electricity?"."""
    return ask(*school_question(row))


def school_question(row):
    """(question, endings, label) of ARC and OpenBookQA, in their published form or as the hub has them."""
    if isinstance(row.values.get('question'), dict):
        asked = row.inside('question')
        question, choices = asked.text('stem'), asked.rows('choices')
        texts, names = [choice.text('text') for choice in choices], [choice.text('label') for choice in choices]
    else:
        question, choices = row.text('question_stem' if row.has('question_stem') else 'question'), row.inside('choices')
        texts, names = choices.texts('text'), choices.texts('label')
    return question, texts, row.one_of('answerKey', names[:len(texts)])


def boolq(row: Row) -> Question:
    """Clark et al. 2019, "BoolQ". The label is `answer` where the authors published it, and `label` in SuperGLUE."""
    context = f'{row.text("passage")}\nQuestion: {row.text("question")}?\nAnswer:'
    return ask(context, ['no', 'yes'], int(row.truth('answer' if row.has('answer') else 'label')))


def copa(row: Row) -> Question:
    """Roemmele et al. 2011, "Choice of Plausible Alternatives", as SuperGLUE has it."""
    word = ['because', 'therefore'][row.one_of('question', ['cause', 'effect'])]
    choices = [row.text(choice) for choice in ('choice1', 'choice2')]
    context = f'{row.text("premise").strip()[:-1]} {word}'  # without its full stop
    # The harness has a second space before the choices.
    return ask(context, [f' {choice[0].lower()}{choice[1:]}' for choice in choices], row.number('label', range(2)))


def book_test(row: Row) -> Question:
    """Hill et al. 2015, "The Goldilocks Principle" (the Children's Book Test), as section 3.2 of GPT-2's paper scores it:
    a choice is as likely as that word and the rest of its sentence are together."""
    sentences, options = row.values.get('sentences'), row.texts('options')
    if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
        row.refuse('sentences', 'a list of texts')
    before, gap, behind = row.text('question').partition('XXXXX')
    if not gap:
        row.refuse('question', 'a text with a gap, XXXXX')
    label = row.one_of('answer', [option.strip() for option in options])
    whole = [clean_book(' '.join([*sentences, before + option.strip() + behind])) for option in options]
    context = clean_book(' '.join([*sentences, before]))
    cut = whole[0].rfind(' ', 0, len(context) + 1)  # an opening quotation mark before the gap goes with the word in it
    return ask(whole[0][:cut], [text[cut + 1:] for text in whole], label)


# ---- the last word ----------------------------------------------------------------------------------


def last_word(row: Row) -> Question:
    """Paperno et al. 2016, "The LAMBADA dataset": a passage whose last word only those can guess who have read it all."""
    context, space, word = row.text('text').rpartition(' ')
    if not space or not word or not context.strip():
        raise BadInput(f'{row.place}: text should have two words or more, and no space at its end')
    return ask(context, [word], 0)
