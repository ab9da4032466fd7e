"""The web page as visitors use it: through its own client, and in a real browser where one is installed."""

import json
import re
import shlex
import shutil
import socket
import time
import warnings
import zipfile
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from launch import start
from PIL import Image

from callbacks.film import Film
from rvos_lightning.run.demo import main, view, what_to_run
from rvos_lightning.run.demo.work import Wish

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FRAMES = 24


def without(what, remedy):
    """Skip, and say so where everybody sees it: among the warnings at the end of the run."""
    warnings.warn(f"THE PAGE IS NOT TESTED: no {what}; {remedy}", stacklevel=2)
    pytest.skip(f"no {what}")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A film in which a bright square moves, and a picture of it."""
    folder = tmp_path_factory.mktemp("films")
    film = Film(folder / "square.mp4", (64, 96), 12)
    for number in range(FRAMES):
        picture = torch.full((3, 64, 96), 40, dtype=torch.uint8)
        picture[0, 20:44, 10 + 2 * number : 34 + 2 * number] = 230
        film.add(picture)
    film.close()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / "still.png")
    return folder


@pytest.fixture(scope="module")
def gradio():
    """The library, or a loud skip."""
    if find_spec("gradio") is None:
        without("gradio", "pip install '.[demo]'")


@pytest.fixture(scope="module")
def served(gradio, films, tmp_path_factory):
    """`served("tiny", ...)`: the address of a page with an untrained small system, ended after the module."""
    pages, left = {}, tmp_path_factory.mktemp("left")

    def page(system, *more):
        if (system, *more) not in pages:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            words = ["-c", f"configs/{system}.yaml", "--untrained", "--films", films, "--port", port, *more]
            process = start("demo", *words, TMPDIR=str(left))
            pages[(system, *more)] = process, wait_for(process)
        return pages[(system, *more)][1]

    yield page
    for process, _ in pages.values():
        process.terminate()  # all, before waiting for any: each closes its connections for some seconds
    for process, _ in pages.values():
        process.communicate(timeout=120)
    assert not list(left.glob("rvos_demo_*"))  # nothing of any visitor


def wait_for(process):
    printed = []
    for line in process.stdout:
        printed.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):  # loopback, as nobody asked for more
            return found[0]
    raise AssertionError("".join(printed))


def client_of(address):
    from gradio_client import Client

    return Client(address, verbose=False)


def test_words_give_what_predict_gives(served, films, run, tmp_path):
    client = client_of(served("tiny"))
    slider, frame, told = client.predict(str(films / "square.mp4"), api_name="/choose")
    assert slider["maximum"] == FRAMES - 1 and Image.open(frame).size == (96, 64)
    job = client.submit("the red square\nthe blue circle", 0, api_name="/segment")
    status, film, still, sheet, archive, command, *_ = job.result(timeout=120)
    assert status == f"Done: {FRAMES} frames." and command.startswith("rvos predict -c configs/tiny.yaml")
    steps = [update[0] for update in job.outputs()]
    assert any(re.match(r"8 of 24 frames", step) for step in steps if isinstance(step, str)), steps
    words = shlex.split(command)[1:]
    run(*words)
    with zipfile.ZipFile(archive["value"] if isinstance(archive, dict) else archive) as opened:
        record = json.loads(opened.read("record.json"))
        masks = [name for name in opened.namelist() if name.startswith("masks/")]
        own = tmp_path / "run" / "predictions" / "square"
        assert len(masks) == FRAMES
        assert all(opened.read(name) == (own / name).read_bytes() for name in masks)
    assert [e["expression"] for e in record["expressions"]] == ["the red square", "the blue circle"]


def test_one_picture_and_refusals(served, films):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    client = client_of(served("tiny", "--frames", "20", "--megabytes", "1"))
    (films / "large.mp4").write_bytes(bytes(1_200_000))
    with pytest.raises(Exception, match="413|[Tt]oo [Ll]arge|exceeds"):
        client.predict([handle_file(str(films / "large.mp4"))], api_name="/upload")
    (films / "large.mp4").unlink()
    with pytest.raises(AppError, match="choose or upload"):
        client.predict("the red square", 0, api_name="/segment")
    with pytest.raises(AppError, match="24 frames; this page takes 20"):
        client.predict(str(films / "square.mp4"), api_name="/choose")
    client.predict(str(films / "still.png"), api_name="/choose")
    with pytest.raises(AppError, match="say what to look for"):
        client.predict(" \n", 0, api_name="/segment")
    status, film, still, *_ = client.predict("the red square", 0, api_name="/segment")
    assert status == "Done: 1 frames." and not film["visible"] and still["visible"]
    with pytest.raises(AppError):
        client.predict("/etc/passwd", api_name="/choose")


def test_visitors_wait_for_each_other_and_cancel_their_own(served, films):
    clients = [client_of(served("tiny")) for _ in range(2)]
    for client in clients:
        client.predict(str(films / "square.mp4"), api_name="/choose")
    jobs = [client.submit("the red square", 0, api_name="/segment") for client in clients]
    while not jobs[0].outputs():
        time.sleep(0.05)
    assert clients[0].predict(api_name="/cancel") in ("Cancelling ...", "Nothing is running.")
    ends = [job.result(timeout=120)[0] for job in jobs]
    assert ends[0] in ("Cancelled.", f"Done: {FRAMES} frames.") and ends[1] == f"Done: {FRAMES} frames."


def test_cancel_ends_the_work_after_the_frames_that_are_being_computed(films, tmp_path):
    """The work itself: it stops long before the film does, leaves nothing, and the next wish is granted."""
    from rvos_lightning.run.demo.work import Cancelled, Desk
    from rvos_lightning.run.model import load

    desk, wish = Desk(load("configs/tiny.yaml"), [], tmp_path, FRAMES), Wish(str(films / "square.mp4"), ("a square",))
    desk.module.window, cancel, seen = 2, Event(), []
    with pytest.raises(Cancelled):
        for said in desk.segment(wish, cancel):
            seen.append(said.frames)
            cancel.set()
    assert seen and seen[-1] <= FRAMES // 2 and not list(tmp_path.iterdir())
    assert [said.folder for said in desk.segment(wish, Event())][-1].name == "square"


def test_cancel_is_for_ones_own_work_alone(gradio, films, tmp_path):
    from rvos_lightning.run.demo.page import Page, new_session
    from rvos_lightning.run.demo.work import Cancelled, Progress

    class Desk:
        root, clicks, system, most_frames = tmp_path, False, ["--run", "x"], 99

        def segment(self, wish, cancel):
            yield Progress(8, FRAMES)
            if cancel.wait(30):
                raise Cancelled

    page = Page(Desk(), films, 60)
    work = page.segment({**new_session(), "source": str(films / "square.mp4")}, "a square", 0)
    (session, started, *_), (_, bar, *_) = next(work), next(work)
    assert "Starting" in started and "8 of 24 frames" in bar
    assert page.cancel(new_session()) == "Nothing is running."  # somebody else
    assert page.cancel(session) == "Cancelling ..."
    assert next(work)[1] == "Cancelled." and next(work, None) is None
    assert page.cancel(session) == "Nothing is running." and not page.jobs


def test_a_wish_is_taken_back_before_its_turn(gradio, films, tmp_path):
    from rvos_lightning.run.demo.page import Page, new_session

    class Desk:
        root, clicks, system, most_frames = tmp_path, False, ["--run", "x"], 99

    page = Page(Desk(), films, 60)
    session, said = page.ask({**new_session(), "source": str(films / "square.mp4")})
    assert "Waiting" in said and page.ask(session)[0] == session  # clicked twice
    assert page.cancel(session) == "Cancelling ..."
    assert [step[1] for step in page.segment(session, "a square", 0)] == ["Cancelled."] and not page.jobs
    session, _ = page.ask(new_session())
    page.forget(session)  # gone away
    assert not page.jobs


def test_pictures_of_one_name_are_named_and_films_of_one_name_kept_apart(served, films, tmp_path):
    client, other = client_of(served("tiny")), client_of(served("tiny"))
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    for name, colour in (("a", 90), ("b", 200)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (96, 64), (colour,) * 3).save(tmp_path / name / "0001.png")
    both = [handle_file(str(tmp_path / name / "0001.png")) for name in "ab"]
    with pytest.raises(AppError, match="2 pictures are called 0001.png"):
        client.predict(both, api_name="/upload")
    jobs = [who.submit([one], api_name="/upload") for who, one in zip((client, other), both, strict=True)]
    shown = [np.array(Image.open(job.result(timeout=60)[1])).mean() for job in jobs]
    assert abs(shown[0] - 90) < 3 and abs(shown[1] - 200) < 3


def test_what_visitors_leave_is_deleted(gradio, films, tmp_path):
    from rvos_lightning.run.demo.page import Page, new_session

    class Desk:
        root, clicks, system, most_frames = tmp_path, True, ["--run", "x"], 99

    page, session = Page(Desk(), films, 60), new_session()
    for name in ("result_1/predictions/a/masks", "result_2/predictions/a", "frames_1"):
        (tmp_path / name).mkdir(parents=True)
    page.forget({**session, "result": str(tmp_path / "result_1/predictions/a"), "own": str(tmp_path / "frames_1")})
    assert [path.name for path in tmp_path.iterdir()] == ["result_2"]  # another's
    (state,) = [block for block in page.blocks.blocks.values() if type(block).__name__ == "State"]
    assert state.time_to_live == 3600 and state.delete_callback == page.forget


def test_a_film_that_is_refused_costs_nothing_and_anew_leaves_nothing(gradio, films, tmp_path):
    import gradio as gr

    from rvos_lightning.run.demo.page import Page, new_session

    class Desk:
        root, clicks, system, most_frames = tmp_path, True, ["--run", "x"], 99

    page, result = Page(Desk(), films, 60), tmp_path / "result_1/predictions/a"
    (result / "masks").mkdir(parents=True)
    (result / "record.json").write_text("{}")
    session = {**new_session(), "source": str(films / "square.mp4"), "result": str(result)}
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    for given in (str(tmp_path / "broken.mp4"), [str(films / "square.mp4"), str(films / "still.png")]):
        with pytest.raises(gr.Error):
            page.take(session, given)
        assert page.look(session, 1).shape == (64, 96, 3)  # its masks are still there
        assert not list(tmp_path.glob("frames_*"))
    assert page.start_anew(session, 0)[0]["result"] is None and not (tmp_path / "result_1").exists()


def test_the_device_that_was_asked_for_is_kept():
    from rvos_lightning.run.demo.work import Desk, on

    assert on(torch.device("cuda:2")) == {"accelerator": "gpu", "devices": [2]}
    assert on(torch.device("cpu")) == {"accelerator": "cpu", "devices": 1}
    network = torch.nn.Linear(1, 1)
    network.to("meta")

    class Model:
        window = 1

        @property
        def device(self):
            return next(self.network.parameters()).device

    model = Model()
    model.network = network
    desk = Desk(model, [], Path("/nowhere"), 1)
    model.network = torch.nn.Linear(1, 1)  # as after a prediction
    assert desk.device.type == "meta"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium without a screen."""
    program = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if program is None or shutil.which("chromedriver") is None:
        without("browser", "apt-get install chromium chromium-driver")
    if find_spec("selenium") is None:
        without("selenium", "pip install '.[dev]'")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1300"):
        options.add_argument(word)
    options.binary_location, downloads = program, tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.downloads = downloads
    yield driver
    driver.quit()


class Visitor:
    """Somebody in front of the page."""

    def __init__(self, driver):
        self.driver = driver

    def find(self, css):
        from selenium.webdriver.common.by import By

        return self.until(lambda: next(iter(self.driver.find_elements(By.CSS_SELECTOR, css)), None))

    def until(self, look, seconds=60):
        end = time.monotonic() + seconds
        while not (found := look()):
            assert time.monotonic() < end, f"not within {seconds} s; the page says {self.find_text()}"
            time.sleep(0.1)
        return found

    def find_text(self):
        return self.driver.execute_script("return document.body.innerText")[:1500]

    def click_frame(self, x, y):
        """At a place of the picture, both 0 to 1; waits until the page has taken note."""
        from selenium.webdriver.common.action_chains import ActionChains

        image, before = self.find("#frame img"), self.pointed()
        # The picture keeps its shape inside its element.
        scale = min(image.size["width"] / 96, image.size["height"] / 64)
        at = round((x - 0.5) * 96 * scale), round((y - 0.5) * 64 * scale)
        ActionChains(self.driver).move_to_element_with_offset(image, *at).click().perform()
        self.until(lambda: self.pointed() != before)

    def pointed(self):
        return self.find("#pointed textarea").get_attribute("value")

    def status(self):
        return self.find("#status").text

    def upload(self, path):
        self.find("#upload input[type=file]").send_keys(str(path))
        self.until(lambda: self.find("#frame img").size["height"] > 50)

    def type(self, css, text):
        from selenium.webdriver.common.keys import Keys

        field = self.find(css)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text, Keys.TAB)


def test_click_correct_cancel_download(browser, served, films):
    browser.get(served("sam_i2v"))
    visitor = Visitor(browser)
    visitor.upload(films / "square.mp4")
    visitor.type("#object textarea, #object input", "square")
    visitor.click_frame(0.25, 0.5)
    x, y = map(float, re.search(r"square, frame 0: \+\(([\d.]+), ([\d.]+)\)", visitor.pointed()).groups())
    assert abs(x - 24) <= 1.5 and abs(y - 32) <= 1.5
    visitor.find("#segment").click()
    visitor.until(lambda: visitor.status().startswith("Done: 24 frames"))
    assert visitor.find("#film video").get_attribute("src").endswith("overlay.mp4")
    visitor.type("#position input[type=number]", "12")  # correct on a later frame, off the object
    time.sleep(0.5)
    visitor.find("#kind label:nth-of-type(2) input").click()
    visitor.click_frame(0.9, 0.1)
    assert re.search(r"square, frame 12: -\(", visitor.pointed())
    visitor.find("#segment").click()
    visitor.until(lambda: "frames/s" in visitor.status() or "Starting" in visitor.status())
    visitor.until(lambda: visitor.status().startswith("Done"))
    command = visitor.find("#command").text
    assert '"frame": 12' in command and '"labels": [0]' in command and "--data.path square.mp4" in command
    visitor.find("#zip").click()
    made = visitor.until(lambda: [path for path in browser.downloads.iterdir() if path.suffix == ".zip"])[0]
    with zipfile.ZipFile(made) as opened:
        assert len(opened.namelist()) == 25 and np.array(Image.open(opened.open("masks/00000.png"))).shape == (64, 96)
    visitor.find("#undo").click()
    visitor.until(lambda: "frame 12" not in visitor.pointed())
    visitor.find("#segment").click()
    visitor.find("#cancel").click()
    visitor.until(lambda: visitor.status().startswith(("Cancelled", "Done", "Nothing")))


def test_a_sentence_is_typed(browser, served, films):
    browser.get(served("tiny"))
    visitor = Visitor(browser)
    visitor.upload(films / "still.png")
    visitor.type("#sentences textarea", "the red square")
    visitor.find("#segment").click()
    visitor.until(lambda: visitor.status() == "Done: 1 frames.")
    assert visitor.find("#still img").size["height"] > 50


def test_clicks_boxes_and_undo():
    prompts, corner = view.pointed([], 0, " horse ", view.KINDS[0], None, [3.0, 4.0])
    prompts, corner = view.pointed(prompts, 0, "horse", view.KINDS[1], corner, [9.0, 9.0])
    assert prompts == [{"object": "horse", "frame": 0, "clicks": [[3.0, 4.0], [9.0, 9.0]], "labels": [1, 0]}]
    same, corner = view.pointed(prompts, 0, "rider", view.KINDS[2], corner, [50.0, 60.0])
    assert same == prompts and corner == [50.0, 60.0]
    boxed, corner = view.pointed(same, 0, "rider", view.KINDS[2], corner, [10.0, 20.0])
    assert boxed[1] == {"object": "rider", "frame": 0, "box": [10.0, 20.0, 50.0, 60.0]} and corner is None
    assert view.undone(boxed) == prompts
    assert view.undone(prompts)[0]["clicks"] == [[3.0, 4.0]] and view.undone(view.undone(prompts)) == []
    assert view.told(boxed).splitlines()[1] == "rider, frame 0: box 10, 20, 50, 60"


def test_the_command_line_takes_what_it_shows(run, capsys, films):
    prompts = ({"object": 'the "red" one\'s', "frame": 0, "clicks": [[1.5, 2.0]], "labels": [1]},)
    command = Wish(str(films / "square.mp4"), (), prompts).command(["-c", "configs/sam_i2v.yaml"], Path("/nowhere"))
    with pytest.raises(SystemExit) as stop:
        run(*shlex.split(command)[1:], "--print_config")
    assert stop.value.code in (0, None) and 'the "red" one' in capsys.readouterr().out.replace("''", "'")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--run", "nowhere"], "nowhere"),
        (["-c", "configs/data/mevis.yaml"], "no recipe"),
        (["-c", "configs/tiny.yaml", "--run", "x"], "not both"),
        (["film.mp4"], "what is 'film.mp4'"),
        (["--frames", "0"], "at least 1"),
        (["--port", "70000"], "1 to 65535"),
        (["--device", "gpu"], "cpu, cuda or cuda:N"),
        (["-c", "configs/tiny.yaml", "--untrained", "--films", "nowhere"], "no such folder"),
        (["-c", "configs/tiny.yaml"], "random weights"),
    ],
)
def test_refusals(gradio, words, said, capsys, monkeypatch, root):
    monkeypatch.chdir(root)
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_without_words_the_newest_run_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = Namespace(run=None, config=None, frames=1, megabytes=1, keep=1, port=None, device="cpu")
    with pytest.raises(ValueError, match="no run with weights"):
        what_to_run(options, [])
    for name in ("0", "1"):
        folder = tmp_path / "runs/tiny/fit" / name / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "last.ckpt").touch()
        time.sleep(0.02)
    assert what_to_run(options, []) == "runs/tiny/fit/1"
    pulled = tmp_path / "hub/me/shapes"
    pulled.mkdir(parents=True)
    for name in ("config.yaml", "model.safetensors"):
        (pulled / name).touch()
    options.run = Path("me/shapes")
    assert what_to_run(options, []) == "hub/me/shapes"
