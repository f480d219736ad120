"""The page with a model that was trained on conversations, in a real browser."""
import re

import pytest
import torch
from conftest import with_head
from test_chat_serve import chat_folder, never_ending, reference  # noqa: F401, the fixtures too
from test_page import (  # noqa: F401, the fixtures too
    PHONE,
    browser,
    choices,
    number_of_another,
    page,
    playwright,
    pytestmark,
    set_slider,
    status,
    tip,
    visible_tokens,
)
from test_serve import ending_at_once, serving


@pytest.fixture(scope='module')
def server(chat_folder):
    with serving(chat_folder) as server:
        yield server


def say(page, text, done='Done'):
    page.get_by_label('Message').fill(text)
    page.get_by_label('Message').press('Enter')
    playwright.expect(page.locator('#prompt')).to_have_value('')
    status(page).to_have_text(re.compile(done))


def settle(page, max_tokens=30, temperature=0):
    page.locator('#settings').evaluate('settings => { settings.open = true; }')
    set_slider(page, 'Longest text', max_tokens)
    set_slider(page, 'Temperature', temperature)


def said(page):
    """[(question, answer)]"""
    return list(zip(page.locator('.said p').all_text_contents(), page.locator('.text').all_text_contents()))


def answer_of(server, *messages, **how):
    roles = ['user', 'assistant'] * len(messages)
    messages = [{'role': role, 'content': text} for role, text in zip(roles, messages)]
    return server.client.chat.completions.create(model='chatty', messages=messages, **{'max_tokens': 30, 'temperature': 0, **how}
                                                 ).choices[0].message.content


def test_what_is_said_is_answered_as_the_server_does_turn_after_turn(page, server):
    settle(page)
    say(page, 'Hi')
    first = answer_of(server, 'Hi')
    say(page, 'What is it?')
    second = answer_of(server, 'Hi', first, 'What is it?')
    assert said(page) == [('Hi', first), ('What is it?', second)]
    page.reload()
    playwright.expect(page.get_by_label('Message')).to_be_visible()
    assert said(page) == [] and page.get_by_label('Prompt', exact=True).count() == 0 and page.get_by_label('Samples').is_hidden()


@pytest.fixture
def endless(server, reference):
    with never_ending(server, reference):
        yield


def test_the_last_question_is_edited_and_its_answer_made_anew(page, server, endless):
    settle(page)
    say(page, 'Hi')
    say(page, 'What is it?')
    first = said(page)[0][1]
    assert page.get_by_role('button', name='Regenerate').count() == page.get_by_role('button', name='Edit').count() == 1
    set_slider(page, 'Longest text', 10)
    page.get_by_role('button', name='Regenerate').click()
    playwright.expect(page.locator('footer p').nth(1)).to_contain_text('10 tokens')
    status(page).to_have_text(re.compile('Done'))
    assert said(page) == [('Hi', first), ('What is it?', answer_of(server, 'Hi', first, 'What is it?', max_tokens=10))]
    page.get_by_role('button', name='Edit').click()
    assert page.locator('#prompt').input_value() == 'What is it?'
    page.keyboard.press('Escape')
    assert page.locator('#prompt').input_value() == ''
    page.get_by_role('button', name='Edit').click()
    page.get_by_label('The last message, edited').fill('Say it')
    page.keyboard.press('Enter')
    playwright.expect(page.locator('.said p').nth(1)).to_have_text('Say it')
    status(page).to_have_text(re.compile('Done'))
    assert said(page) == [('Hi', first), ('Say it', answer_of(server, 'Hi', first, 'Say it', max_tokens=10))]
    page.get_by_role('button', name='New chat').click()
    assert said(page) == [] and page.locator('#empty').is_visible()


def test_every_setting_reaches_the_server(page, server):
    settle(page, temperature=0.5)
    for label, value in (('System instructions', 'Be kind.'), ('Top p', '0.9'), ('Top k', '20'), ('Repetition penalty', '1.25'),
                         ('Stop before', r'\n\n'), ('Seed', '1')):
        page.get_by_label(label, exact=True).fill(value)
    with page.expect_request(lambda request: request.url.endswith('v1/chat/completions')) as request:
        say(page, 'Hi')
    expected = {
        'messages': [{'role': 'system', 'content': 'Be kind.'}, {'role': 'user', 'content': 'Hi'}], 'max_tokens': 30, 'temperature': 0.5,
        'top_p': 0.9, 'top_k': 20, 'repetition_penalty': 1.25, 'stop': '\n\n', 'seed': 1, 'stream': True, 'logprobs': True, 'top_logprobs': 6,
        'tools': 'calculator', 'truncate_prompt_tokens': -1, 'continue_final_message': False}
    assert request.value.post_data_json == expected
    page.get_by_label(re.compile('Calculator')).uncheck()
    with page.expect_request(lambda request: request.url.endswith('v1/chat/completions')) as request:
        page.get_by_role('button', name='Regenerate').click()
    del expected['tools']
    assert request.value.post_data_json == expected
    assert request.value.response().status == 200


def test_an_answer_goes_on_from_another_choice_and_what_followed_is_dropped(page, server, reference):
    settle(page)
    with never_ending(server, reference):
        say(page, 'Hi')
        say(page, 'What is it?')
        kept = visible_tokens(page).nth(0).text_content()
        visible_tokens(page).nth(1).focus()
        assert len(choices(page)) == 6
        number = number_of_another(page)
        name = next(name for key, name, _ in choices(page) if key == number)
        page.keyboard.press(number)
        status(page).to_have_text(re.compile('Done: 2[0-9] tokens'))
        ((question, text),) = said(page)
        assert question == 'Hi' and text.startswith(kept + name.replace('␣', ' '))
        assert page.locator('.token').count() == 30
        page.get_by_role('button', name='Write more').click()
        playwright.expect(page.locator('.token')).to_have_count(60)
        status(page).to_have_text('Done: 30 tokens, ' + page.locator('#progress').text_content().split(', ')[1])
    assert said(page)[0][1].startswith(text)


def test_the_end_of_an_answer_is_a_token_that_can_be_taken_back(page, server, reference):
    settle(page)
    with ending_at_once(server, reference[1].special_tokens['<|end|>']):
        say(page, 'Hi')
    assert said(page) == [('Hi', '')] and 'the model ended it' in page.get_by_role('heading', level=2).text_content()
    visible_tokens(page).first.focus()
    assert choices(page)[0][:2] == ('✓', 'end of text')
    with never_ending(server, reference):
        page.keyboard.press(number_of_another(page))
        status(page).to_have_text(re.compile('Done: 29 tokens'))
    with ending_at_once(server, reference[1].special_tokens['<|end|>']):
        page.get_by_role('button', name='Regenerate').click()
        playwright.expect(page.locator('.token')).to_have_count(1)
    say(page, 'What is it?')  # a turn without an answer is not sent
    assert said(page)[1] == ('What is it?', answer_of(server, 'What is it?'))


def test_what_the_calculator_writes_is_coloured_and_says_so(page, server, reference):
    tokenizer = reference[1]
    calculator, server.service.calculator = server.service.calculator, lambda sequence: tokenizer.encode('24>>') if len(sequence.tokens) == 3 else None
    try:
        settle(page)
        with never_ending(server, reference):
            say(page, 'Hi')
    finally:
        server.service.calculator = calculator
    tool = page.locator('.token.tool')
    assert ''.join(tool.all_text_contents()) == '24>>'
    colours = page.locator('.token .ink').evaluate_all('inks => inks.map(ink => [ink.parentNode.classList.contains("tool"), getComputedStyle(ink).backgroundColor])')
    assert len({colour for is_tool, colour in colours if is_tool}) == 1
    assert not {colour for is_tool, colour in colours if is_tool} & {colour for is_tool, colour in colours if not is_tool}
    page.get_by_label('Shade by probability').uncheck()
    assert tool.first.locator('.ink').evaluate('ink => getComputedStyle(ink).backgroundColor') == next(colour for is_tool, colour in colours if is_tool)
    tool.first.focus()
    playwright.expect(tip(page)).to_have_text('The calculator wrote it, not the model.')
    page.keyboard.press('1')
    assert page.locator('.token').count() == 30
    assert f'{30 - tool.count()} tokens' in page.locator('footer p').text_content()


def test_escape_stops_an_answer_whose_beginning_stays_in_the_chat(page, server, reference):
    settle(page, max_tokens=1000)
    with never_ending(server, reference), server.slowly():
        page.get_by_label('Message').fill('Hi')
        page.keyboard.press('Enter')
        playwright.expect(page.locator('.token').nth(3)).to_be_attached()
        page.keyboard.press('Escape')
        status(page).to_have_text(re.compile('Stopped'))
        server.wait_until_idle()
    ((_, text),) = said(page)
    with page.expect_request(lambda request: request.url.endswith('v1/chat/completions')) as request:
        say(page, 'And?')
    assert request.value.post_data_json['messages'] == [
        {'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': text}, {'role': 'user', 'content': 'And?'}]


def test_a_chat_goes_on_past_the_context_and_a_refusal_leaves_all_as_it_was(page, server):
    settle(page, max_tokens=20)
    for i in range(8):
        say(page, f'Say {i} again')
    before = said(page)
    assert len(before) == 8 and page.get_by_role('alert').is_hidden()
    page.get_by_label('Message').fill('word ' * 40)
    page.keyboard.press('Enter')
    playwright.expect(page.get_by_role('alert')).to_contain_text('the last message has')
    assert said(page) == before and page.locator('#prompt').input_value() == 'word ' * 40
    page.get_by_label('Message').fill('  ')
    page.keyboard.press('Enter')
    page.keyboard.press('Shift+Enter')
    assert said(page) == before and page.locator('#prompt').input_value() == '  \n'


def test_a_character_of_several_tokens_is_never_shown_in_part(page, server, reference):
    """A model that says é€🚀 over and over, a byte a token, cut by the length in the midst of one."""
    tokenizer, decoder = server.service.tokenizer, server.service.engine.decoder
    ids = [next(i for i in range(256) if tokenizer.token_bytes(i) == bytes([byte])) for byte in 'é€🚀'.encode()]
    following = dict(zip(ids, ids[1:] + ids[:1]))
    with with_head(decoder, lambda x: torch.nn.functional.one_hot(torch.tensor(
            [following.get(i, ids[0]) for i in decoder.integers[0, :len(x)].tolist()]), tokenizer.vocab_size) * 50.0):
        settle(page)
        say(page, 'Hi')
    assert page.locator('.text').text_content() == 'é€🚀' * 3 + 'é' and page.locator('.token').count() == 30
    assert set(visible_tokens(page).all_text_contents()) == {'é', '€', '🚀'}


def test_it_is_used_with_the_keyboard_alone(page, server):
    page.get_by_label('Message').focus()
    page.keyboard.type('Hi')
    page.keyboard.press('Shift+Enter')
    page.keyboard.type('there')
    page.keyboard.press('Enter')
    status(page).to_have_text(re.compile('Done'))
    assert page.locator('.said p').text_content() == 'Hi\nthere'
    reached = set()
    for _ in range(9):
        page.keyboard.press('Shift+Tab')
        is_token, text, outline = page.evaluate("""() => {
            const element = document.activeElement;
            return [element.classList.contains('token'), element.textContent, getComputedStyle(element).outlineStyle];
        }""")
        assert is_token or outline != 'none'
        reached.add('a token' if is_token else text)
    assert {'a token', 'Copy', 'Regenerate', 'Edit', 'New chat'} <= reached


@pytest.mark.parametrize('page', [PHONE], indirect=True)
def test_on_a_phone_the_message_is_typed_at_the_bottom(page, server):
    page.get_by_label('Message').fill('Hi')
    page.get_by_role('button', name='Send').tap()
    status(page).to_have_text(re.compile('Done'))
    page.get_by_label('Message').fill('What is it?')
    page.get_by_label('Message').press('Enter')  # a phone's keyboard has no Shift+Enter
    assert page.locator('#prompt').input_value() == 'What is it?\n'
    page.get_by_role('button', name='Send').tap()
    playwright.expect(page.locator('.said')).to_have_count(2)
    status(page).to_have_text(re.compile('Done'))
    box = page.get_by_role('button', name='Send').bounding_box()
    assert box['y'] + box['height'] <= 640 and box['y'] > 500
    assert page.locator('html').evaluate('e => e.scrollWidth') <= 360
    token = visible_tokens(page).last
    token.tap()
    shown, place = tip(page).bounding_box(), token.bounding_box()
    assert shown['y'] + shown['height'] == 640 and place['y'] + place['height'] <= shown['y']
    assert all(button.bounding_box()['height'] >= 44 for button in page.get_by_role('button').all())


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('screen', [PHONE, {'viewport': {'width': 1440, 'height': 900}}], ids=['phone', 'desktop'])
def test_axe_finds_nothing_to_object_to(browser, server, reference, screen, scheme):
    axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='pip install axe-playwright-python').Axe()
    page = browser.new_context(color_scheme=scheme, bypass_csp=True, **screen).new_page()
    page.goto(server.url)
    page.get_by_label('Message').wait_for()

    def violations():
        return [(found['id'], [node['html'] for node in found['nodes']]) for found in axe.run(page).response['violations']]

    assert violations() == []
    tokenizer = reference[1]
    calculator, server.service.calculator = server.service.calculator, lambda sequence: tokenizer.encode('24>>') if len(sequence.tokens) == 3 else None
    settle(page)
    try:
        with never_ending(server, reference):
            for text in ('Hi', 'What is it?'):
                page.get_by_label('Message').fill(text)
                page.get_by_role('button', name='Send').click()
                playwright.expect(page.locator('#prompt')).to_have_value('')
                status(page).to_have_text(re.compile('Done'))
    finally:
        server.service.calculator = calculator
    visible_tokens(page).nth(2).focus()
    assert page.locator('.token.tool').count() and violations() == []
    page.get_by_role('button', name='Edit').click()
    page.get_by_label('The last message, edited').fill('word ' * 40)
    page.get_by_role('button', name='Send').click()
    page.get_by_role('alert').wait_for()
    assert violations() == []
    page.context.close()
