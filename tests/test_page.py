"""The page in a real browser: Debian's Chromium, driven by playwright. Skipped where there is none."""
import re
import shutil

import pytest
import torch
from conftest import with_head
from test_serve import ending_at_once, folder, serving  # noqa: F401, the fixture too

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
playwright = pytest.importorskip('playwright.sync_api', reason='playwright drives the browser: pip install playwright')
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason='needs a browser: apt install chromium'), pytest.mark.slow]


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-dev-shm-usage'])
        yield browser
        browser.close()


@pytest.fixture(scope='module')
def server(folder):
    with serving(folder) as server:
        yield server


@pytest.fixture
def page(browser, server, request):
    """The page, on a screen of the size that a test may name; any error in the browser's console fails the test."""
    screen = getattr(request, 'param', {'viewport': {'width': 1280, 'height': 800}})
    context = browser.new_context(**screen)
    context.set_default_timeout(120_000)
    playwright.expect.set_options(timeout=120_000)
    page = context.new_page()
    errors = []
    page.on('pageerror', lambda error: errors.append(str(error)))
    page.on('console', lambda message: errors.append(message.text) if is_mistake(message) else None)
    page.goto(server.url)
    yield page
    context.close()
    assert errors == []


def is_mistake(message):
    """Whether the browser complains of the page; that the server refused something is what some tests are about."""
    return message.type == 'error' and not message.text.startswith('Failed to load resource')


def status(page):
    """What a screen reader is told."""
    return playwright.expect(page.get_by_role('status'))


def tip(page):
    """What a token shows of the model's choices."""
    return page.get_by_role('group', name='What the model was choosing between')


def choices(page):
    """[(number or mark, name, percent)] of what is shown."""
    return [tuple(row.locator('span:not(.meter)').all_text_contents()) for row in tip(page).get_by_role('button').all()]


def set_slider(page, label, value):
    page.get_by_label(label, exact=True).fill(str(value))


def visible_tokens(page):
    """Those that are not a part of a character."""
    return page.locator('.token:not([hidden])')


def generate(page, prompt='def ', n=1, max_tokens=30):
    page.get_by_label('Prompt').fill(prompt)
    set_slider(page, 'Samples', n)
    set_slider(page, 'Longest text', max_tokens)
    page.get_by_label('Seed').fill('1')
    page.keyboard.press('Control+Enter')
    status(page).to_have_text(re.compile('Done'))


def test_a_prompt_is_typed_and_its_text_appears_as_the_server_gives_it(page, server):
    generate(page)
    answer = server.client.completions.create(model='tiny', prompt='def ', max_tokens=30, temperature=0.8, seed=1)
    assert page.locator('.text').text_content() == 'def ' + answer.choices[0].text
    status(page).to_have_text(re.compile(f'Done: {answer.usage.completion_tokens} tokens'))


def test_four_samples_stand_side_by_side_and_the_settings_are_there_after_a_reload(page):
    generate(page, n=4)
    boxes = [card.bounding_box() for card in page.locator('article').all()]
    assert len(boxes) == 4 and boxes[0]['y'] == boxes[1]['y'] and boxes[0]['x'] < boxes[1]['x']
    page.reload()
    assert page.get_by_label('Samples', exact=True).input_value() == '4'


def test_text_is_shown_while_it_is_written_and_escape_stops_it_on_the_server_too(page, server):
    page.get_by_label('Prompt').fill('def ')
    set_slider(page, 'Longest text', 1000)
    with server.slowly():
        page.get_by_role('button', name='Generate').click()
        playwright.expect(page.locator('.token').nth(3)).to_be_attached()
        assert page.locator('article.writing').count() == 1
        page.keyboard.press('Escape')
        status(page).to_have_text(re.compile('Stopped'))
        server.wait_until_idle()
    assert page.locator('article.writing').count() == 0
    assert page.get_by_role('button', name='Stop').is_disabled()


def test_pointing_at_a_token_shows_what_the_model_was_choosing_between(page, server):
    generate(page)
    place = visible_tokens(page).first.evaluate('token => [...document.querySelectorAll(".token")].indexOf(token)')
    visible_tokens(page).first.hover()
    playwright.expect(tip(page)).to_be_visible()
    answer = server.client.completions.create(model='tiny', prompt='def ', max_tokens=30, temperature=0.8, seed=1, logprobs=6)
    assert len(choices(page)) == len(answer.choices[0].logprobs.top_logprobs[place])
    box = tip(page).bounding_box()
    assert 0 <= box['x'] and box['x'] + box['width'] <= 1280 and box['y'] + box['height'] <= 800
    page.mouse.move(0, 0)
    playwright.expect(tip(page)).to_be_hidden()
    page.locator('.strip i').nth(place).hover()  # each bar of the chart stands for a token
    assert visible_tokens(page).first.evaluate('token => token.classList.contains("open")')


def test_the_arrow_keys_move_from_token_to_token(page):
    generate(page)
    visible_tokens(page).first.focus()
    for key, place in (('ArrowRight', 1), ('ArrowRight', 2), ('ArrowLeft', 1), ('End', None), ('Home', 0)):
        page.keyboard.press(key)
        if place is not None:
            playwright.expect(visible_tokens(page).nth(place)).to_be_focused()
            playwright.expect(tip(page)).to_be_visible()


def test_it_is_used_with_the_keyboard_alone(page):
    """From the top of the page to another choice and a text that goes on from it, with Tab, letters, arrows and numbers."""
    page.keyboard.press('Tab')
    page.keyboard.type('def f')
    page.keyboard.press('Control+Enter')
    status(page).to_have_text(re.compile('Done'))
    for _ in range(30):
        if page.evaluate('document.activeElement.classList.contains("token")'):
            break
        page.keyboard.press('Tab')
        outline = page.evaluate('getComputedStyle(document.activeElement).outlineStyle')
        assert outline != 'none' or page.evaluate('document.activeElement.classList.contains("token")')
    playwright.expect(tip(page)).to_be_visible()
    page.keyboard.press('ArrowRight')
    page.keyboard.press(number_of_another(page))
    status(page).to_have_text(re.compile('Done'))
    playwright.expect(visible_tokens(page).nth(1)).to_be_focused()


def number_of_another(page):
    """The key that goes on with a choice that was not taken, and whose characters are whole and can be seen."""
    return next(number for number, name, _ in choices(page)
                if number.isdigit() and name.isascii() and name.isprintable())


def test_a_text_goes_on_from_another_choice_at_the_press_of_its_number(page):
    generate(page)
    before = page.locator('.text').text_content()
    kept = visible_tokens(page).nth(0).text_content()
    visible_tokens(page).nth(1).focus()
    number = number_of_another(page)
    name = next(name for key, name, _ in choices(page) if key == number)
    page.keyboard.press(number)
    status(page).to_have_text(re.compile('Done: [0-9]+ tokens'))
    text = page.locator('.text').text_content()
    assert text.startswith(f'def {kept}{name}') and text != before


def test_a_text_is_written_on_at_its_end_past_the_models_context(page):
    generate(page, max_tokens=80)  # the context has 64
    before = page.locator('.text').text_content()
    page.get_by_role('button', name='Write more').click()
    playwright.expect(page.locator('.token')).to_have_count(160)
    status(page).to_have_text(re.compile('Done: 80 tokens'))
    assert page.locator('.text').text_content().startswith(before)
    assert 'reached 160 tokens' in page.get_by_role('heading', level=2).text_content()


def test_the_end_that_the_model_chose_is_a_token_too_and_can_be_chosen(page, server):
    with ending_at_once(server, server.service.tokenizer.eot):
        generate(page)
    assert 'the model ended it' in page.get_by_role('heading', level=2).text_content()
    assert page.locator('.text').text_content() == 'def '
    visible_tokens(page).first.focus()
    assert ('✓', 'end of text') == choices(page)[0][:2]
    page.keyboard.press(number_of_another(page))  # what would have come if it had gone on
    status(page).to_have_text(re.compile('Done: 29 tokens'))
    length = len(page.locator('.text').text_content())
    with ending_at_once(server, server.service.tokenizer.eot):
        page.get_by_role('button', name='Write more').click()
        status(page).to_have_text('Done: 1 tokens')
    assert len(page.locator('.text').text_content()) == length  # it spells nothing
    assert page.get_by_role('button', name='Write more').is_hidden()


def test_shading_can_be_switched_off_and_leaves_out_what_is_not_printed(page):
    generate(page, max_tokens=100)
    inks = page.locator('.ink:not(#empty .ink)')
    shaded = inks.evaluate_all('inks => inks.map(ink => getComputedStyle(ink).backgroundColor)')
    assert len(set(shaded)) > 3
    assert inks.evaluate_all('inks => inks.every(ink => ink.textContent && ink.textContent === ink.textContent.trim())')
    outside = page.locator('.text .token').evaluate_all('tokens => tokens.map(token => getComputedStyle(token).backgroundColor)')
    assert set(outside) == {'rgba(0, 0, 0, 0)'}
    page.get_by_label('Shade by probability').uncheck()
    plain = inks.evaluate_all('inks => inks.map(ink => getComputedStyle(ink).backgroundColor)')
    assert set(plain) == {'rgba(0, 0, 0, 0)'}


def test_a_prompts_tokens_are_counted_as_it_is_typed(page, server):
    count = playwright.expect(page.locator('#count'))
    for text in ('def read(self):', 'é€🙂', 'word ' * 40):
        page.get_by_label('Prompt').fill(text)
        n = len(server.service.tokenizer.encode(text))
        count.to_have_text(f'{n} of 64 tokens' + (': too long' if n > 64 else ''))
        assert page.get_by_label('Prompt').get_attribute('aria-invalid') == str(n > 64).lower()
    page.get_by_label('Prompt').fill('a' * 100_000)
    count.to_have_text('more than 64 tokens: too long')
    page.get_by_label('Prompt').fill('')
    count.to_have_text('up to 64 tokens')


def test_the_servers_refusal_is_shown_in_its_own_words_and_the_texts_so_far_stay(page):
    page.get_by_label('Prompt').fill('word ' * 40)
    page.keyboard.press('Control+Enter')
    alert = playwright.expect(page.get_by_role('alert'))
    alert.to_contain_text(re.compile(r'the prompt has [0-9]+ tokens, more than the 64 tokens'))
    playwright.expect(page.get_by_role('article')).to_have_count(0)
    playwright.expect(page.locator('#empty')).to_be_visible()
    generate(page, n=2)
    alert.to_be_hidden()
    before = page.locator('.text').all_text_contents()
    page.get_by_label('Prompt').fill('word ' * 40)
    page.keyboard.press('Control+Enter')
    alert.to_be_visible()
    assert page.locator('.text').all_text_contents() == before and page.locator('article.writing').count() == 0


def test_every_setting_reaches_the_server(page, server):
    with page.expect_request(lambda request: request.url.endswith('v1/completions')) as request:
        for label, value in (('Temperature', '0.5'), ('Top p', '0.9'), ('Top k', '20'), ('Repetition penalty', '1.25'),
                             ('Stop before', r'\n\n\\n')):
            page.get_by_label(label, exact=True).fill(value)
        generate(page, n=2)
    assert request.value.post_data_json == {
        'prompt': 'def ', 'n': 2, 'max_tokens': 30, 'temperature': 0.5, 'top_p': 0.9, 'top_k': 20, 'repetition_penalty': 1.25,
        'stop': '\n\n\\n', 'seed': 1, 'stream': True, 'logprobs': 6}


def test_a_character_of_several_tokens_is_never_shown_in_part(page, server):
    """A model that writes é€🚀 over and over, a byte a token, cut by the length in the midst of one."""
    tokenizer, decoder = server.service.tokenizer, server.service.engine.decoder
    ids = [next(i for i in range(256) if tokenizer.token_bytes(i) == bytes([byte])) for byte in 'é€🚀'.encode()]
    following = dict(zip(ids, ids[1:] + ids[:1]))
    page.evaluate("""() => {
        window.seen = [];
        new MutationObserver(() => seen.push(document.querySelector('.text').textContent)).observe(
            document.querySelector('#samples'), { childList: true, subtree: true, characterData: true });
    }""")
    with with_head(decoder, lambda x: torch.nn.functional.one_hot(torch.tensor(
            [following.get(i, ids[0]) for i in decoder.integers[0, :len(x)].tolist()]), 300) * 50.0):
        generate(page, prompt='', max_tokens=30)
    assert page.locator('.text').text_content() == 'é€🚀' * 3 + 'é'
    assert page.locator('.token').count() == 30
    page.get_by_role('button', name='Copy').focus()
    page.keyboard.press('Tab')  # past the token that is only a part of one
    playwright.expect(visible_tokens(page).first).to_be_focused()
    assert not [text for text in page.evaluate('seen') if '\ufffd' in text]


def test_text_that_is_written_under_a_pointer_at_rest_is_not_covered(page):
    generate(page, max_tokens=200)
    visible_tokens(page).nth(12).hover()
    playwright.expect(tip(page)).to_be_visible()
    visible_tokens(page).nth(1).focus()
    page.keyboard.press(number_of_another(page))
    status(page).to_have_text(re.compile('Done: [0-9]+ tokens'))
    page.keyboard.press('Escape')
    page.wait_for_timeout(300)  # for the browser to notice what lies under the pointer
    playwright.expect(tip(page)).to_be_hidden()


PHONE = {'viewport': {'width': 360, 'height': 640}, 'has_touch': True, 'is_mobile': True}


@pytest.mark.parametrize('page', [PHONE], indirect=True)
def test_on_a_phone_the_text_comes_before_the_settings_and_a_tap_shows_the_alternatives(page):
    assert page.get_by_label('Temperature').is_hidden()
    page.locator('summary').tap()
    assert page.get_by_label('Temperature').is_visible()
    generate(page, n=2, max_tokens=60)
    page.locator('summary').tap()
    assert page.locator('.text').first.bounding_box()['y'] < 400
    token = visible_tokens(page).nth(30)
    token.tap()
    box = tip(page).bounding_box()
    assert box['x'] == 0 and box['width'] == 360 and box['y'] + box['height'] == 640
    place = token.bounding_box()
    assert place['y'] + place['height'] <= box['y']
    assert page.locator('html').evaluate('e => e.scrollWidth') <= 360
    buttons = [*page.locator('.actions button').all(), *tip(page).get_by_role('button').all()]
    assert all(button.bounding_box()['height'] >= 44 for button in buttons)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('screen', [PHONE, {'viewport': {'width': 1440, 'height': 900}}], ids=['phone', 'desktop'])
def test_axe_finds_nothing_to_object_to(browser, server, screen, scheme):
    axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='pip install axe-playwright-python').Axe()
    context = browser.new_context(color_scheme=scheme, bypass_csp=True, **screen)
    page = context.new_page()
    page.goto(server.url)

    def violations():
        return [(found['id'], [node['html'] for node in found['nodes']]) for found in axe.run(page).response['violations']]

    assert violations() == []
    page.locator('#settings').evaluate('settings => { settings.open = true; }')
    generate(page, n=2)
    visible_tokens(page).nth(3).focus()
    assert violations() == []
    page.get_by_label('Prompt').fill('word ' * 40)
    page.keyboard.press('Control+Enter')
    page.get_by_role('alert').wait_for()
    playwright.expect(page.locator('#count')).to_contain_text('too long')
    assert violations() == []
    context.close()


def test_it_asks_for_the_key_where_the_server_does(browser, folder):
    with serving(folder, key='open sesame') as server:
        page = browser.new_context().new_page()
        page.goto(server.url)
        page.get_by_label(re.compile('API key')).fill('open sesame')
        generate(page)
        assert page.locator('.token').count() > 0


def test_it_works_with_every_other_address_cut_off(browser, server):
    context = browser.new_context()
    asked = []
    context.on('request', lambda request: asked.append(request.url))
    page = context.new_page()
    page.goto(server.url)
    generate(page)
    assert asked and all(url.startswith((server.url, 'data:')) for url in asked)
    context.close()
