"""The page of a study in a headless Chromium: what a reader sees, clicks and types, with the network off."""

import os
import pathlib
import shutil
from collections.abc import Iterator

import pytest
import slurm_cluster
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from test_report_page import write_study

PACKAGE_OF = {"chromium": "chromium", "chromedriver": "chromium-driver"}  # of Debian
CHARTS = [
    "chart-trade_off",
    "chart-pruning",
    "chart-sensitivity",
    "chart-sensitivity_int8",
    "chart-training",
]  # in order
DRAWN = "const done = arguments[0]; Promise.all(views).then(() => done());"
pytestmark = pytest.mark.browser


def absent() -> list[str]:
    return [package for program, package in PACKAGE_OF.items() if not shutil.which(program)]


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    """Yield a browser without a network.

    Without Chromium the tests are skipped. If ELAGAGE_REQUIRE_CHROMIUM is set it is installed, or they fail.
    """
    required = os.environ.get("ELAGAGE_REQUIRE_CHROMIUM")
    if absent() and required:
        slurm_cluster.install(absent())
    if absent():
        pytest.skip(f"no browser on this machine: install {' and '.join(absent())}")
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium")
    # Without its sandbox, which root cannot have.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    driver.execute_cdp_cmd("Network.enable", {})
    nothing = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", nothing)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    return write_study(tmp_path_factory.mktemp("study")).as_uri()


@pytest.fixture
def browser(chrome, address) -> Chrome:
    """Return the browser with the page as it opens, all charts drawn."""
    chrome.get(address)
    chrome.execute_async_script(DRAWN)
    return chrome


def choose(browser: Chrome, name: str, value: str) -> None:
    Select(browser.find_element(By.NAME, name)).select_by_value(value)
    browser.execute_async_script(
        "const done = arguments[0]; views[0].then((view) => view.runAsync()).then(() => done());"
    )


def marks(browser: Chrome) -> list[str]:
    """Return where the marks of the chart of all files are."""
    drawn = browser.find_elements(By.CSS_SELECTOR, "#chart-trade_off g.files_marks path")
    return [mark.get_attribute("transform") for mark in drawn]


def names(browser: Chrome) -> list[str]:
    """Return the files of the rows that are shown, in their order."""
    cells = browser.find_elements(By.CSS_SELECTOR, "#all tbody tr:not([hidden]) code")
    return [pathlib.Path(cell.text).stem for cell in cells]


def test_it_opens_without_a_message_and_without_the_network(browser):
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.title == "Elagage: the answer for digits"
    charts = browser.find_elements(By.CLASS_NAME, "chart")
    assert [chart.get_attribute("id") for chart in charts] == CHARTS
    assert all(chart.find_elements(By.CSS_SELECTOR, "svg path") for chart in charts)


def test_a_request_would_be_told_and_stopped(browser):
    """Or the test above could not fail."""
    browser.execute_script("new Image().src = 'https://example.org/'; fetch('https://example.org/').catch(() => 0)")
    messages = [entry["message"] for entry in browser.get_log("browser")]
    assert messages
    assert all("Content Security Policy" in message for message in messages)


def test_filters_change_the_marks_and_the_rows(browser):
    everything = ["dense-float32", "dense-static", "good", "unclear", "bad"]
    assert names(browser) == everything
    assert len(marks(browser)) == len(everything)
    choose(browser, "show_scope", "local")
    # Dense files are there for every scope.
    assert names(browser) == ["dense-float32", "dense-static", "unclear"]
    assert len(marks(browser)) == 3
    choose(browser, "show_mode", "static")
    assert names(browser) == ["dense-static"]
    assert len(marks(browser)) == 1
    choose(browser, "show_scope", "")
    choose(browser, "show_mode", "")
    assert len(marks(browser)) == len(everything)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize(
    ("cost", "title"),
    [("packed_size_bytes", "size of the packed file"), ("time_ms", "time per image"), ("rate", "rate")],
)
def test_another_cost_moves_the_marks_and_names_the_axis(browser, cost, title):
    labels = (By.CSS_SELECTOR, "#chart-trade_off .role-axis-label text")
    before = marks(browser), [label.text for label in browser.find_elements(*labels)]
    choose(browser, "cost", cost)
    after = marks(browser), [label.text for label in browser.find_elements(*labels)]
    assert len(after[0]) == len(before[0])
    assert after != before
    axis = browser.find_element(By.CSS_SELECTOR, "#chart-trade_off .role-title-text").text
    assert axis.startswith(title)


def test_the_table_sorts_by_keyboard(browser):
    size = browser.find_elements(By.CSS_SELECTOR, "#all thead button")[3]
    size.send_keys(Keys.ENTER)
    assert names(browser) == ["bad", "unclear", "good", "dense-static", "dense-float32"]
    heading = browser.find_elements(By.CSS_SELECTOR, "#all thead th")[3]
    assert heading.get_attribute("aria-sort") == "ascending"
    size.send_keys(Keys.SPACE)
    assert names(browser) == ["dense-float32", "dense-static", "good", "unclear", "bad"]
    assert heading.get_attribute("aria-sort") == "descending"


def test_the_table_is_searched(browser):
    browser.find_element(By.ID, "search").send_keys("certified FILE")
    assert names(browser) == ["good"]
    assert browser.find_element(By.ID, "count").text == "1 of 5 files"


def test_a_mark_tells_its_file(browser):
    mark = browser.find_elements(By.CSS_SELECTOR, "#chart-trade_off g.files_marks path")[-1]
    assert "bad.onnx" in mark.get_attribute("aria-label")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_but_tables_is_wider_than_the_screen(browser, width):
    screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        browser.get(browser.current_url)
        browser.execute_async_script(DRAWN)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
