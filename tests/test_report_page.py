"""The page of a study: its numbers are those of the tables, names stay text, and it needs no network."""

import base64
import csv
import decimal
import html.parser
import json
import pathlib
import re

import numpy
import pytest
from test_answer import IMAGES, LABELS, OUTPUTS, variant

from certify import certify
from elagage.data import Split
from elagage.errors import UserError
from elagage.files import write_json, write_refusal
from elagage.int8_harm import calibration_in_words, mixed_in_words
from elagage.sentences import objectives_by_file
from lost_images import lost_images
from order import order
from report_page import report_page
from summarize import summarize

EVIL = "<script>document.title = 'broken'</script>&amp;"
CLASSES = ["a", "b", EVIL, "d"]
ANSWER = {"maximum_accuracy_loss": 1.0, "confidence": 0.95, "objectives": ["file_size", "time"], "reference": None}
CONFIGURATION = {"dataset": {"name": "digits"}, "models": {"net": {"architecture": EVIL}}}
HISTORY = "epoch,train_accuracy,validation_accuracy,kept\n1,0.5,0.4,False\n2,0.75,0.7,True\n"
SENSITIVITY = "layer,rate,correct,dense_correct,images\n0,0.5,70,80,100\nlinear.weight,0.5,80,80,100\n"
CALIBRATION = {"method": "mse", "operators": "all", "float32": [], "images": 80}
CALIBRATION["divergence"] = {"all": {"minmax": 0.004, "mse": 0.002}, "weighted": {}}
MIXED = {"for_time": ["<b>.weight"], "for_accuracy": [f"conv{number}.weight" for number in range(5)]}
SENSITIVITY_INT8 = (
    "layer,kind,images,alone_divergence,alone_changed,without_divergence,without_changed,all_divergence,all_changed\n"
    "conv<b>.weight,Conv 3x3,80,0.003,2,0.001,0,0.004,3\nadd,Add,80,0.001,1,0.0035,3,0.004,3\n"
    "mul,Mul,80,0,0,,,0.004,3\n"
)
DENSE = {"rate": 0.0, "scope": "", "recovery": ""}
VOID = {"meta", "link", "input", "wbr", "br", "img"}


IN_OPENVINO = {
    "versions": {"openvino": f"2026.4{EVIL}"},
    **{"test_images": IMAGES, "correct": IMAGES // 2, "different": 3, "machine_busy": 0.0},
    **{name: {"wall_ns": [[time] * 4] * 5} for name, time in (("dense", 9e6), ("variant", 4e6), ("onnxruntime", 6e6))},
}


def write_study(folder: pathlib.Path, answer: dict = ANSWER) -> pathlib.Path:
    """Write the tables of a study, and its page: a dense network, pruned ones of two scopes, and a refused one."""
    files = [
        variant(folder, "dense-float32", 90, 8000, 1.0, **DENSE),
        variant(folder, "dense-static", 93, 2500, 1.5, **DENSE, mode="static"),
        variant(folder, "good", 92, 2000, 2.0),
        variant(folder, "unclear", 105, 1800, 2.2, scope="local"),
        variant(folder, "bad", 300, 1000, 4.0, rate=0.9),
        variant(folder, "refused", 0, 1, 9.0, scope="channel"),
    ]
    for row in files:
        row["openvino"] = str(folder / f"{row['mode']}-{row['rate']}-{row['scope']}.openvino.json")
        write_json(row["openvino"], IN_OPENVINO)
    write_refusal(files[1]["openvino"], f"OpenVINO cannot run {EVIL}")
    for kind in ("accuracy", "size", "latency", "openvino", "predictions", "validation_predictions"):
        write_refusal(files[-1][kind], f"no channels of {EVIL}")
    outputs = {name: str(folder / file) for name, file in OUTPUTS.items()}
    order(files, LABELS, IMAGES, answer, [], outputs["order"])
    certify(outputs["order"], files, files, LABELS, CLASSES, answer, outputs)
    images = numpy.zeros((IMAGES, 1, 4, 4), numpy.uint8)
    names = [f"{number}{EVIL}.png" for number in range(IMAGES)]
    lost_images(files, outputs["json"], Split(images, LABELS), CLASSES, names, str(folder / "lost_images.json"))
    nanoseconds = {"wall_ns": [[8e6] * 4] * 5}
    dense = {"wall_ns": [[4e6] * 4, [5e6] * 4] * 2 + [[4e6] * 4]}
    write_json(folder / "eager.json", {"eager": nanoseconds, "dense": dense, "machine_busy": 0.0})
    named = ("model", "seed", "scope", "rate", "recovery", "mode", "file", "accuracy", "size", "latency", "openvino")
    rows = [{name: row[name] for name in named} for row in files]
    # As the plan has them: at rate 0 each scope has the dense files.
    scopes = [[row | {"scope": scope, "recovery": "none"} for row in rows[:2]] for scope in ("global", "local")]
    rows = [*scopes[0], *rows[2:], *scopes[1]]
    summarize(
        rows,
        {"net/seed0": str(folder / "eager.json")},
        *(outputs["losses"], str(folder / "summary.csv"), str(folder / "summary.md")),
    )
    model = folder / "net/seed0"
    model.mkdir(parents=True)
    (model / "history.csv").write_text(HISTORY)
    (model / "sensitivity.csv").write_text(SENSITIVITY)
    (model / "sensitivity_int8.csv").write_text(SENSITIVITY_INT8)
    write_json(folder / "models/net/seed0/calibration.json", CALIBRATION)
    write_json(folder / "models/net/seed0/mixed.json", MIXED)
    return write_page(folder)


def write_page(
    folder: pathlib.Path, elsewhere: pathlib.Path | None = None, summary: pathlib.Path | None = None
) -> pathlib.Path:
    model = folder / "net/seed0"
    report_page(
        summary or folder / "summary.csv",
        folder / "answer.json",
        histories=[model / "history.csv"],
        sensitivities=[model / "sensitivity.csv"],
        int8_sensitivities=[model / "sensitivity_int8.csv"],
        choices=[folder / "models/net/seed0" / name for name in ("calibration.json", "mixed.json")],
        lost_images=folder / "lost_images.json",
        elsewhere=elsewhere,
        configuration=CONFIGURATION,
        output=folder / "report.html",
    )
    return folder / "report.html"


class Page(html.parser.HTMLParser):
    """The elements of a page, each as its tag, attributes and text, and the texts outside of marked elements."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.open, self.elements, self.plain = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, text):
        for element in self.open:
            element["text"] += text
        named = any(element["tag"] in ("code", "style", "script", "option", "title") for element in self.open)
        if not named and not any(element.get("class") == "name" or "data-source" in element for element in self.open):
            self.plain.append(text)

    def all(self, tag: str, **attributes: str) -> list[dict]:
        return [
            element
            for element in self.elements
            if element["tag"] == tag and all(element.get(name) == value for name, value in attributes.items())
        ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Return a folder with a study and its page."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return Page(folder / "report.html")


@pytest.fixture(scope="module")
def rows(folder) -> list[list[str]]:
    with open(folder / "summary.csv", newline="") as file:
        return list(csv.reader(file))


def at(place: str, rows: list[list[str]], folder: pathlib.Path) -> str:
    """Return what stands at a place: summary.csv#cell=row,column or answer.json#/key/..., as the text of the file."""
    file, _, fragment = place.partition("#")
    if file == "summary.csv":
        row, column = map(int, fragment.removeprefix("cell=").split(","))
        return rows[row - 1][column - 1]
    value = json.loads((folder / file.removeprefix("answer/")).read_text())
    for key in fragment.split("/")[1:]:
        value = value[int(key) if isinstance(value, list) else key]
    return value if isinstance(value, str) else json.dumps(value)


def test_every_number_equals_that_of_its_table(page, rows, folder):
    numbers = page.all("data")
    assert {number["data-source"].partition("#")[0] for number in numbers} == {
        "summary.csv",
        "answer.json",
        "answer/lost_images.json",
    }
    for number in numbers:
        assert number["value"] == at(number["data-source"], rows, folder), number
        text = decimal.Decimal(number["text"].rstrip("%").replace(",", ""))
        unit = 10.0 ** text.as_tuple().exponent  # of the last digit
        scales = (100,) if number["text"].endswith("%") else (1, 100, 0.001)
        assert any(abs(scale * float(number["value"]) - float(text)) < 0.51 * unit for scale in scales), number


def test_no_number_stands_outside_of_an_element_that_says_where_it_is_from(page):
    # Not those in names, such as float32.
    assert not re.findall(r"[^.]*(?<![A-Za-z\d])\d[^.]*", " ".join(page.plain))


def test_the_sentences_are_those_of_the_answer(page, rows, folder):
    sentences = page.all("p", **{"class": "sentence"})
    assert len(sentences) == len(json.loads((folder / "answer.json").read_text())["sentences"])
    for sentence in sentences:
        assert sentence["text"] == at(sentence["data-source"], rows, folder)
    # Each beside the ratios of its objectives, and its program.
    answer = json.loads((folder / "answer.json").read_text())
    for card, sentence, objectives in zip(
        page.all("article"), answer["sentences"], objectives_by_file(answer), strict=True
    ):
        assert sentence in card["text"]
        assert card["text"].count(" times ") - sentence.count(" times ") == len(objectives)
        assert f"results/best/{objectives[0]}/predict.py" in card["text"]
    text = " ".join(element["text"] for element in page.all("section", id="answer"))
    assert "4.00 times smaller" in text
    assert "predict.py photo.jpg" in text


def test_the_story_is_told_in_sentences_of_the_answer(page, rows, folder):
    told = [span for span in page.all("span") if span.get("data-source", "").endswith("/sentence")]
    assert {span["data-source"].split("/")[1] for span in told} == {"knees", "scopes"}
    for span in told:
        assert span["text"] == at(span["data-source"], rows, folder)


def test_images_that_are_lost_are_shown_with_their_names(page, folder):
    lost = json.loads((folder / "lost_images.json").read_text())["images"]
    figures = page.all("figure")
    assert len(figures) == len(lost) > 0
    assert all(image["file"] in figure["text"] for image, figure in zip(lost, figures, strict=True))
    sources = [image["src"].removeprefix("data:image/png;base64,") for image in page.all("img")]
    assert sources == [image["thumbnail"] for image in lost]


def test_marks_of_the_chart_are_the_files_of_the_table_and_of_the_summary(page, rows):
    [marks] = (json.loads(element["text"]) for element in page.all("script", id="marks"))
    by_file = {row[rows[0].index("file")]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
    measured = {file for file, row in by_file.items() if not row["refused"]}
    assert [mark["file"] for mark in marks] == list(dict.fromkeys(file for file in by_file if file in measured))
    for mark in marks:
        row = by_file[mark["file"]]
        assert {name: value for name, value in mark.items() if isinstance(value, float)} == {
            name: float(row[name]) for name, value in mark.items() if isinstance(value, float)
        }
        assert mark["verdict"] == row["verdict"]
    assert sum("data-scope" in row for row in page.all("tr")) == len(measured)


def test_a_dense_file_is_one_row_that_belongs_to_every_scope(page, rows):
    assert sum(row[rows[0].index("rate")] == "0.0" for row in rows[1:]) == 4
    dense = [row for row in page.all("tr") if row.get("data-scope") == ""]
    assert ["dense-float32" in dense[0]["text"], "dense-static" in dense[1]["text"]] == [True, True]
    assert len(dense) == 2


def test_certified_files_and_the_answers_are_marked(page, folder):
    answer = json.loads((folder / "answer.json").read_text())
    passed = {row["file"] for row in answer["sequence"] if row["passed"]}
    marked = {row["text"].split()[0] for row in page.all("tr") if "certified" in row["text"] and "data-scope" in row}
    assert marked == passed != set()


def test_refused_rows_are_listed_with_their_reason_and_nowhere_else(page):
    section = page.all("section", id="table")[0]["text"]
    assert f"net: channel pruning at 0.5; none; float32; seed 0. no channels of {EVIL}" in section
    assert not any("refused.onnx" in row["text"] for row in page.all("tr"))


def test_names_are_text_whatever_they_contain(page):
    # The library and the behaviour.
    assert len([element for element in page.all("script") if element.get("type") != "application/json"]) == 2
    assert EVIL in page.all("section", id="hidden")[0]["text"]
    assert "document.title" in page.all("section", id="measured")[0]["text"]
    assert not page.open


def test_nothing_is_fetched_and_the_page_is_small(page, folder):
    for element in page.elements:
        for name in ("src", "href"):
            assert element.get(name, "data:").startswith("data:"), element
    [policy] = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none';")
    assert (folder / "report.html").stat().st_size < 1.5e6


def test_the_whole_summary_can_be_downloaded(page, folder):
    [link] = page.all("a", download="summary.csv")
    assert base64.b64decode(link["href"].partition("base64,")[2]) == (folder / "summary.csv").read_bytes()


def test_the_table_of_all_files_has_eight_columns(page):
    rows = [row["text"] for row in page.all("tr") if "data-scope" in row]
    assert rows
    assert len(page.all("th", **{"aria-sort": "none"})) == 8


def test_the_same_study_gives_the_same_page(folder, tmp_path):
    before = (folder / "report.html").read_bytes()
    assert write_page(folder).read_bytes() == before


def test_without_a_certified_file_and_without_histories_the_page_says_so(tmp_path):
    write_study(tmp_path, ANSWER | {"maximum_accuracy_loss": 0.01})
    for name in ("history.csv", "sensitivity.csv", "sensitivity_int8.csv"):
        write_refusal(tmp_path / "net/seed0" / name, "not trained")
    page = Page(write_page(tmp_path))
    assert page.all("section", id="answer")[0]["text"].count("nothing cheaper is certified") == 1
    (doubt,) = page.all("p", **{"class": "doubt"})
    assert "no file can be certified" in doubt["text"]
    assert "How training went" not in page.all("section", id="story")[0]["text"]
    assert "Which layers int8 harms" not in page.all("section", id="story")[0]["text"]
    assert not {"spec-training", "spec-sensitivity_int8"} & {element.get("id") for element in page.elements}


@pytest.mark.parametrize("content", ['model,"', "", "model,seed\n"])
def test_a_damaged_summary_is_named(content, folder, tmp_path):
    (tmp_path / "summary.csv").write_text(content)
    with pytest.raises(UserError, match=r"summary\.csv: damaged"):
        write_page(folder, summary=tmp_path / "summary.csv")


def test_a_layer_may_be_called_as_a_number(page):
    [chart] = (json.loads(element["text"]) for element in page.all("script", id="spec-sensitivity"))
    rows = (
        [row for part in chart["datasets"].values() for row in part] if "datasets" in chart else chart["data"]["values"]
    )
    assert "0" in {row["layer"] for row in rows}


def test_the_layer_that_int8_harms_most_is_named(page):
    told = page.all("section", id="story")[0]["text"]
    assert "All in int8, 3 of 80 validation images are classified otherwise. conv<b> (Conv 3x3) harms most: 75%" in told
    assert "with only it in float32, the divergence is 1 instead of 4 thousandths of a nat." in told
    [chart] = (json.loads(element["text"]) for element in page.all("script", id="spec-sensitivity_int8"))
    rows = (
        [row for part in chart["datasets"].values() for row in part] if "datasets" in chart else chart["data"]["values"]
    )
    found = [(row["layer"], row["alone"], row["without"]) for row in rows]
    assert found == [("conv<b>.weight", 3, 1), ("add", 1, 3.5), ("mul", 0, None)]


def test_other_machines_are_shown_and_a_file_of_another_version_is_told(folder, tmp_path):
    row = {"table": "elsewhere/pi.csv", "machine": f"pi{EVIL}", "cpu": "Cortex-A76", "instruction_set": "asimd asimddp"}
    row |= {"onnxruntime": "1.32.0", "threads": "1", "file": "net/seed0/dense.onnx", "images": 300, "compared": 300}
    row |= {"different": 4, "time_ms": [1.5, 1.4, 1.6], "speedup": [2.0, 1.9, 2.1]}
    write_json(folder / "elsewhere.json", [row | {"current": True}, row | {"current": False}])
    before = (folder / "report.html").read_bytes()
    page = Page(write_page(folder, folder / "elsewhere.json"))
    (folder / "report.html").write_bytes(before)
    [section] = page.all("section", id="elsewhere")
    assert "4 of 300" in section["text"] and "1.500 [1.400, 1.600]" in section["text"]
    assert section["text"].count("not the file that the study has now") == 1
    assert not re.findall(r"[^.]*(?<![A-Za-z\d])\d[^.]*", " ".join(page.plain))
    assert 'id="elsewhere"' not in before.decode()


def test_the_page_tells_how_int8_was_calibrated_and_what_stays_float32(page):
    told = page.all("section", id="story")[0]["text"]
    assert "by mse, for all operators: on 80 validation images" in told
    assert "2 thousandths of a nat from float32; with minmax it would be 4." in told
    assert "conv0, conv1, conv2 and 2 more because validation images would lose too much; <b> because int8" in told


def test_what_disturbed_eager_pytorch_is_told_beside_its_time(page):
    [runtime] = page.all("p", **{"class": "runtime"})
    assert "Meanwhile other programs took 0% of the machine's CPU time" in runtime["text"]


def test_a_choice_that_changed_nothing_is_told_too():
    plain = CALIBRATION | {"method": "minmax", "divergence": {"all": {"minmax": 0.0004}, "weighted": {}}}
    assert calibration_in_words(plain).endswith("are 0.4 thousandths of a nat from float32.")
    better = {"operators": "all", "method": "mse", "divergence": {"weighted": {"minmax": 0.004}, "all": {"mse": 0.001}}}
    told = calibration_in_words(CALIBRATION | better)
    assert told.endswith("; with minmax for layers with weights and matrix products it would be 4.")
    refused = CALIBRATION | {"divergence": {"all": {}, "weighted": {}}}
    assert "the network rules int8 out" in calibration_in_words(refused)
    assert "leaves no layer in float32" in mixed_in_words({"for_time": [], "for_accuracy": []})
