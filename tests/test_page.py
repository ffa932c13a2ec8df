"""The page in a real browser, on a stand-in for the server's API."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import FAILED
from page_api import CSP, HOSTILE, PAGE, Fake, application, drawn, served
from playwright.sync_api import Browser, FilePayload, Locator, Page, expect, sync_playwright

# The shell without windows takes half the time.
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
FLAGS = [
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
VIEWS = ["identify", "verify", "gallery", "unknowns", "audit", "quality", "jobs", "identity/cup"]
PICTURE = bytes(drawn(3).body)
# What a drop and a paste come to, for a script in the page.
GIVE = """([event, name, content]) => {
  const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/jpeg" }));
  const given = event === "drop" ? new DragEvent(event, { dataTransfer: data, bubbles: true })
    : new ClipboardEvent(event, { clipboardData: data, bubbles: true });
  document.body.dispatchEvent(given);
}"""
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no browser is installed: apt-get install chromium-headless-shell"
)
Open = Callable[..., Page]
WAIT = 30_000  # milliseconds: the machine may be busy
expect.set_options(timeout=WAIT)


def file(name: str) -> FilePayload:
    return {"name": name, "mimeType": "image/jpeg", "buffer": PICTURE}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def fake() -> Fake:
    names = ["bowl", "bowl", "cup", "cup", "cup", "plate", HOSTILE]
    return Fake({"shop": dict(enumerate(names, 1))})


@pytest.fixture
def open_page(
    browser: Browser, fake: Fake, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Open]:
    """Opens a view; after the test there must have been no error, nor a broken policy."""
    wrong: list[str] = []
    pages: list[Page] = []

    def opened(view: str = "identify", waits: bool = True, **look: Any) -> Page:
        page = browser.new_context(**look).new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda said: wrong.append(said.text) if "Content Security" in said.text else None,
        )
        page.goto(f"{url}#/shop/{view}")
        if waits:
            expect(page.locator("main h1")).to_be_visible()
        pages.append(page)
        return page

    with served(application(fake)) as url:
        yield opened
        for number, page in enumerate(pages):
            if request.node.stash.get(FAILED, False):
                page.screenshot(path=tmp_path / f"page-{number}.png")
            page.context.close()
    assert wrong == []


def give(page: Page, event: str, name: str) -> None:
    page.evaluate(GIVE, [event, name, base64.b64encode(PICTURE).decode()])


def said(page: Page) -> Any:
    """What was said last of a change."""
    return page.locator("#said")


def place(mark: Locator) -> tuple[float, float]:
    box = mark.bounding_box()
    assert box is not None
    return round(box["x"] + box["width"] / 2), round(box["y"] + box["height"] / 2)


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_given_is_named_beside_candidates(open_page: Open, event: str) -> None:
    page = open_page()
    give(page, event, "mine.jpg")
    answer = page.locator(".answer")
    expect(answer.get_by_role("heading")).to_have_text("bowl")
    expect(answer.locator(".facts").first).to_contain_text("92 % sure · score 0.930")
    expect(answer.locator(".candidate")).to_have_count(4)
    expect(answer.locator(".candidate img").first).to_be_visible()
    expect(answer.get_by_role("img", name="Threshold 0.710")).to_be_visible()
    expect(page.locator("#live")).to_have_text("mine.jpg: bowl, 92 % sure")


def test_without_a_threshold_candidates_are_shown_and_nothing_is_claimed(
    open_page: Open, fake: Fake
) -> None:
    fake.undecided = "no threshold is known: run `siasearch calibrate`"
    page = open_page()
    expect(page.locator("main")).to_contain_text(
        "No threshold is known: run `siasearch calibrate`."
    )
    give(page, "drop", "mine.jpg")
    answer = page.locator(".answer")
    expect(answer.get_by_role("heading")).to_have_text("Unknown")
    facts = "nearest: bowl · score 0.930 · threshold not known"
    expect(answer.locator(".facts").first).to_contain_text(facts)
    expect(answer.locator(".candidate")).to_have_count(4)
    expect(answer.locator(".candidate", has_text="below")).to_have_count(0)
    expect(answer.get_by_role("img", name="Threshold not known")).to_be_visible()
    page = open_page("verify")
    for _ in range(2):
        give(page, "drop", "mine.jpg")
    verdict = page.locator(".verdict")
    expect(verdict.get_by_role("heading")).to_have_text("Not known")
    expect(verdict.locator(".facts")).to_have_text("score 0.970 · threshold not known")
    expect(open_page("quality").locator("main")).to_contain_text("threshold is not known")


def test_many_files_are_each_answered_in_their_order(open_page: Open) -> None:
    page = open_page()
    names = [f"{number}.jpg" for number in range(20)] + ["stranger.jpg", "notes.txt"]
    page.get_by_label("Pictures to identify").and_(page.locator("input")).set_input_files(
        [file(name) for name in names]
    )
    expect(page.locator(".answer .error")).to_have_text("notes.txt: not an image")
    expect(page.locator(".answer h2", has_text="Unknown")).to_be_visible()
    expect(page.locator(".answer h2", has_text="bowl")).to_have_count(20)
    expect(page.locator(".answer figcaption")).to_have_text(names)


def test_right_enrols_and_undo_takes_it_back(open_page: Open, fake: Fake) -> None:
    page = open_page()
    give(page, "drop", "mine.jpg")
    button(page, "Not this one: bowl").click()
    expect(page.locator(".candidate .name").first).to_have_text("cup")
    button(page, "Right, add this picture: cup").click()
    expect(said(page)).to_contain_text("1 picture added to cup")
    expect(page.get_by_text("Enrolled as cup.")).to_be_visible()
    assert fake.galleries["shop"][8] == "cup"
    button(page, "Undo").click()
    expect(said(page)).to_contain_text("Taken back: 1 picture of cup added")
    expect(button(page, "Redo")).to_be_visible()
    expect(page.get_by_text("Enrolled as cup.")).to_have_count(0)
    expect(page.locator(".answer")).to_have_count(1)
    assert 8 not in fake.galleries["shop"]


def test_answers_stay_while_another_view_is_looked_at(open_page: Open, fake: Fake) -> None:
    page = open_page()
    give(page, "drop", "mine.jpg")
    page.locator(".candidate a.name").first.click()
    expect(page.locator("h1")).to_have_text("bowl")
    page.go_back()
    expect(page.locator(".answer h2")).to_have_text("bowl")
    button(page, "Right, add this picture: bowl").click()
    expect(said(page)).to_contain_text("1 picture added to bowl")
    assert fake.galleries["shop"][8] == "bowl"
    button(page, "Clear the answers").click()
    expect(page.locator(".answer")).to_have_count(0)


def test_two_pictures_are_compared(open_page: Open) -> None:
    page = open_page("verify")
    give(page, "drop", "one.jpg")
    expect(page.get_by_role("region", name="First picture")).to_contain_text("one.jpg")
    give(page, "paste", "two.jpg")
    verdict = page.locator(".verdict")
    expect(verdict.get_by_role("heading")).to_have_text("Not the same")
    expect(verdict.locator(".facts")).to_have_text(
        "the same with a probability of 2 % · score 0.310 · threshold 0.799"
    )
    expect(page.locator("#live")).to_have_text("Not the same")
    choose = page.get_by_role("region", name="Second picture").locator("input")
    choose.set_input_files(file("one.jpg"))
    expect(verdict.get_by_role("heading")).to_have_text("The same")
    button(page, "What matched").click()
    expect(page.get_by_role("dialog").get_by_role("img")).to_be_visible()
    page.keyboard.press("Escape")
    choose.set_input_files(file("notes.txt"))
    expect(verdict.locator(".error")).to_have_text("b: not an image")


def test_a_picture_is_enrolled_under_a_new_name(open_page: Open, fake: Fake) -> None:
    page = open_page()
    give(page, "drop", "mine.jpg")
    page.get_by_label("Enrol as").fill("jug")
    page.get_by_label("Enrol as").press("Enter")
    expect(page.get_by_text("Enrolled as jug.")).to_be_visible()
    assert fake.galleries["shop"][8] == "jug"


def test_what_matched_is_shown_and_closed_by_a_key(open_page: Open) -> None:
    page = open_page()
    give(page, "drop", "mine.jpg")
    button(page, "What matched: bowl").click()
    expect(page.get_by_role("dialog").get_by_role("img")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_camera_answers_while_it_looks(open_page: Open) -> None:
    page = open_page()
    button(page, "Use the camera").click()
    expect(page.locator(".live-name")).to_have_text("bowl")
    button(page, "Take this picture").click()
    expect(page.locator(".answer h2")).to_have_text("bowl")
    button(page, "Close the camera").click()
    expect(page.locator("video")).to_have_count(0)


def test_a_gallery_is_searched(open_page: Open) -> None:
    page = open_page("gallery")
    expect(page.get_by_text("4 identities, 7 pictures")).to_be_visible()
    page.get_by_label("Search names").fill("up")
    expect(page.get_by_text("1 identity found")).to_be_visible()
    expect(page.locator(".card .name")).to_have_text(["cup"])


def test_several_identities_are_merged_and_removed_as_one_change(
    open_page: Open, fake: Fake
) -> None:
    page = open_page("gallery")
    before = dict(fake.galleries["shop"])
    page.get_by_label("Select bowl").check()
    page.get_by_label("Select plate").check()
    button(page, "Merge").click()
    expect(page.get_by_role("dialog")).to_contain_text("3 pictures of bowl, plate")
    page.get_by_role("dialog").get_by_role("button", name="Merge").click()
    expect(page.locator(".card .name")).to_have_text([HOSTILE, "bowl", "cup"])
    page.get_by_label("Select bowl").check()
    page.get_by_label("Select cup").check()
    button(page, "Remove").click()
    expect(page.locator(".card .name")).to_have_text([HOSTILE])
    for left in (3, 4):
        page.locator(".tools").get_by_role("button", name="Undo").click()
        expect(page.locator(".card .name")).to_have_count(left)
    assert fake.galleries["shop"] == before
    for left in (3, 1):
        page.locator(".tools").get_by_role("button", name="Redo").click()
        expect(page.locator(".card .name")).to_have_count(left)


def test_renaming_to_a_name_that_is_taken_asks_first(open_page: Open, fake: Fake) -> None:
    page = open_page("identity/cup")
    button(page, "Rename").click()
    page.get_by_label("New name").fill("plate")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="plate is there already")).to_be_visible()
    assert fake.undo == []
    button(page, "Merge").click()
    expect(page.locator("h1")).to_have_text("plate")
    expect(page.locator(".items > li")).to_have_count(4)


def test_pictures_are_moved_and_removed(open_page: Open, fake: Fake) -> None:
    page = open_page("identity/cup")
    first = page.locator(".items .note").first
    expect(first).to_have_text("more like bowl by 0.050")
    expect(page.locator(".items .name").first).to_have_text("5.jpg")  # the doubtful one
    page.get_by_label("Select 3.jpg").check()
    button(page, "Move to…").click()
    page.get_by_label("To which identity").fill("jug")
    page.keyboard.press("Enter")
    expect(page.locator(".items > li")).to_have_count(2)
    page.get_by_label("Select 4.jpg").check()
    page.locator(".selection").get_by_role("button", name="Remove").click()
    expect(page.locator(".items > li")).to_have_count(1)
    assert fake.galleries["shop"][3] == "jug"
    assert 4 not in fake.galleries["shop"]
    button(page, "Undo").click()
    expect(page.locator(".items > li")).to_have_count(2)
    assert fake.galleries["shop"][4] == "cup"


def test_one_undo_takes_back_all_files_that_were_given(open_page: Open) -> None:
    page = open_page("identity/cup")
    page.get_by_label("Add pictures").locator("input").set_input_files(
        [file(f"{number}.jpg") for number in range(40)]
    )
    expect(said(page)).to_contain_text("40 pictures added to cup")
    expect(page.locator(".items > li")).to_have_count(43)
    button(page, "Undo").click()
    expect(said(page)).to_contain_text("Taken back: 40 pictures of cup added")
    expect(page.locator(".items > li")).to_have_count(3)
    button(page, "Redo").click()
    expect(said(page)).to_contain_text("Done again: 40 pictures of cup added")
    expect(page.locator(".items > li")).to_have_count(43)


def test_what_somebody_else_has_changed_is_not_taken_back(open_page: Open, fake: Fake) -> None:
    page = open_page("identity/cup")
    page.get_by_label("Select 3.jpg").check()
    page.locator(".selection").get_by_role("button", name="Remove").click()
    expect(said(page)).to_contain_text("1 picture removed")
    fake.change("shop", "add", "jug", fake.galleries["shop"] | {77: "jug"})
    button(page, "Undo").click()
    expect(page.locator("#wrong")).to_contain_text("Something else was changed since")
    assert fake.galleries["shop"][77] == "jug"
    page.get_by_role("link", name="Gallery").click()
    button(page, "Undo: 1 picture of jug added").click()
    button(page, "Undo: 1 picture removed").click()
    expect(page.get_by_text("4 identities, 7 pictures")).to_be_visible()


def test_a_change_is_taken_back_from_another_view(open_page: Open) -> None:
    page = open_page()
    give(page, "drop", "mine.jpg")
    button(page, "Right, add this picture: cup").click()
    expect(said(page)).to_contain_text("1 picture added to cup")
    page.get_by_role("link", name="Gallery").click()
    expect(page.get_by_text("4 identities, 8 pictures")).to_be_visible()
    button(page, "Undo").click()
    expect(page.get_by_text("4 identities, 7 pictures")).to_be_visible()
    page.go_back()
    expect(page.locator(".answer h2")).to_have_text("bowl")
    expect(page.get_by_text("Enrolled as cup.")).to_have_count(0)


def test_a_hundred_thousand_identities_scroll(open_page: Open, fake: Fake) -> None:
    fake.galleries["shop"] = {number: f"thing {number:06d}" for number in range(1, 100_001)}
    page = open_page("gallery", viewport={"width": 1280, "height": 800})
    expect(page.get_by_text("100,000 identities", exact=False)).to_be_visible()
    page.locator(".card a").first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(":focus .name")).to_have_text("thing 000008")
    page.evaluate("scrollTo(0, document.body.scrollHeight / 20)")
    expect(page.get_by_text("thing 005000", exact=True)).to_be_visible()
    assert page.locator(".virtual > li").count() < 120
    page.locator(".card a").last.focus()
    page.keyboard.press("End")
    expect(page.locator(":focus")).to_contain_text("thing 100000")


def test_what_is_found_is_selected_together_and_found_again(open_page: Open, fake: Fake) -> None:
    fake.galleries["shop"] = {number: f"thing {number:04d}" for number in range(1, 1001)}
    page = open_page("gallery")
    page.get_by_label("Search names").fill("77")
    expect(page.get_by_text("19 identities found")).to_be_visible()
    page.get_by_label("Select thing 0077").check()
    button(page, "Select all 19").click()
    expect(page.locator(".selection").get_by_text("19 selected")).to_be_visible()
    page.locator(".selection").get_by_role("button", name="Remove").click()
    expect(page.get_by_text("0 identities found")).to_be_visible()
    assert len(fake.galleries["shop"]) == 981
    button(page, "Undo").click()
    expect(page.get_by_text("19 identities found")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Search names")).to_have_value("77")


def test_a_group_of_unknowns_is_named_without_one_picture(open_page: Open, fake: Fake) -> None:
    page = open_page("unknowns")
    group = page.locator(".groups > li").first
    group.get_by_label("Picture 2 belongs to it").uncheck()
    group.get_by_label("Name").fill("jug")
    group.get_by_role("button", name="Enrol").click()
    expect(said(page)).to_contain_text("2 pictures added to jug")
    expect(page.locator(".groups > li")).to_have_count(1)
    assert {fake.galleries["shop"][101], fake.galleries["shop"][103]} == {"jug"}
    button(page, "Drop").click()
    expect(page.get_by_text("No unknown pictures are kept.")).to_be_visible()


def test_an_audit_leaves_out_what_was_changed_since(open_page: Open, fake: Fake) -> None:
    page = open_page("audit")
    button(page, "Audit now").click()
    expect(page.locator(".pairs > li")).to_have_count(3)
    button(page, "Move to another: item 1").click()
    page.get_by_label("To which identity").fill("jug")
    page.keyboard.press("Enter")
    expect(said(page)).to_contain_text("1 picture moved to jug")
    page.reload()
    expect(button(page, "Keep both")).to_be_visible()
    expect(page.locator(".pairs > li")).to_have_count(1)
    assert fake.galleries["shop"][1] == "jug"


def test_an_audit_is_run_and_settled(open_page: Open, fake: Fake) -> None:
    page = open_page("audit")
    button(page, "Audit now").click()
    expect(page.get_by_role("heading", name="Likely wrong labels 1")).to_be_visible()
    button(page, "Move to cup").click()
    expect(said(page)).to_contain_text("1 picture moved to cup")
    assert fake.galleries["shop"][1] == "cup"
    button(page, "Keep both").click()
    expect(button(page, "Keep both")).to_have_count(0)
    page.reload()
    expect(page.get_by_text("No two pictures are nearly the same.")).to_be_visible()


def test_quality_tells_what_a_threshold_costs(open_page: Open, fake: Fake) -> None:
    page = open_page("quality")
    expect(page.get_by_text("The scores have not been measured yet.")).to_be_visible()
    button(page, "Measure scores").click()
    expect(page.locator(".cost")).to_contain_text("At 0.550: 58 of 60 own pictures get their name")
    expect(page.locator(".cost")).to_contain_text("1 of 60 strangers")
    expect(page.get_by_text("1 of them look more like another identity")).to_be_visible()
    expect(
        page.get_by_role("img", name="At the threshold in use 1.7 % of strangers")
    ).to_be_visible()
    slider = page.get_by_label("Threshold", exact=True)
    used, moved = page.locator(".det .used"), page.locator(".det .moved")
    assert used.bounding_box() is not None
    assert place(used) == place(moved)
    slider.fill("0.897")
    expect(page.locator(".cost")).to_contain_text("0 of 60 strangers")
    assert place(moved)[0] < place(used)[0]
    assert place(moved)[1] < place(used)[1]
    changed = page.get_by_text("The gallery has changed since these scores were measured")
    expect(changed).to_have_count(0)
    fake.stale = True
    page.reload()
    expect(changed).to_be_visible()
    button(page, "Calibrate to 10 %").click()
    expect(said(page)).to_contain_text("Calibrated")
    asked = [(job["kind"], job["arguments"]) for job in fake.jobs]
    assert asked[1:] == [("calibrate", {"fpir": 0.1}), ("scores", {})]


def test_quality_tells_which_identities_it_concerns(open_page: Open) -> None:
    page = open_page("quality")
    button(page, "Measure scores").click()
    rows = page.locator(".identities tbody tr")
    expect(rows.first).to_have_text(re.compile("^bowl.*33 % \\(1\\)0 % \\(0\\)$"))
    button(page, "Identity").click()
    expect(page.locator(".identities [aria-sort=ascending]")).to_have_text("Identity")
    expect(rows.first).to_contain_text(HOSTILE)
    button(page, "Identity").click()
    expect(rows.first).to_contain_text("plate")
    taken = page.locator(".pairs > li")
    expect(taken).to_contain_text("2 pictures of it")
    expect(taken.locator("img")).to_have_count(2)
    rows.first.get_by_role("link").click()
    expect(page.locator("h1")).to_have_text("plate")


def test_a_job_is_cancelled(open_page: Open, fake: Fake) -> None:
    page = open_page("jobs")
    button(page, "Rebuild the index").click()
    expect(page.locator("progress")).to_have_attribute("max", "10")
    button(page, "Cancel").click()
    expect(page.get_by_text("cancelled")).to_be_visible()
    assert fake.jobs[0]["state"] == "cancelled"


def test_a_read_only_gallery_offers_no_change(open_page: Open, fake: Fake) -> None:
    fake.galleries["lab"] = {1: "a", 2: "b", 3: "c"}
    fake.read_only = {"lab"}
    page = open_page("gallery")
    page.get_by_label("Gallery").select_option("lab")
    expect(page.locator(".card .name")).to_have_text(["a", "b", "c"])
    expect(page.locator("input[type=checkbox]")).to_have_count(0)
    for view, shown in [("unknowns", ".members"), ("jobs", ".empty"), ("identity/a", ".items")]:
        page.evaluate(f"location.hash = '#/lab/{view}'")
        expect(page.locator(shown).first).to_be_visible()
        expect(page.locator("main button:not(.bare):visible")).to_have_count(0)


def test_a_token_is_asked_for_once(open_page: Open, fake: Fake) -> None:
    fake.token = "secret"
    page = open_page("gallery", waits=False)
    page.get_by_role("textbox", name="Token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_text("That token was refused.")).to_be_visible()
    page.get_by_role("textbox", name="Token").fill("secret")
    page.keyboard.press("Enter")
    expect(page.locator(".card img").first).to_be_visible()
    page.reload()
    expect(page.locator(".card img").first).to_be_visible()
    assert "secret" not in page.url


def test_errors_are_the_servers_words(open_page: Open) -> None:
    page = open_page("identity/nobody")
    expect(page.get_by_text("no identity 'nobody' in the gallery")).to_be_visible()


@pytest.mark.parametrize("view", [*VIEWS[:-1], "identity/" + HOSTILE])
def test_a_hostile_label_stays_text(open_page: Open, fake: Fake, view: str) -> None:
    fake.galleries["shop"] = {1: HOSTILE, 2: HOSTILE + "2", 3: HOSTILE + "3"}
    page = open_page("identify")
    page.evaluate("view => { location.hash = '#/shop/' + view }", view.replace("<", "%3C"))
    if view == "identify":
        give(page, "drop", HOSTILE.replace("/", "") + ".jpg")
    if view in ("audit", "quality"):
        button(page, {"audit": "Audit now", "quality": "Measure scores"}[view]).click()
    if view in ("identify", "gallery", "unknowns", "audit", "quality") or "/" in view:
        expect(page.get_by_text(HOSTILE).first).to_be_visible()
    page.wait_for_timeout(100)
    assert page.locator("img[onerror], img[src=x]").count() == 0
    assert page.title() != "broken"


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checker of accessibility, where npm can fetch it."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: it fetches the checker of accessibility")
    folder = tmp_path_factory.mktemp("axe")
    run = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "axe-core"]
    if subprocess.run(run, cwd=folder, capture_output=True, timeout=120).returncode:
        pytest.skip("npm cannot fetch the checker of accessibility")
    return (folder / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_view_breaks_a_rule_of_accessibility(
    open_page: Open, axe: str, scheme: str, width: int
) -> None:
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 844})
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == (scheme == "dark") == (background == "rgb(20, 23, 26)")
    page.evaluate(axe)
    broken: dict[str, list[str]] = {}
    for view in VIEWS:
        page.evaluate("view => { location.hash = '#/shop/' + view }", view)
        expect(page.locator(f".view.{view.split('/')[0]} > *").first).to_be_visible()
        if view == "identify":
            give(page, "drop", "mine.jpg")
            expect(page.locator(".candidate img").first).to_be_visible()
        if view == "verify":
            for name in ("one.jpg", "two.jpg"):
                give(page, "drop", name)
            expect(page.locator(".verdict h2")).to_have_text("Not the same")
        if view == "gallery":
            page.get_by_label("Select cup").check()
        if view in ("audit", "quality"):
            button(page, {"audit": "Audit now", "quality": "Measure scores"}[view]).click()
            expect(page.locator("main section h2").first).to_be_visible()
        if view == "jobs":
            button(page, "Rebuild the index").click()
            # A job begun in an earlier view may still show a bar of its own.
            expect(page.get_by_label("Rebuild the index, progress")).to_be_visible()
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        found = page.evaluate("axe.run().then(({ violations }) => violations)")
        broken |= {
            f"{view}: {one['id']}": [node["html"][:160] for node in one["nodes"]] for one in found
        }
    assert broken == {}


def test_the_page_needs_nothing_from_elsewhere() -> None:
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, path
        assert "https:" not in text, path
        assert "innerHTML" not in text, path
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert "style=" not in html
    assert "unsafe" not in CSP
