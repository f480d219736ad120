"""The page in a real browser: Debian's Chromium, driven by playwright. Skipped where there is none."""
import re
import shutil

import pytest
from test_serve import folder, serving  # noqa: F401, the fixture too

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
    return playwright.expect(page.get_by_role('status'))


def set_slider(page, label, value):
    page.get_by_label(label, exact=True).fill(str(value))


def visible_tokens(page):
    """Those that are not a part of a character."""
    return page.locator('.token:not([hidden])')


def generate(page, prompt='def ', n=1, max_tokens=30):
    page.get_by_label('Prompt').fill(prompt)
    set_slider(page, 'Samples', n)
    set_slider(page, 'Longest text, in tokens', max_tokens)
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
    set_slider(page, 'Longest text, in tokens', 1000)
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
    tip = page.get_by_role('tooltip')
    playwright.expect(tip).to_be_visible()
    answer = server.client.completions.create(model='tiny', prompt='def ', max_tokens=30, temperature=0.8, seed=1, logprobs=6)
    alternatives = answer.choices[0].logprobs.top_logprobs[place]
    assert tip.get_by_role('row').count() == len(alternatives)
    box = tip.bounding_box()
    assert 0 <= box['x'] and box['x'] + box['width'] <= 1280 and box['y'] + box['height'] <= 800
    page.mouse.move(0, 0)
    playwright.expect(tip).to_be_hidden()


def test_the_arrow_keys_move_from_token_to_token(page):
    generate(page)
    visible_tokens(page).first.focus()
    for key, place in (('ArrowRight', 1), ('ArrowRight', 2), ('ArrowLeft', 1), ('End', None), ('Home', 0)):
        page.keyboard.press(key)
        if place is not None:
            playwright.expect(visible_tokens(page).nth(place)).to_be_focused()
            playwright.expect(page.get_by_role('tooltip')).to_be_visible()


def test_a_text_goes_on_from_another_choice_at_the_press_of_its_number(page):
    generate(page)
    before = page.locator('.text').text_content()
    kept = visible_tokens(page).nth(0).text_content()
    visible_tokens(page).nth(1).focus()
    names = page.get_by_role('tooltip').get_by_role('rowheader').all_text_contents()
    chosen = page.locator('#tip .chosen').get_by_role('rowheader').text_content()
    number = next(i for i, name in enumerate(names[:6]) if name != chosen and name.isascii() and name.isprintable() and len(name) < 9)
    page.keyboard.press(str(number + 1))
    status(page).to_have_text(re.compile('Done: [0-9]+ tokens'))
    text = page.locator('.text').text_content()
    assert text.startswith(f'def {kept}{names[number]}') and text != before


def test_shading_can_be_switched_off(page):
    generate(page)
    shaded = page.locator('.token').evaluate_all('tokens => tokens.map(t => getComputedStyle(t).backgroundColor)')
    assert len(set(shaded)) > 3
    page.get_by_label("Show each token's probability").uncheck()
    plain = page.locator('.token').evaluate_all('tokens => tokens.map(t => getComputedStyle(t).backgroundColor)')
    assert set(plain) == {'rgba(0, 0, 0, 0)'}


def test_the_servers_refusal_is_shown_in_its_own_words(page):
    page.get_by_label('Prompt').fill('word ' * 40)
    page.keyboard.press('Control+Enter')
    playwright.expect(page.get_by_role('alert')).to_contain_text(re.compile(r'the prompt has more than [0-9,]+ tokens'))
    playwright.expect(page.get_by_role('article')).to_have_count(0)
    playwright.expect(page.locator('#empty')).to_be_visible()


def test_text_that_is_written_under_a_pointer_at_rest_is_not_covered(page):
    generate(page, max_tokens=200)
    visible_tokens(page).nth(12).hover()
    playwright.expect(page.get_by_role('tooltip')).to_be_visible()
    visible_tokens(page).nth(1).focus()
    names = page.get_by_role('tooltip').get_by_role('rowheader').all_text_contents()
    chosen = page.locator('#tip .chosen').get_by_role('rowheader').text_content()
    page.keyboard.press(str(1 + next(i for i, name in enumerate(names[:6]) if name != chosen and not name.startswith('bytes:'))))
    status(page).to_have_text(re.compile('Done: [0-9]+ tokens'))
    page.wait_for_timeout(300)  # for the browser to notice what lies under the pointer
    playwright.expect(page.get_by_role('tooltip')).to_be_hidden()


@pytest.mark.parametrize('page', [{'viewport': {'width': 360, 'height': 640}, 'has_touch': True, 'is_mobile': True}],
                         indirect=True)
def test_on_a_phone_nothing_is_wider_than_the_screen_and_a_tap_shows_the_alternatives(page):
    generate(page, n=2, max_tokens=60)
    visible_tokens(page).nth(5).tap()
    box = page.get_by_role('tooltip').bounding_box()
    assert 0 <= box['x'] and box['x'] + box['width'] <= 360
    assert page.locator('html').evaluate('e => e.scrollWidth') <= 360
    assert all(button.bounding_box()['height'] >= 44 for button in page.locator('.actions button').all())


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
